"""Prepared: a suite with its items, scorers and contestants, checked before the first call is paid for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from fusion.bench.arms.base import ANSWER, Answered, Contestant, digest_of, short_name
from fusion.bench.arms.external import FromFile, FromFunction
from fusion.bench.arms.pipeline import Runs, only_one_model
from fusion.bench.arms.pipeline import given as given_of
from fusion.bench.judge import Judge, check_families, comparing
from fusion.bench.report.gate import BEST_SINGLE, Gate
from fusion.bench.report.results import ArmRecord, ItemRecord
from fusion.bench.scorers.base import Answer, Scorer
from fusion.bench.scorers.registry import NAMES, scorer
from fusion.bench.suite import Arm, Scoring, Suite
from fusion.bench.tasks import Task, TaskSet, read_tasks, split_of
from fusion.client.client import Fusion, check_run, count_spend
from fusion.core.budget import Amount, Budget
from fusion.core.errors import PipelineError, UsageError
from fusion.core.result import Result
from fusion.core.types import as_text
from fusion.models.base import ModelInfo, Price
from fusion.models.providers.replay import PREFIX
from fusion.models.wrappers.cache import RecordedCache
from fusion.pipeline.loader import PipelineGiven
from fusion.pipeline.spec import Pipeline
from fusion.quote.preview import Preview
from fusion.store.rows import RunFilter

Kind = Literal["pipeline", "model", "baseline"]
Changed = Callable[[Pipeline], Pipeline]
Chosen = Callable[[Task, Result], tuple[str, Any]]

_MILLION: Final = 1_000_000
_SIMULATED: Final = "simulated: the suite says so"


class Question(NamedTuple):
    """One item: its task, which holds no gold answer, and its place in the report."""

    task: Task
    record: ItemRecord


@dataclass
class Prepared:
    """All that is needed to run a suite. `gold` is by item, `scorers` by task set."""

    suite: Suite
    questions: tuple[Question, ...]
    gold: Mapping[str, Any] = field(repr=False)
    scorers: Mapping[str, Scorer]
    judges: Mapping[str, Judge]
    contestants: list[Contestant]
    entrants: "Entrants"
    within: Budget
    hashes: dict[str, str]
    licences: dict[str, str]
    notes: list[str]

    @property
    def models(self) -> dict[str, ModelInfo]:
        """Every model that may be called."""
        return _models(self.contestants)

    def count(self, answers: Iterable[Answered], more: Iterable[Amount] = ()) -> None:
        """Count what answers drew on the budget, and more. Recorded calls among it are known from then on."""
        amounts = list(more)
        for one in answers:
            self.entrants.recorded.know(one.counted)
            amounts.append(one.amount)
        if amounts:
            count_spend(self.entrants.fusion, self.within, _sum(amounts))

    def ledger(self) -> dict[str, dict[str, Amount]]:
        """What every run of earlier starts has spent, by the mark of the answer that it was for and by its id.

        Of one that was killed, too: an attempt that was under way counts in full.
        """
        if self.entrants.fusion.keeps is None:
            return {}
        store, found = self.entrants.fusion.store, dict[str, dict[str, Amount]]()
        for row in store.runs(RunFilter()):
            if ANSWER in row.tags:
                spent = [Amount(one.usd, one.tokens, one.calls) for one in store.spending(row.run_id).values()]
                found.setdefault(row.tags[ANSWER], {})[row.run_id] = _sum(spent)
        return found

    def close(self) -> None:
        for one in self.scorers.values():
            one.close()


def _sum(amounts: Iterable[Amount]) -> Amount:
    """All of them; what has no known price is in tokens and calls only."""
    usd, tokens, calls = Decimal(0), 0, 0
    for one in amounts:
        usd += one.usd or 0
        tokens += one.tokens
        calls += one.calls
    return Amount(usd, tokens, calls)


def _models(contestants: Iterable[Contestant]) -> dict[str, ModelInfo]:
    return {name: info for one in contestants if isinstance(one, Runs) for name, info in one.models.items()}


def prepared(suite: Suite, near: Path, fusion: Fusion, within: Budget) -> Prepared:
    """Read what a suite names. Raises UsageError for all that would only come out once money is spent."""
    sets = {name: _task_set(name, suite, near) for name in suite.tasks}
    questions = tuple(_questions(sets, suite))
    if not questions:
        raise UsageError(f"no item of {suite.name!r} is on the side {suite.on!r} of the split; set `on: all`")
    gold = dict(_gold(sets))
    scorers = {name: _scorer(name, suite.scoring(name)) for name in sets if not suite.scoring(name).judged}
    for name in scorers:
        _try(name, suite.scoring(name), scorers[name], [gold[q.task.id] for q in _of(questions, name)])
    entrants = Entrants(suite, near, fusion, within, questions)
    contestants = [entrants.contestant(name, arm) for name, arm in suite.arms.items()]
    notes: list[str] = []
    if "singles" in suite.baselines:
        contestants += entrants.singles(contestants)
    if suite.gate is not None:
        singles = [BEST_SINGLE] if any(one.record.kind == "model" for one in contestants) else []
        Gate(suite.gate).check([*(one.record.name for one in contestants), *singles])
    judges = {name: entrants.judge(name, suite.scoring(name)) for name in sets if name not in scorers}
    models = _models(contestants)
    for name, one in judges.items():
        families = {model: info.family for model, info in models.items()}
        families |= {each.record.name: None for each in contestants if not isinstance(each, Runs)}
        notes += check_families(f"the judge of {name}", one.contestant.models.values(), families)
    dropped = [name for name in Suite.model_fields["baselines"].default if name not in suite.baselines]
    if dropped:
        notes.append(f"The suite leaves out baselines: {', '.join(dropped)}.")
    return Prepared(
        suite=suite,
        questions=questions,
        gold=gold,
        scorers=scorers,
        judges=judges,
        contestants=contestants,
        entrants=entrants,
        within=within,
        hashes={f"the task set {name}": one.sha256 for name, one in sets.items()},
        licences={name: source.licence for name, source in suite.tasks.items() if source.licence},
        notes=[*notes, *(note for one in sets.values() for note in one.notes)],
    )


# Items.


def _task_set(name: str, suite: Suite, near: Path) -> TaskSet:
    source = suite.tasks[name]
    whole = read_tasks(near / source.file, source, name=name)
    side = whole.only(suite.on, dev_share=suite.split.dev, seed=suite.split.seed)
    return side if source.sample is None else side.sample(source.sample, seed=suite.split.seed)


def _questions(sets: Mapping[str, TaskSet], suite: Suite) -> Iterator[Question]:
    for name, one in sets.items():
        for task in one.tasks:
            side = split_of(task, dev_share=suite.split.dev, seed=suite.split.seed)
            known = _name(sets, name, task.id)
            cluster = None if task.cluster is None else _name(sets, name, task.cluster)
            yield Question(
                task.model_copy(update={"id": known}),
                ItemRecord(id=known, task_set=name, cluster=cluster, side=side, prompt=task.prompt),
            )


def _name(sets: Mapping[str, TaskSet], task_set: str, name: str) -> str:
    """A name that no other task set has."""
    return name if len(sets) == 1 else f"{task_set}/{name}"


def _gold(sets: Mapping[str, TaskSet]) -> Iterator[tuple[str, Any]]:
    for name, one in sets.items():
        for item, gold in one.gold.items():
            yield _name(sets, name, item), gold


def _of(questions: Iterable[Question], task_set: str) -> list[Question]:
    return [one for one in questions if one.record.task_set == task_set]


# Scorers.


def _scorer(name: str, scoring: Scoring) -> Scorer:
    try:
        return scorer(scoring.by, path=scoring.path, pattern=scoring.pattern)
    except UsageError as error:
        raise UsageError(f"the task set {name!r}: {error}") from error


def _try(name: str, scoring: Scoring, tried: Scorer, golds: list[Any]) -> None:
    """Score something that is no model's answer, so that a scorer or gold answer that is broken comes out now."""
    built_in = scoring.by in NAMES
    for gold in golds if built_in else golds[:1]:
        try:
            tried.score(Answer(text="" if built_in else as_text(gold)), gold)
        except UsageError as error:
            raise UsageError(f"the task set {name!r}, before any call: {error}") from error


# Arms.


class Entrants:
    """Makes contestants: reads their files, finds their models, and refuses what could not answer."""

    def __init__(
        self, suite: Suite, near: Path, fusion: Fusion, within: Budget, questions: tuple[Question, ...]
    ) -> None:
        self._suite = suite
        self._near = near
        self.fusion = fusion
        self._within = within
        self.recorded = RecordedCache()
        self._firsts = list({one.record.task_set: one.task for one in reversed(questions)}.values())
        self._ids = frozenset(one.task.id for one in questions)
        self._prices = {
            self._beside(name): Price(input=tariff.input / _MILLION, output=tariff.output / _MILLION)
            for name, tariff in suite.prices.items()
        }

    def contestant(self, name: str, arm: Arm) -> Contestant:
        """The arm, ready."""
        try:
            if arm.python is not None:
                return FromFunction(name, arm.python)
            if arm.outputs is not None:
                return FromFile(name, self._near / arm.outputs, self._ids)
            if arm.model is not None:
                return self.single(name, arm.model)
            return self._pipeline(name, arm)
        except PipelineError:  # whose problems name the file
            raise
        except UsageError as error:
            raise type(error)(f"the arm {name!r}: {error}") from error

    def single(self, name: str, model: str) -> Runs:
        """One model alone, asked once."""
        return self._alone(name, "model", self._beside(model))

    def several(self, name: str, model: str, changed: Changed, chosen: Chosen) -> Runs:
        """A baseline that asks one model alone in another way."""
        return self._alone(name, "baseline", model, changed, chosen)

    def _alone(
        self, name: str, kind: Kind, model: str, changed: Changed = lambda one: one, chosen: Chosen | None = None
    ) -> Runs:
        made = {
            inputs: changed(only_one_model(name, model, inputs, self._suite.max_tokens))
            for inputs in {tuple(task.inputs) for task in self._firsts}
        }
        fusion = self.fusion.using(roles={})
        return self._runs(name, kind, lambda task: made[tuple(task.inputs)], fusion, chosen=chosen)

    def singles(self, contestants: Iterable[Contestant]) -> list[Contestant]:
        """Every model that a pipeline asks and that is no arm of its own yet."""
        pipelines = [one for one in contestants if isinstance(one, Runs)]
        alone = {model for one in pipelines if one.record.kind == "model" for model in one.record.models}
        asked = dict.fromkeys(model for one in pipelines for model in one.record.models if model not in alone)
        taken = {*self._suite.arms}
        return [self.single(_free(short_name(model), taken), model) for model in asked]

    def judge(self, task_set: str, scoring: Scoring) -> Judge:
        """The judge of a task set."""
        assert scoring.model is not None
        model = self._beside(scoring.model)
        name = f"the judge {short_name(model)}"
        pipeline = comparing(name, model)
        shown = Task(id="", prompt="a task", inputs=dict.fromkeys(("first", "second", "criteria"), "an answer"))
        fusion = self.fusion.using(roles={})
        try:
            made = self._runs(name, "model", lambda task: pipeline, fusion, firsts=[shown])
        except UsageError as error:
            raise UsageError(f"the judge of {task_set!r}: {error}") from error
        return Judge(made, scoring.criteria)

    def _pipeline(self, name: str, arm: Arm) -> Runs:
        assert arm.pipeline is not None
        beside = self._near / arm.pipeline
        pipeline = beside if beside.is_file() else arm.pipeline
        roles = {role: self._beside(model) for role, model in arm.roles.items()}
        fusion = self.fusion.using(profile=arm.profile, roles=roles)
        return self._runs(name, "pipeline", lambda task: pipeline, fusion)

    def _runs(
        self,
        name: str,
        kind: Kind,
        pipeline: Callable[[Task], PipelineGiven],
        fusion: Fusion,
        *,
        chosen: Chosen | None = None,
        firsts: list[Task] | None = None,
    ) -> Runs:
        firsts = firsts or self._firsts
        shown = [_previewed(fusion, pipeline(task), task) for task in firsts]
        models = {model: info for one in shown for model, info in one.models.items()}
        asked = {role: model for one in shown for role, model in one.roles.items()}
        self._check_priced(models)
        first = pipeline(firsts[0])
        files = [path for path in fusion.files(first) if path.is_file()]
        content = digest_of(
            sorted((path.name, path.read_bytes().hex()) for path in files), sorted(asked.items()), _written(first)
        )
        sources = {_SIMULATED if model in self._prices else models[model].price_source for model in asked.values()}
        record = ArmRecord(
            name=name,
            kind=kind,
            models=tuple(dict.fromkeys(asked.values())),
            price_source="; ".join(sorted(sources)),
            sha256=content if kind == "pipeline" else "",
        )
        return Runs(
            record,
            pipeline,
            fusion,
            models=models,
            strongest=self._strongest(asked, models),
            within=self._within,
            recorded=self.recorded,
            content=digest_of(content, self._suite.max_tokens, sorted(self._prices)),
            prices=self._prices,
            seeded=self._suite.epochs > 1,
            chosen=chosen,
        )

    def _strongest(self, asked: Mapping[str, str], models: Mapping[str, ModelInfo]) -> str | None:
        """The dearest model of several; of models that cost the same, the one behind the role `frontier`."""
        if len(set(asked.values())) < 2:
            return None
        costs = {}
        for model in asked.values():
            price = self._prices.get(model, models[model].price)
            costs[model] = None if price is None else price.input + price.output
        known = [cost for cost in costs.values() if cost is not None]
        if len(known) == len(costs) and known.count(max(known)) == 1:
            return max(costs, key=lambda model: costs[model] or 0)
        return asked.get("frontier")

    def _check_priced(self, models: Mapping[str, ModelInfo]) -> None:
        unpriced = [name for name, info in models.items() if info.price is None]
        if unpriced and self._suite.budget.usd is not None:
            raise UsageError(
                f"the price of {unpriced[0]!r} is not known, and the benchmark has a limit in dollars: declare it "
                "under `[prices]` in fusion.toml, or limit `tokens` or `calls`"
            )

    def _beside(self, model: str) -> str:
        """The model, whose recording may lie beside the suite."""
        place, sign, name = model.removeprefix(PREFIX).rpartition("#")
        if not (model.startswith(PREFIX) and sign and (self._near / place).exists()):
            return model
        return f"{PREFIX}{self._near / place}#{name}"


def _written(pipeline: PipelineGiven) -> str:
    """A pipeline that is no file."""
    return pipeline.model_dump_json(exclude={"name"}) if isinstance(pipeline, Pipeline) else ""


def _previewed(fusion: Fusion, pipeline: PipelineGiven, task: Task) -> Preview:
    prompt, inputs = given_of(fusion.load(pipeline), task)
    check_run(fusion, prompt, pipeline=pipeline, inputs=inputs)
    return fusion.preview(prompt, pipeline=pipeline, inputs=inputs)


def _free(name: str, taken: set[str]) -> str:
    """A name that no arm has yet; it is taken then."""
    while name in taken:
        name = f"{name} alone"
    taken.add(name)
    return name
