"""Tuning: chooses the open values of a suite on its dev items, and confirms the choice once on its test items."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.bench.arms.base import Contestant
from fusion.bench.arms.pipeline import PipelineArm
from fusion.bench.benchmark import CONCURRENCY, check_extra, client_for, importing, keep_done, run
from fusion.bench.checkpoint import CANDIDATES, Checkpoint, open_checkpoint
from fusion.bench.experiment import prepare
from fusion.bench.ledger import budget_of
from fusion.bench.report.gate import BEST_SINGLE, Gate
from fusion.bench.report.report import Report
from fusion.bench.runner import Runner, Watch
from fusion.bench.suite import Arm, Document, Suite
from fusion.bench.tuner.candidates import Candidates, OpenArm, candidates, read_document
from fusion.bench.tuner.finals import Finals
from fusion.bench.tuner.judging import Found, Judge
from fusion.bench.tuner.over import Over, set_name
from fusion.bench.tuner.racing import Race
from fusion.bench.tuner.tuned import Tuned
from fusion.client.client import Fusion
from fusion.core.budget import Amount
from fusion.core.config import Settings
from fusion.core.errors import UsageError
from fusion.core.types import Limits
from fusion.prompts.library import Library

CONFIRMED: Final = "confirmed"
RESULT: Final = "tuned.json"
TUNED: Final = "tuned"
"""The name of the chosen arm on the test items."""


def tune(
    suite: Path | str | Sequence[Path | str],
    *,
    over: Over | None = None,
    at_least: float = 0.0,
    confirm: Path | str | Mapping[str, Path | str] | None = None,
    split: str | None = None,
    out: Path | str | None = None,
    budget: Limits | None = None,
    fusion: Fusion | None = None,
    settings: Settings | None = None,
    concurrency: int = CONCURRENCY,
    watch: Watch | None = None,
    command: str = "",
    learn: bool = True,
) -> tuple[Tuned, Report | None]:
    """Choose the open values of a suite's arms and their pipelines.

    Open are `{any: [a, b]}` in place of any value, and `{search: {models: [a, b, c]}}` in place of a cascade's tiers.
    With `over`, `suite` is a file of items, or several, and a cascade of its models is searched.

    Arms without open values are candidates as they are. The search uses the dev side of the split only. It first
    measures every model alone. All ways of a `search` are judged by these answers. The cheapest is taken whose
    cross-validated difference to the best single model is at least `at_least`, a share. The other candidates race on
    shares of the items that double, and leave where another beats them, each by its own results.

    `confirm` is a file of the items to confirm on, or one for each task set. `split` is a column with the side of
    each item, dev or test. They replace those of the suite. `budget` caps the search; by default the suite's budget
    caps search and confirmation together. With `over` it caps both.

    Finally the choice, the best single model, a cheaper one as good and the suite's baselines are measured on the
    test side. The Report is of that: None if the best single model is the choice, or if no budget is left.

    Writes to `out`, by default `fusion-tune/` and the suite's name: `frontier/` with a file for each pipeline of the
    frontier, `tuned.json`, and the report under `confirmed/`. A repeated search asks nothing again.

    With `learn`, the figures of the single models are kept: see `fusion models learned`.

    Raises UsageError and PipelineError for an invalid suite, before any call; BudgetError if the budget is exhausted
    within the first share.

    >>> tuned, confirmed = fusion.bench.tune("suite.yaml")
    >>> tuned.choice.file
    >>> tuned, confirmed = fusion.bench.tune("items.jsonl", over=fusion.bench.Over(models=MODELS, scorer="number"))
    >>> tuned.searched[0].ways
    """
    files = [suite] if isinstance(suite, (str, Path)) else list(suite)
    folder = folder_of(files, out)
    check_extra()
    with open_checkpoint(folder) as checkpoint, client_for(fusion, folder, settings) as client:
        source, near = _source(files, over, folder / CANDIDATES, None if over is None else budget)
        source = source._replace(data={**source.data, **_sides(confirm, split)})
        endpoints = client.settings.endpoints
        found = candidates(source, near, folder / CANDIDATES, Library.standard(near=near), endpoints)
        work = _Work(near, folder, client, concurrency, watch, command, learn, at_least)
        search, spent, notes = work.search(found, budget, checkpoint)
        tuned = search.tuned(spent.usd or Decimal(0), (*found.left_out, *notes))
        (folder / RESULT).write_text(tuned.model_dump_json(indent=1) + "\n", encoding="utf-8")
        left = _rest(found.suite.budget, spent)
        if left is None or tuned.named == tuned.best_single:
            return tuned, None
        return tuned, work.confirm(found.suite.model_copy(update={"budget": left}), tuned, search)


def folder_of(files: Sequence[Path | str], out: Path | str | None) -> Path:
    """Return the folder for the answers and the results of a search."""
    if out is not None:
        return Path(out)
    return Path("fusion-tune") / (set_name(files[0]) if files else "items")


def _source(
    files: Sequence[Path | str], over: Over | None, folder: Path, budget: Limits | None
) -> tuple[Document, Path]:
    """Return the suite, and the folder that its paths are relative to."""
    if over is not None:
        return over.suite(files, folder, budget), Path()
    if len(files) != 1:
        raise UsageError("give one suite; several files are for files of items with `over`: --over, or -m")
    return read_document(Path(files[0])), Path(files[0]).parent


def _sides(confirm: Path | str | Mapping[str, Path | str] | None, split: str | None) -> dict[str, Any]:
    """Return the keys of a suite that say which items are dev and test."""
    if confirm is not None and split is not None:
        raise UsageError("`confirm` and `split` both give the items to confirm on; give one of them")
    if split is not None:
        return {"split": {"column": split}, "confirm": None}
    if confirm is None:
        return {}
    files = (
        {name: str(Path(file).resolve()) for name, file in confirm.items()} if isinstance(confirm, Mapping) else {}
    )
    return {"confirm": files or str(Path(str(confirm)).resolve()), "split": {}}


class _Work(NamedTuple):
    """The folders, client and options of a search."""

    near: Path
    folder: Path
    fusion: Fusion
    concurrency: int
    watch: Watch | None
    command: str
    learn: bool
    at_least: float

    def search(
        self, found: Candidates, budget: Limits | None, checkpoint: Checkpoint
    ) -> tuple[Finals, Amount, list[str]]:
        """Run the race over the dev items. Returns it with its cost and notes."""
        limits = budget or found.suite.budget
        update = {"on": "dev", "baselines": ("singles",), "budget": limits, "gate": None}
        suite = found.suite.model_copy(update=update)
        within = budget_of(suite.budget)
        with importing(self.near), closing(prepare(suite, self.near, self.fusion, within)) as experiment:
            asked = {one.record.name: one for one in experiment.contestants}
            wholes = {one.whole.name: self._arm(asked[one.whole.name]) for one in found.open}
            experiment.contestants[:] = [one for one in experiment.contestants if one.record.name not in wholes]
            if not any(one.record.kind == "model" for one in experiment.contestants):
                raise UsageError(
                    "no single model to compare the candidates with; add one as an arm, as in {model: provider/name}"
                )
            self._check_confirmable(found.suite)
            runner = Runner(experiment, checkpoint, concurrency=self.concurrency, watch=self.watch)
            race = Race(runner, experiment.contestants, items=len(experiment.questions), seed=suite.seeds[0])
            voters = [asked[one.name] for open_ in found.open for one in open_.voters.values()]
            whole = race.alone(voters)
            best = race.best_single(whole)
            judge = Judge(experiment, runner, whole, self.fusion)
            chosen = [] if best is None else [self._found(judge, one, wholes, best) for one in found.open]
            race.run()
            notes = race.notes(whole)
            if self.learn and (problem := keep_done(self.fusion.settings, experiment, runner.done.values())):
                notes.append(problem)
        search = Finals(suite, race, runner.stopped, found.made, self.folder, chosen)
        return search, within.spent, notes

    @staticmethod
    def _arm(contestant: Contestant) -> PipelineArm:
        assert isinstance(contestant, PipelineArm)
        return contestant

    def _found(self, judge: Judge, open_: OpenArm, wholes: Mapping[str, PipelineArm], best: str) -> Found:
        return judge.found(open_, wholes[open_.whole.name], at_least=self.at_least, best=best)

    def _check_confirmable(self, suite: Suite) -> None:
        """Raise UsageError if a choice could not be confirmed: no test items, no answers to them, an unknown arm."""
        if suite.gate is not None:
            Gate(suite.gate).check([TUNED, BEST_SINGLE])
        arms = {name: arm for name, arm in suite.arms.items() if arm.outputs is not None}
        given = arms or dict([next(iter(suite.arms.items()))])
        confirming = suite.model_copy(update={"on": "test", "arms": given, "baselines": (), "gate": None})
        prepare(confirming, self.near, self.fusion, budget_of(suite.budget)).close()

    def confirm(self, suite: Suite, tuned: Tuned, search: Finals) -> Report:
        """Measure the choice, the best single model, a cheaper one as good, and the suite's baselines on test."""
        beside = {tuned.best_single}
        if tuned.alone is not None and tuned.alone.model != tuned.named:
            beside.add(tuned.alone.model)
        singles = {one.name: Arm(model=one.models[0]) for one in tuned.finalists if one.name in beside}
        arms = {TUNED: search.arm(tuned.choice), **singles}
        return run(
            suite.model_copy(update={"on": "test", "arms": arms}),
            out=self.folder / CONFIRMED,
            near=self.near,
            fusion=self.fusion,
            concurrency=self.concurrency,
            watch=self.watch,
            command=self.command,
            learn=self.learn,
        )


def _rest(limits: Limits, spent: Amount) -> Limits | None:
    """Return the rest of the suite's budget; None if it is exhausted."""
    names = [name for name in ("usd", "tokens", "calls") if getattr(limits, name) is not None]
    left = {name: getattr(limits, name) - (getattr(spent, name) or 0) for name in names}
    return Limits(seconds=limits.seconds, **left) if all(amount > 0 for amount in left.values()) else None
