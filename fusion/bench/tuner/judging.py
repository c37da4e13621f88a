"""Judging: the ways of open cascades, judged by the answers of single models that are already there."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusion.bench.arms.base import Contestant
from fusion.bench.arms.pipeline import PipelineArm, inputs_of
from fusion.bench.experiment import Experiment, Question
from fusion.bench.runner import Runner, Scored
from fusion.bench.tuner.candidates import OpenArm
from fusion.bench.tuner.racing import is_unknown
from fusion.bench.tuner.search import OpenCascade, as_extractor
from fusion.bench.tuner.space import Space, Way
from fusion.bench.tuner.tuned import ChosenWay, Scores, Searched
from fusion.client.client import Fusion
from fusion.core.bounded.patterns import PatternTimeoutError
from fusion.core.errors import FusionError, UsageError
from fusion.core.yaml import Place
from fusion.pipeline.spec import Pipeline
from fusion.stages.text.extract import Extracted, Extractor

if TYPE_CHECKING:  # numpy is loaded by a search
    from fusion.bench.tuner.chooser import Chosen
    from fusion.bench.tuner.ways import Answers

_MOSTLY: Final = 0.8
"""The share of a cascade's items that must be scored in the way in which it compares answers."""


class Found(NamedTuple):
    """The choice for an open arm: the way of each cascade, by its place in the pipeline, and the evidence.

    `ways` name the models as the author does, those of `chosen` by their arms. `behind` is the distance of the best
    model of the search to the best single model of all, a share.
    """

    open: OpenArm
    ways: dict[Place, Way]
    extracts: dict[Place, Any]
    chosen: "Chosen"
    behind: float
    clusters: dict[str, list[str]]

    @property
    def single(self) -> str | None:
        """The arm of the one model that answers everything, if the choice is one."""
        ways = set(self.chosen.ways.values())
        only = next(iter(ways))
        return only.last if len(ways) == 1 and not only.cheap else None

    @property
    def is_fit(self) -> bool:
        """False if no way reaches the wanted difference."""
        return self.chosen.rate is not None

    @property
    def difference(self) -> float:
        """The cross-validated difference to the best single model of all, a share."""
        return self.chosen.difference - self.behind

    def data(self) -> dict[str, Any]:
        """Return the data of the chosen pipeline."""
        return self.open.pipeline.chosen(self.ways, self.extracts)

    def searched(self, name: str) -> Searched:
        """Return the result, under the name of its finalist."""
        return Searched(
            name=name,
            ways={route: ChosenWay(cheap=way.cheap, last=way.last) for route, way in self.chosen.ways.items()},
            difference=self.difference,
            cost_ratio=self.chosen.cost_ratio,
            level=tuple(one.model for one in self.chosen.level),
            considered=self.chosen.considered,
            fit=self.is_fit,
        )

    def scores(self) -> Scores:
        """Return the scores and dollars of the held-out items."""
        return self._scores(self.chosen.scores, self.chosen.usd)

    def reference(self) -> Scores:
        """Return those of the best model of the search, on the same items."""
        scores, usd = ({route: one[part] for route, one in self.chosen.reference.items()} for part in (0, 1))
        return self._scores(scores, usd)

    def _scores(self, scores: Mapping[str, Any], usd: Mapping[str, Any]) -> Scores:
        return Scores(
            scores=tuple(float(one) for route in self.clusters for one in scores[route]),
            costs=tuple(float(one) for route in self.clusters for one in usd[route]),
            clusters=tuple(name for names in self.clusters.values() for name in names),
        )


class Judge:
    """Judges the ways of open arms by the answers in a runner, to items that every single model was asked."""

    def __init__(self, experiment: Experiment, runner: Runner, whole: Sequence[Question], fusion: Fusion) -> None:
        self._experiment = experiment
        self._runner = runner
        self._whole = whole
        self._fusion = fusion.using(kept=False)
        self._epochs = range(experiment.suite.epochs)

    def found(self, open_: OpenArm, asked: PipelineArm, *, at_least: float, best: str) -> Found:
        """Choose the ways of an arm; `asked` is its arm that names all models, `best` the best single model of all.

        Raises UsageError if its ways cannot be compared.
        """
        from fusion.bench.tuner.chooser import choose

        routed = self._routed(open_)
        used = [one for one in open_.pipeline.cascades if routed[one.place]]
        if not used:
            raise UsageError(f"{open_.home.source.file}: no item of dev goes to a cascade with a `search`")
        names = self._arms(open_, asked)
        extracts = {one.place: self._extract(one, routed[one.place]) for one in used}
        answers = {one.route: self._answers(one, names, routed[one.place], extracts[one.place]) for one in used}
        items = [question for one in used for question in routed[one.place]]
        behind = self._behind(best, answers, items)
        spaces = {one.route: _renamed(one.space, names) for one in used}
        clusters = {one.route: self._clusters(routed[one.place]) for one in used}
        seed = self._experiment.suite.seeds[0]
        chosen = choose(answers, spaces, clusters=clusters, at_least=at_least + behind, seed=seed)
        return Found(open_, _as_given(open_, names, chosen), _written(extracts), chosen, behind, clusters)

    def _arms(self, open_: OpenArm, asked: PipelineArm) -> dict[str, str]:
        """Return the arm that asks each model alone, by the author's name of the model."""
        if open_.voters:
            return {model: one.name for model, one in open_.voters.items()}
        singles = {one.record.models[0]: one.record.name for one in self._experiment.contestants if _is_single(one)}
        roles = {model: role for one in open_.pipeline.cascades for model, role in one.roles.items()}
        return {model: singles[asked.roles[role]] for model, role in roles.items()}

    def _routed(self, open_: OpenArm) -> dict[Place, list[Question]]:
        """Return the items of each cascade, by the engine's own decision."""
        cascades = open_.pipeline.cascades
        if len(cascades[0].place) == 2:
            return {cascades[0].place: list(self._whole)}
        routed: dict[Place, list[Question]] = {one.place: [] for one in cascades}
        decider = Pipeline.from_data(open_.pipeline.decider())
        for question in self._whole:
            prompt, inputs = inputs_of(decider, question.task)
            try:
                said = self._fusion.complete(prompt, pipeline=decider, inputs=inputs).text
            except FusionError:  # its answers fail in the same way
                continue
            number = said.rpartition(" ")[2]
            if number.isdecimal():
                routed[cascades[int(number)].place].append(question)
        return routed

    def _extract(self, one: OpenCascade, items: Sequence[Question]) -> Extractor:
        """Return the comparison of a cascade's answers: the author's, or that of the scorer of its items."""
        if one.extract is not None:
            return as_extractor(one.extract)
        scorers = self._experiment.scorers
        found = Counter(getattr(scorers.get(item.record.task_set), "extractor", Extractor()) for item in items)
        extractor, count = found.most_common(1)[0]
        if count < _MOSTLY * len(items):
            raise UsageError(
                f"{one.route}: its items are scored in {len(found)} ways, and it can compare answers in one; write "
                "`accept: {extract: …}`, or a route with a cascade for each task set"
            )
        return extractor

    def _answers(
        self, one: OpenCascade, names: Mapping[str, str], items: Sequence[Question], extract: Extractor
    ) -> "Answers":
        from fusion.bench.tuner.ways import Answers

        arms, done = [names[model] for model in one.space.models], self._runner.done
        rows = [[done[arm, item.task.id, epoch] for arm in arms] for item in items for epoch in self._epochs]
        scores = [[math.nan if is_unknown(one) else one.score.value for one in row] for row in rows]
        usd = [[float(one.response.cost or 0) for one in row] for row in rows]
        return Answers(arms, scores, usd, [_keys(row, extract) for row in rows])

    def _clusters(self, items: Sequence[Question]) -> list[str]:
        return [item.record.cluster or item.record.id for item in items for _ in self._epochs]

    def _behind(self, best: str, answers: Mapping[str, "Answers"], items: Sequence[Question]) -> float:
        """Return how much better the best single model of all is than the best of the search, on the same items."""
        done = self._runner.done
        right = sum(done[best, item.task.id, epoch].score.value for item in items for epoch in self._epochs)
        shared = set.intersection(*(set(own.models) for own in answers.values()))
        sums = [
            sum(float(own.scores[:, own.models.index(model)].sum()) for own in answers.values()) for model in shared
        ]
        return max(0.0, (right - max(sums, default=right)) / (len(items) * len(self._epochs)))


def _is_single(contestant: Contestant) -> bool:
    return contestant.record.kind == "model"


def _keys(row: Sequence[Scored], extract: Extractor) -> list[str | None]:
    """Return equal keys for the answers to one item that agree, as a cascade compares them; None without one."""
    groups = extract.groups([_found(one, extract) for one in row])
    return [None if group is None else str(group) for group in groups]


def _found(one: Scored, extract: Extractor) -> Extracted | None:
    if one.response.failure is not None:
        return None
    try:
        return extract.extract(one.response.text if one.response.data is None else one.response.data)
    except PatternTimeoutError:
        return None


def _renamed(space: Space, names: Mapping[str, str]) -> Space:
    renamed = {field: tuple(names[model] for model in getattr(space, field)) for field in ("models", "last")}
    return space.model_copy(update=renamed)


def _as_given(open_: OpenArm, names: Mapping[str, str], chosen: "Chosen") -> dict[Place, Way]:
    """Return the way of each cascade in the author's names; one that no item reached asks a model of another's."""
    last = next(iter(chosen.ways.values())).last
    ways = {}
    for one in open_.pipeline.cascades:
        own = {names[model]: model for model in one.space.models}
        way = chosen.ways.get(one.route, Way((), last))
        ways[one.place] = Way(tuple(own[arm] for arm in way.cheap), own.get(way.last, one.space.models[0]))
    return ways


def _written(extracts: Mapping[Place, Extractor]) -> dict[Place, Any]:
    """Return comparisons as a file has them."""
    return {place: one.model_dump(exclude_defaults=True, mode="json") for place, one in extracts.items()}
