"""Tuning: chooses the open values of a suite on its dev items, and confirms the choice once on its test items."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import Field

from fusion.bench.arms.base import Contestant, short_name
from fusion.bench.arms.pipeline import single_model
from fusion.bench.benchmark import CONCURRENCY, client_for, importing, keep_done, run
from fusion.bench.checkpoint import CANDIDATES, Checkpoint, open_checkpoint
from fusion.bench.experiment import prepare
from fusion.bench.ledger import budget_of
from fusion.bench.report.figures import Alone
from fusion.bench.report.frontier import known_points, pareto
from fusion.bench.report.gate import BEST_SINGLE, Gate
from fusion.bench.report.report import Report
from fusion.bench.report.results import ArmKind
from fusion.bench.report.statistics import Interval, Verdict, bootstrap_difference, verdict
from fusion.bench.report.summary import Single, alone_sentence, as_good, best_sentence, level_singles
from fusion.bench.runner import Runner, Watch
from fusion.bench.suite import Arm, Suite
from fusion.bench.tuner.candidates import Candidate, Candidates, candidates
from fusion.bench.tuner.racing import Dropped, Race
from fusion.client.client import Fusion
from fusion.core.budget import Amount
from fusion.core.config import Settings
from fusion.core.errors import BudgetError, UsageError
from fusion.core.types import Limits, Value
from fusion.prompts.library import Library

FRONTIER: Final = "frontier"
CONFIRMED: Final = "confirmed"
RESULT: Final = "tuned.json"
TUNED: Final = "tuned"
"""The name of the chosen arm on the test items."""
OUTSIDERS: Final = ("python", "outputs")
"""Kinds of arms that cannot be written as a pipeline."""


class Finalist(Value):
    """A candidate that was not dropped, measured on dev. `difference` is to the best single model on dev.

    `cost` is in dollars an item. `file` is its YAML file if it is on the frontier and runs as a pipeline.
    """

    name: str
    kind: ArmKind
    chosen: dict[str, Any] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    accuracy: float
    cost: float | None
    difference: Interval
    verdict: Verdict
    on_frontier: bool = False
    file: str | None = None


class Tuned(Value):
    """The result of a search. `named` is the cheapest finalist that is not worse than the best single model on dev.

    `stopped` is the reason for an early end; `spent` is the cost of the search in dollars.
    """

    suite: str
    items: int
    margin: float
    best_single: str
    named: str
    spent: Decimal
    shares: tuple[tuple[int, int], ...]
    """For each share, its number of items and of candidates."""
    finalists: tuple[Finalist, ...]
    dropped: tuple[Dropped, ...]
    left_out: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def frontier(self) -> tuple[Finalist, ...]:
        """The finalists that no other beats in both cost and accuracy, cheapest first."""
        return tuple(one for one in self.finalists if one.on_frontier)

    @property
    def level(self) -> tuple[str, ...]:
        """The single models at most half a point less accurate than the best one on dev, which comes first."""
        return level_singles(self._singles, self.best_single)

    @property
    def alone(self) -> Alone | None:
        """The cheapest single model that is as good as the best one on dev, if it is another."""
        return next(iter(as_good(self._singles, self.best_single, self.margin)), None)

    @property
    def summary(self) -> tuple[str, ...]:
        """Plain sentences on the single models: one that does it alone, and the best one."""
        alone = self.alone
        sentences = () if alone is None else (alone_sentence(alone, self.margin),)
        return (*sentences, best_sentence(self.level))

    @property
    def _singles(self) -> list[Single]:
        return [
            Single(one.name, one.accuracy, one.cost, None if one.name == self.best_single else one.difference)
            for one in self.finalists
            if one.kind == "model"
        ]

    @property
    def choice(self) -> Finalist:
        """The named finalist."""
        return next(one for one in self.finalists if one.name == self.named)


def tune(
    suite: Path | str,
    *,
    out: Path | str | None = None,
    budget: Limits | None = None,
    fusion: Fusion | None = None,
    settings: Settings | None = None,
    concurrency: int = CONCURRENCY,
    watch: Watch | None = None,
    command: str = "",
    learn: bool = True,
) -> tuple[Tuned, Report | None]:
    """Choose the open values of a suite's arms and their pipelines: `{any: [a, b]}` in place of any value.

    Arms without open values are candidates as they are. The search uses the dev side of the split only. It first
    measures every model alone. Then it races the others on shares of the items that double, and drops those that
    another beats, each by its own results. `budget` caps the search; by default the suite's budget caps search
    and confirmation together. Finally the choice, the best single model and the suite's baselines are measured on
    the test side. The Report is of that measurement: None if the best single model is the choice, or if no budget
    is left.

    Writes to `out`, by default `fusion-tune/` and the suite's name: `frontier/` with a file for each pipeline of the
    frontier, `tuned.json`, and the report under `confirmed/`. A repeated search asks nothing again.

    With `learn`, the figures of the single models are kept: see `fusion models learned`.

    Raises UsageError and PipelineError for an invalid suite, before any call; BudgetError if the budget is exhausted
    within the first share.

    >>> tuned, confirmed = fusion.bench.tune("suite.yaml")
    >>> tuned.choice.file
    """
    file = Path(suite)
    folder = Path("fusion-tune") / file.stem if out is None else Path(out)
    with open_checkpoint(folder) as checkpoint:
        found = candidates(file, folder / CANDIDATES, Library.standard(near=file.parent))
        with client_for(fusion, folder, settings) as client:
            work = _Work(file, folder, client, concurrency, watch, command, learn)
            search, spent, notes = work.search(found, budget, checkpoint)
            tuned = search.tuned(spent.usd or Decimal(0), (*found.left_out, *notes))
            (folder / RESULT).write_text(tuned.model_dump_json(indent=1) + "\n", encoding="utf-8")
            left = _rest(found.suite.budget, spent)
            if left is None or tuned.named == tuned.best_single:
                return tuned, None
            return tuned, work.confirm(found.suite.model_copy(update={"budget": left}), tuned, search)


class _Work(NamedTuple):
    """The folder, client and options of a search."""

    file: Path
    folder: Path
    fusion: Fusion
    concurrency: int
    watch: Watch | None
    command: str
    learn: bool

    def search(
        self, found: Candidates, budget: Limits | None, checkpoint: Checkpoint
    ) -> tuple["_Search", Amount, list[str]]:
        """Run the race over the dev items. Returns it with its cost and notes."""
        limits = budget or found.suite.budget
        update = {"on": "dev", "baselines": ("singles",), "budget": limits, "gate": None}
        suite = found.suite.model_copy(update=update)
        within, near = budget_of(suite.budget), self.file.parent
        with importing(near), closing(prepare(suite, near, self.fusion, within)) as experiment:
            if not any(one.record.kind == "model" for one in experiment.contestants):
                raise UsageError(
                    f"{self.file}: no single model to compare the candidates with; add one as an arm, as in "
                    "{model: provider/name}"
                )
            self._check_confirmable(found.suite)
            runner = Runner(experiment, checkpoint, concurrency=self.concurrency, watch=self.watch)
            race = Race(runner, experiment.contestants, items=len(experiment.questions), seed=suite.seeds[0])
            race.run()
            note = keep_done(self.fusion.settings, experiment, runner.done.values()) if self.learn else ""
        return _Search(suite, race, runner.stopped, found.made, self.folder), within.spent, [note] if note else []

    def _check_confirmable(self, suite: Suite) -> None:
        """Raise UsageError if a choice could not be confirmed: no test items, no answers to them, an unknown arm."""
        if suite.gate is not None:
            Gate(suite.gate).check([TUNED, BEST_SINGLE])
        arms = {name: arm for name, arm in suite.arms.items() if arm.outputs is not None}
        given = arms or dict([next(iter(suite.arms.items()))])
        confirming = suite.model_copy(update={"on": "test", "arms": given, "baselines": (), "gate": None})
        prepare(confirming, self.file.parent, self.fusion, budget_of(suite.budget)).close()

    def confirm(self, suite: Suite, tuned: Tuned, search: "_Search") -> Report:
        """Measure the choice, the best single model, a cheaper one as good, and the suite's baselines on test."""
        beside = {tuned.best_single}
        if tuned.alone is not None and tuned.alone.model != tuned.named:
            beside.add(tuned.alone.model)
        singles = {one.name: Arm(model=one.models[0]) for one in tuned.finalists if one.name in beside}
        arms = {TUNED: search.arm(tuned.choice), **singles}
        return run(
            suite.model_copy(update={"on": "test", "arms": arms}),
            out=self.folder / CONFIRMED,
            near=self.file.parent,
            fusion=self.fusion,
            concurrency=self.concurrency,
            watch=self.watch,
            command=self.command,
            learn=self.learn,
        )


class _Search:
    """A finished race, and its results."""

    def __init__(self, suite: Suite, race: Race, stopped: str, made: Mapping[str, Candidate], folder: Path) -> None:
        self._suite = suite
        self._race = race
        self._stopped = stopped
        self._made = made
        self._folder = folder
        self._scores = race.scores()
        if not self._scores or not next(iter(self._scores.values())).scores:
            raise BudgetError(f"the search was stopped before any item had all its answers: {stopped}")

    def arm(self, one: Finalist) -> Arm:
        """Return a finalist of the frontier as an arm of a suite."""
        given = self._made[one.name].arm if one.name in self._made else None
        if given is not None and one.kind in OUTSIDERS:
            return given
        chosen = str(Path(one.file or "").resolve())
        return Arm(pipeline=chosen, profile=None if given is None else given.profile)

    def tuned(self, spent: Decimal, left_out: Sequence[str]) -> Tuned:
        best = self._best_single()
        finalists = [self._finalist(one, best) for one in self._race.left]
        front = pareto(known_points((one.name, one.cost, one.accuracy) for one in finalists))
        files = dict(self._write([point.name for point in front], finalists))
        finalists = [
            one.model_copy(update={"on_frontier": one.name in files, "file": files.get(one.name)})
            for one in finalists
        ]
        finalists.sort(key=lambda one: (one.cost is None, one.cost or 0, -one.accuracy, one.name))
        # The frontier holds one of several equals, and the named finalist is on it.
        fit = [one for one in finalists if one.on_frontier and one.verdict in ("better", "not worse")]
        return Tuned(
            suite=self._suite.name,
            items=len(self._scores[best].scores),
            margin=self._suite.margin,
            best_single=best,
            named=fit[0].name if fit else best,
            spent=spent,
            shares=tuple(self._race.shares),
            finalists=tuple(finalists),
            dropped=tuple(self._race.dropped.values()),
            left_out=tuple(left_out),
            stopped=self._stopped,
        )

    def _best_single(self) -> str:
        singles = [one.record.name for one in self._race.left if one.record.kind == "model"]
        return min(singles, key=lambda name: (-self._scores[name].accuracy, self._scores[name].cost or 0, name))

    def _finalist(self, one: Contestant, best: str) -> Finalist:
        name = one.record.name
        own, other = self._scores[name], self._scores[best]
        options: Any = {"clusters": own.clusters, "resamples": self._suite.resamples, "seed": self._suite.seeds[0]}
        difference = bootstrap_difference(own.scores, other.scores, **options)
        chosen = self._made[name].choices if name in self._made else ()
        return Finalist(
            name=name,
            kind=one.record.kind,
            chosen={".".join(map(str, pick.open.place)): pick.open.values[pick.number] for pick in chosen},
            models=one.record.models,
            accuracy=own.accuracy,
            cost=own.cost,
            difference=difference,
            verdict="not worse" if name == best else verdict(difference, self._suite.margin),
        )

    def _write(self, names: Sequence[str], finalists: Sequence[Finalist]) -> Iterator[tuple[str, str | None]]:
        """Write the frontier as files, numbered from the cheapest, beside their templates.

        Yields names and files, None for an arm that is not a pipeline.
        """
        folder = self._folder / FRONTIER
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.yaml"):
            old.unlink()
        by_name = {one.name: one for one in finalists}
        for number, name in enumerate(names, start=1):
            one, path = by_name[name], None
            if one.kind not in OUTSIDERS:
                path = folder / f"{number:02}-{short_name(name).replace('/', '-')}.yaml"
                path.write_text(_head(one, len(self._scores[name].scores)) + self._text(one), encoding="utf-8")
            yield name, None if path is None else str(path)
        source = self._folder / CANDIDATES
        for templates in [path for path in source.iterdir() if path.is_dir()] if source.is_dir() else []:
            shutil.copytree(templates, folder / templates.name, dirs_exist_ok=True)

    def _text(self, one: Finalist) -> str:
        made = self._made.get(one.name)
        if made is not None and made.arm.pipeline is not None:
            return Path(made.arm.pipeline).read_text(encoding="utf-8")
        return single_model(short_name(one.name), one.models[0], (), self._suite.max_tokens).to_yaml()


def _head(one: Finalist, items: int) -> str:
    """Return the measurements of a finalist as YAML comments."""
    cost = "unknown" if one.cost is None else f"${one.cost:.6f}"
    low, high = 100 * one.difference.low, 100 * one.difference.high
    lines = [
        f"On {items:,} dev items: {100 * one.accuracy:.1f}% right, {cost} an item;",
        f"{100 * one.difference.estimate:+.2f} points to the best single model, 95% {low:+.2f} to {high:+.2f}.",
        *(f"{place}: {value}" for place, value in one.chosen.items()),
    ]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _rest(limits: Limits, spent: Amount) -> Limits | None:
    """Return the rest of the suite's budget; None if it is exhausted."""
    names = [name for name in ("usd", "tokens", "calls") if getattr(limits, name) is not None]
    left = {name: getattr(limits, name) - (getattr(spent, name) or 0) for name in names}
    return Limits(seconds=limits.seconds, **left) if all(amount > 0 for amount in left.values()) else None
