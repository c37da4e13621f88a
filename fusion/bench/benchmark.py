"""Benchmark: a suite from its file to its report."""

import hashlib
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fusion import __version__
from fusion.bench.arms.pipeline import PipelineArm
from fusion.bench.baselines import self_consistency
from fusion.bench.checkpoint import CALLS, open_checkpoint
from fusion.bench.experiment import Experiment, prepare
from fusion.bench.ledger import budget_of
from fusion.bench.report.learned import keep_outcomes, keep_results
from fusion.bench.report.report import Report
from fusion.bench.report.results import ArmRecord, Outcome, Paid, Response, Results
from fusion.bench.runner import Runner, Scored, Watch
from fusion.bench.suite import NO_REVIEW, Suite
from fusion.client.client import Fusion, shared_budget
from fusion.core.config import Settings
from fusion.core.errors import BudgetError, UsageError
from fusion.models.base import ModelInfo

CONCURRENCY: Final = 16
_PACKAGES: Final = ("litellm", "pydantic", "jinja2", "numpy", "sympy", "matplotlib")


def run(
    suite: Suite | Path | str,
    *,
    out: Path | str | None = None,
    near: Path | None = None,
    fusion: Fusion | None = None,
    settings: Settings | None = None,
    concurrency: int = CONCURRENCY,
    watch: Watch | None = None,
    command: str = "",
    within: str | None = None,
    batch: bool = False,
    learn: bool = True,
) -> Report:
    """Run a suite and write its report. Continues an earlier start in the same folder.

    `suite` is a file, or an object whose files are relative to the folder `near`, by default the working directory.
    Answers and report go to the folder `out`, by default `fusion-bench/` and the suite's name. Answers in it are
    not asked again, and calls that several arms share are made once. `watch` is called with the progress, often.
    Your own `fusion` stays open; give it a store, or arms share no calls. Without one, `settings` are those to use.
    With `batch`, calls go to the batch APIs of their providers, at the price of these; give a high `concurrency`.
    `within` names a `[budgets.NAME]` of the settings, which all runs of the process share beside the suite's budget.
    With `learn`, the figures of the single models are kept: see `fusion models learned`.

    Raises UsageError for an invalid suite, before any call, and removes the folders that it created. Raises
    BudgetError if the budget is exhausted before any item has all its answers. Later exhaustion is reported in
    `.results.stopped`.

    >>> report = fusion.bench.run("suite.yaml")
    >>> report.analysis.best_single, report.passed
    """
    began, started = time.monotonic(), datetime.now(UTC)
    loaded = suite if isinstance(suite, Suite) else Suite.load(suite)
    near = near or (Path() if isinstance(suite, Suite) else Path(suite).parent)
    folder = folder_of(loaded, out)
    _check_installed(loaded)
    with (
        open_checkpoint(folder) as checkpoint,
        client_for(fusion, folder, settings) as client,
        importing(near),
        closing(
            prepare(loaded, near, client, budget_of(loaded.budget, shared_budget(client, within)), batch=batch)
        ) as experiment,
    ):
        runner = Runner(experiment, checkpoint, concurrency=concurrency, watch=watch)
        notes = _work(experiment, runner)
        in_use = client.settings
    command = command or f"fusion.bench.run({loaded.name if isinstance(suite, Suite) else str(suite)!r})"
    seconds = time.monotonic() - began
    results = _results(experiment, runner, notes, started=started, seconds=seconds, command=command)
    if learn and (note := keep_results(in_use, results, loaded.labels)):
        results = results.model_copy(update={"notes": (*results.notes, note)})
    report = Report(results)
    report.write(folder)
    return report


def folder_of(suite: Suite, out: Path | str | None) -> Path:
    """Return the folder for the answers and the report of a suite."""
    return Path("fusion-bench") / suite.name.replace("/", "-") if out is None else Path(out)


def _work(experiment: Experiment, runner: Runner) -> list[str]:
    """Run all contestants, then the baselines that depend on them. Returns notes for the report."""
    runner.work(experiment.contestants)
    if runner.stopped:
        return []
    baselines = {NO_REVIEW: _without_reviews, "self_consistency": _self_consistency}
    return [
        note
        for name, work in baselines.items()
        if name in experiment.suite.baselines
        for note in work(experiment, runner)
    ]


def _without_reviews(experiment: Experiment, runner: Runner) -> list[str]:
    """Run each arm that reviews without each of its reviews: all its other calls are known already, or are few."""
    contestants = experiment.factory.unreviewed(experiment.contestants)
    if contestants:
        runner.work(list(contestants))
    if runner.stopped:
        why, runner.stopped = runner.stopped, ""
        return [f"Arms without their reviews were begun and not finished: {why}."]
    experiment.contestants += contestants
    return []


def _self_consistency(experiment: Experiment, runner: Runner) -> list[str]:
    contestant, note = self_consistency(experiment, runner.done)
    if contestant is None:
        return [f"Self-consistency at equal dollars is not measured: {note}."] if note else []
    runner.work([contestant])
    if runner.stopped:
        why, runner.stopped = runner.stopped, ""
        return [f"Self-consistency at equal dollars was begun and not finished: {why}."]
    experiment.contestants.append(contestant)
    return [note]


def _results(experiment: Experiment, runner: Runner, notes: Sequence[str], **run: Any) -> Results:
    suite, spent = experiment.suite, experiment.within.spent
    stopped, planned = runner.stopped, len(experiment.questions)
    arms = [one.record for one in experiment.contestants]
    whole = runner.whole(experiment.contestants)
    if not whole:
        raise BudgetError(f"the benchmark was stopped before any item had all its answers: {stopped}")
    keys = ((arm.name, one.task.id, epoch) for one in whole for arm in arms for epoch in range(suite.epochs))
    done = [runner.done[key] for key in keys]
    asked = {model for arm in arms if arm.kind == "model" for model in arm.models}
    asked |= {model for one in experiment.contestants if isinstance(one, PipelineArm) for model in one.roles.values()}
    return Results(
        **{name: getattr(suite, name) for name in ("name", "margin", "resamples", "seeds", "epochs", "baselines")},
        **run,
        versions=dict(_versions()),
        hashes={**experiment.hashes, "the suite": hashlib.sha256(suite.model_dump_json().encode()).hexdigest()},
        licences=experiment.licences,
        notes=(
            *experiment.notes,
            *notes,
            *runner.judgements,
            *_fallback_notes(experiment.models, done, asked),
            *_unknown_cost_notes(suite, arms, done),
        ),
        stopped=stopped and f"{stopped.rstrip('.')}; {len(whole):,} of {planned:,} items have all their answers",
        gate=suite.gate or "",
        paid=Paid(usd=spent.usd or Decimal(0), tokens=spent.tokens, calls=spent.calls),
        items=tuple(one.record for one in whole),
        arms=tuple(arms),
        outcomes=tuple(_outcome(one, experiment) for one in done),
    )


def _outcome(done: Scored, experiment: Experiment) -> Outcome:
    """Return the outcome of a finished job, with the scores of the items that its reviews judged."""
    outcome, response = outcome_of(done), done.response
    if not response.drafts:
        return outcome
    scorer = experiment.item_scorer(done.job.question.record)
    return outcome.model_copy(update={"reviews": scorer.reviews(response.reviews, response.drafts)})


def outcome_of(done: Scored) -> Outcome:
    """Return the outcome of a finished job."""
    job, response, score = done
    arm, item, epoch = job.name
    return Outcome(
        **{name: getattr(response, name) for name in Response.model_fields},
        arm=arm,
        item=item,
        epoch=epoch,
        score=score.value,
        measures=score.measures,
        answer=score.answer,
        seed=job.seed,
    )


def keep_done(settings: Settings, experiment: Experiment, done: Iterable[Scored]) -> str:
    """Keep the figures of the single models of an unfinished benchmark. Returns a note if they could not be kept."""
    outcomes: dict[str, dict[str, list[Outcome]]] = {}
    for one in map(outcome_of, done):
        outcomes.setdefault(one.arm, {}).setdefault(one.item, []).append(one)
    arms, items = (one.record for one in experiment.contestants), [one.record for one in experiment.questions]
    suite = experiment.suite
    return keep_outcomes(settings, arms, items, outcomes, run=suite.name, labels=suite.labels)


def _fallback_notes(models: Mapping[str, ModelInfo], done: Iterable[Scored], asked: set[str]) -> Iterator[str]:
    """Yield a note for each model that only fallbacks asked: those `asked` are measured alone or first of a role."""
    for model in dict.fromkeys(one.model for each in done for one in each.response.spent if one.calls):
        if model in models and model not in asked:
            yield f"{model} answered as a fallback, and was not measured alone."


def _unknown_cost_notes(suite: Suite, arms: Iterable[ArmRecord], done: Sequence[Scored]) -> Iterator[str]:
    """Yield a note for each function that returns no cost under a limit in dollars."""
    for arm in arms:
        silent = sum(one.job.name[0] == arm.name and one.response.cost is None for one in done)
        if arm.kind == "python" and silent and suite.budget.usd is not None:
            yield (
                f"{silent} answers of {arm.name} report no cost: the limit of ${suite.budget.usd} leaves them out."
            )


def check_extra() -> None:
    """Raise UsageError if a library that every benchmark needs is not installed."""
    _check_found(("numpy", "matplotlib"))


def _check_installed(suite: Suite) -> None:
    """Raise UsageError if a library that the suite needs is not installed."""
    solver = ("sympy",) if any(suite.scoring(name).by == "math" for name in suite.tasks) else ()
    _check_found(("numpy", "matplotlib", *solver))


def _check_found(names: Iterable[str]) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"a benchmark needs {' and '.join(missing)}; install the extra: pip install 'compound-fusion[bench]'"
        )


def _versions() -> Iterator[tuple[str, str]]:
    yield "fusion", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield name, version(name)


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """Import modules from the folder of a suite inside the block."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def client_for(
    fusion: Fusion | None, folder: Path, settings: Settings | None = None
) -> AbstractContextManager[Fusion]:
    """Return `fusion`, which stays open after the block, or a client with a store in the folder."""
    return Fusion(store=folder / CALLS, settings=settings) if fusion is None else nullcontext(fusion)
