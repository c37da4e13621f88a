"""Tuning: what a suite leaves open is chosen on its dev items, and confirmed once on its test items."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import Field

from fusion.bench.arms.base import Contestant, short_name
from fusion.bench.arms.pipeline import only_one_model
from fusion.bench.benchmark import CONCURRENCY, asking, importing, run
from fusion.bench.checkpoint import CANDIDATES, Kept, kept_in
from fusion.bench.experiment import prepared
from fusion.bench.report.frontier import Point, pareto
from fusion.bench.report.gate import BEST_SINGLE, Gate
from fusion.bench.report.report import Report
from fusion.bench.report.results import ArmKind
from fusion.bench.report.statistics import Interval, Verdict, bootstrap_difference, verdict
from fusion.bench.runner import Runner, Watch, shared_budget
from fusion.bench.suite import Arm, Suite
from fusion.bench.tuner.candidates import Candidate, Candidates, candidates
from fusion.bench.tuner.racing import Dropped, Race, Scores
from fusion.client.client import Fusion
from fusion.core.budget import Amount
from fusion.core.errors import BudgetError, UsageError
from fusion.core.types import Limits, Value
from fusion.prompts.library import Library

FRONTIER: Final = "frontier"
CONFIRMED: Final = "confirmed"
RESULT: Final = "tuned.json"
TUNED: Final = "tuned"
"""The arm that was chosen, on the test items."""
OUTSIDERS: Final = ("python", "outputs")
"""Kinds of arms that are no pipelines and can be made none."""


class Finalist(Value):
    """A candidate that was not dropped, on dev. `difference` is to the best single model there.

    `cost` is in dollars for an item. `file` is the YAML file of one on the frontier; a function or somebody's answers
    have none.
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
    """What came of a search. `named` is the cheapest finalist that is not worse than the best single model on dev.

    `stopped` says why the search ended before its end; `spent` is what it cost.
    """

    suite: str
    items: int
    margin: float
    best_single: str
    named: str
    spent: Decimal
    shares: tuple[tuple[int, int], ...]
    """Of each share its items, and how many candidates were asked them."""
    finalists: tuple[Finalist, ...]
    dropped: tuple[Dropped, ...]
    left_out: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def frontier(self) -> tuple[Finalist, ...]:
        """Those that no other beats in cost and accuracy, from the cheapest on."""
        return tuple(one for one in self.finalists if one.on_frontier)

    @property
    def choice(self) -> Finalist:
        """The finalist that is named."""
        return next(one for one in self.finalists if one.name == self.named)


def tune(
    suite: Path | str,
    *,
    out: Path | str | None = None,
    budget: Limits | None = None,
    fusion: Fusion | None = None,
    concurrency: int = CONCURRENCY,
    watch: Watch | None = None,
    command: str = "",
) -> tuple[Tuned, Report | None]:
    """Choose what the arms of a suite and their pipelines leave open, `{any: [a, b]}` in place of any value.

    Arms that leave nothing open, functions and files of answers too, are candidates as they are. On the dev side of
    the split alone: first every model by itself, and those dominated are out, with all that uses them; then racing on
    shares that double. Nothing that was asked is asked again. `budget` caps the search; without it the suite's own
    does, which caps search and confirmation together. Then what was chosen, the best single model and the suite's
    baselines are asked the test side, once; the Report is of that, None where the best single model is the choice or
    nothing is left of the budget.

    Writes to `out`, by default `fusion-tune/` and the suite's name: `frontier/` with a file for each pipeline of the
    frontier, `tuned.json`, and the report under `confirmed/`.

    Raises UsageError and PipelineError for a suite that cannot be tuned, before any call; BudgetError where the
    budget did not bear one share.

    >>> tuned, confirmed = fusion.bench.tune("suite.yaml")
    >>> tuned.choice.file
    """
    file = Path(suite)
    folder = Path("fusion-tune") / file.stem if out is None else Path(out)
    with kept_in(folder) as kept:
        found = candidates(file, folder / CANDIDATES, Library.standard(near=file.parent))
        with asking(fusion, folder) as own:
            work = _Work(file, folder, own, concurrency, watch, command)
            search, spent = work.searched(found, budget, kept)
            tuned = search.tuned(spent.usd or Decimal(0), found.left_out)
            (folder / RESULT).write_text(tuned.model_dump_json(indent=1) + "\n", encoding="utf-8")
            left = _left(found.suite.budget, spent)
            if left is None or tuned.named == tuned.best_single:
                return tuned, None
            return tuned, work.confirmed(found.suite.model_copy(update={"budget": left}), tuned, search)


class _Work(NamedTuple):
    """Where a search works, and with what."""

    file: Path
    folder: Path
    fusion: Fusion
    concurrency: int
    watch: Watch | None
    command: str

    def searched(self, found: Candidates, budget: Limits | None, kept: Kept) -> tuple["_Search", Amount]:
        """The race over the dev items, and what it cost."""
        limits = budget or found.suite.budget
        update = {"on": "dev", "baselines": ("singles",), "budget": limits, "gate": None}
        suite = found.suite.model_copy(update=update)
        within = shared_budget(suite.budget)
        with importing(self.file.parent):
            ready = prepared(suite, self.file.parent, self.fusion, within)
            try:
                if not any(one.record.kind == "model" for one in ready.contestants):
                    raise UsageError(
                        f"{self.file}: no single model to hold the candidates against; add one as an arm, as in "
                        "{model: provider/name}"
                    )
                self._check_confirmable(found.suite)
                watch = self.watch or (lambda progress: None)
                runner = Runner(ready, kept, concurrency=self.concurrency, watch=watch)
                race = Race(runner, ready.contestants, items=len(ready.questions), seed=suite.seeds[0])
                race.run()
            finally:
                ready.close()
        return _Search(suite, race, runner.stopped, found.made, self.folder), within.spent

    def _check_confirmable(self, suite: Suite) -> None:
        """Refuse what could be chosen and not confirmed: no items for it, answers to none of them, another gate."""
        if suite.gate is not None:
            Gate(suite.gate).check([TUNED, BEST_SINGLE])
        arms = {name: arm for name, arm in suite.arms.items() if arm.outputs is not None}
        given = arms or dict([next(iter(suite.arms.items()))])
        confirming = suite.model_copy(update={"on": "test", "arms": given, "baselines": (), "gate": None})
        prepared(confirming, self.file.parent, self.fusion, shared_budget(suite.budget)).close()

    def confirmed(self, suite: Suite, tuned: Tuned, search: "_Search") -> Report:
        """What was chosen and the best single model on the test items, with the suite's baselines."""
        best = next(one for one in tuned.finalists if one.name == tuned.best_single)
        arms = {
            TUNED: search.arm(tuned.choice),
            best.name: Arm(model=best.models[0]),
        }
        return run(
            suite.model_copy(update={"on": "test", "arms": arms}),
            out=self.folder / CONFIRMED,
            near=self.file.parent,
            fusion=self.fusion,
            concurrency=self.concurrency,
            watch=self.watch,
            command=self.command,
        )


class _Search:
    """A race that is over, and what it says."""

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
        """A finalist of the frontier, as an arm of a suite."""
        given = self._made[one.name].arm if one.name in self._made else None
        if given is not None and one.kind in OUTSIDERS:
            return given
        chosen = str(Path(one.file or "").resolve())
        return Arm(pipeline=chosen, profile=None if given is None else given.profile)

    def tuned(self, spent: Decimal, left_out: Sequence[str]) -> Tuned:
        best = self._best_single()
        finalists = [self._finalist(one, best) for one in self._race.left]
        points = [
            Point(name=one.name, cost=one.cost, quality=one.accuracy) for one in finalists if one.cost is not None
        ]
        files = dict(self._written([point.name for point in pareto(points)], finalists))
        finalists = [
            one.model_copy(update={"on_frontier": one.name in files, "file": files.get(one.name)})
            for one in finalists
        ]
        finalists.sort(key=lambda one: (one.cost is None, one.cost or 0, -one.accuracy, one.name))
        # Among equals in cost and accuracy the frontier holds one, and what is named is on it.
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
        difference = _difference(own, other, self._suite)
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

    def _written(self, names: Sequence[str], finalists: Sequence[Finalist]) -> Iterator[tuple[str, str | None]]:
        """A file for each of the frontier, numbered from the cheapest, beside the templates that it reads.

        None for a function and a file of answers: no pipeline asks them.
        """
        folder = self._folder / FRONTIER
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.yaml"):
            old.unlink()
        by_name = {one.name: one for one in finalists}
        for number, name in enumerate(names, start=1):
            one = by_name[name]
            if one.kind in OUTSIDERS:
                yield name, None
                continue
            path = folder / f"{number:02}-{short_name(name).replace('/', '-')}.yaml"
            path.write_text(_head(one, len(self._scores[name].scores)) + self._text(one), encoding="utf-8")
            yield name, str(path)
        _copy_beside(self._folder / CANDIDATES, folder)

    def _text(self, one: Finalist) -> str:
        made = self._made.get(one.name)
        if made is not None and made.arm.pipeline is not None:
            return Path(made.arm.pipeline).read_text(encoding="utf-8")
        return only_one_model(short_name(one.name), one.models[0], (), self._suite.max_tokens).to_yaml()


def _difference(one: Scores, other: Scores, suite: Suite) -> Interval:
    return bootstrap_difference(
        one.scores, other.scores, clusters=one.clusters, resamples=suite.resamples, seed=suite.seeds[0]
    )


def _head(one: Finalist, items: int) -> str:
    """What is known of a file of the frontier, as comments."""
    cost = "unknown" if one.cost is None else f"${one.cost:.6f}"
    low, high = 100 * one.difference.low, 100 * one.difference.high
    lines = [
        f"On {items:,} dev items: {100 * one.accuracy:.1f}% right, {cost} an item;",
        f"{100 * one.difference.estimate:+.2f} points to the best single model, 95% {low:+.2f} to {high:+.2f}.",
        *(f"{place}: {value}" for place, value in one.chosen.items()),
    ]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _copy_beside(source: Path, target: Path) -> None:
    """What candidates read beside themselves, for those of the frontier."""
    import shutil

    for path in source.iterdir() if source.is_dir() else ():
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)


def _left(limits: Limits, spent: Amount) -> Limits | None:
    """What is left of the suite's budget; None where nothing is."""
    left: dict[str, Any] = {"seconds": limits.seconds}
    for name in ("usd", "tokens", "calls"):
        limit = getattr(limits, name)
        if limit is None:
            continue
        left[name] = limit - (getattr(spent, name) or 0)
        if left[name] <= 0:
            return None
    return Limits.model_validate(left)
