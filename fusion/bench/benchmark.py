"""Benchmark: a suite from its file to its report."""

import hashlib
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fusion import __version__
from fusion.bench.baselines import self_consistency
from fusion.bench.checkpoint import CALLS, kept_in
from fusion.bench.experiment import Prepared, prepared
from fusion.bench.progress import Progress
from fusion.bench.report.report import Report
from fusion.bench.report.results import ArmRecord, Outcome, Paid, Results
from fusion.bench.runner import Done, Runner, Watch, shared_budget
from fusion.bench.suite import Suite
from fusion.client.client import Fusion
from fusion.core.budget import Amount
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
    concurrency: int = CONCURRENCY,
    watch: Watch | None = None,
    command: str = "",
) -> Report:
    """Run a suite, or what is left of it, and write its report.

    `suite` is a file, or an object whose files lie in the folder `near`, by default the working directory. Answers
    and report go to the folder `out`, by default `fusion-bench/` and the suite's name: what has an answer there is
    not asked again, and calls that several arms make are made once. `watch` is called with the progress, often.
    `fusion` is one of your own, which stays open; give it a store, or arms share no calls.

    Raises UsageError for a suite that cannot be run, before any call, and leaves no folder behind that it made;
    BudgetError where its budget was used up before any item had all its answers. One that was used up later is said
    in `.results.stopped`.

    >>> report = fusion.bench.run("suite.yaml")
    >>> report.analysis.best_single, report.passed
    """
    began, started = time.monotonic(), datetime.now(UTC)
    read = suite if isinstance(suite, Suite) else Suite.load(suite)
    near = near or (Path() if isinstance(suite, Suite) else Path(suite).parent)
    folder = folder_of(read, out)
    _check_installed(read)
    with kept_in(folder) as kept, asking(fusion, folder) as own, importing(near):
        ready = prepared(read, near, own, shared_budget(read.budget))
        try:
            runner = Runner(ready, kept, concurrency=concurrency, watch=watch or _nobody)
            notes = _worked(ready, runner)
        finally:
            ready.close()
    said = command or f"fusion.bench.run({read.name if isinstance(suite, Suite) else str(suite)!r})"
    results = _results(ready, runner, notes)
    made = {"started": started, "seconds": time.monotonic() - began, "command": said}
    report = Report(results.model_copy(update=made))
    report.write(folder)
    return report


def folder_of(suite: Suite, out: Path | str | None) -> Path:
    """Where the answers and the report of a suite go."""
    return Path("fusion-bench") / suite.name.replace("/", "-") if out is None else Path(out)


def _worked(ready: Prepared, runner: Runner) -> list[str]:
    """Ask all of them everything, then the baseline that depends on what they cost. Returns what is to be said."""
    runner.work(ready.contestants)
    if runner.stopped or "self_consistency" not in ready.suite.baselines:
        return []
    wanted = self_consistency(ready, runner.done)
    if wanted.contestant is None:
        return [f"Self-consistency at equal dollars is not measured: {wanted.note}."] if wanted.note else []
    runner.work([wanted.contestant])
    if runner.stopped:
        why, runner.stopped = runner.stopped, ""
        return [f"Self-consistency at equal dollars was begun and not ended: {why}."]
    ready.contestants.append(wanted.contestant)
    return [wanted.note]


def _results(ready: Prepared, runner: Runner, notes: Sequence[str]) -> Results:
    suite = ready.suite
    arms = [one.record for one in ready.contestants]
    whole = runner.whole(ready.contestants)
    if not whole:
        raise BudgetError(f"the benchmark was stopped before any item had all its answers: {runner.stopped}")
    keys = ((arm.name, one.task.id, epoch) for one in whole for arm in arms for epoch in range(suite.epochs))
    done = [runner.done[key] for key in keys]
    alone = {model for arm in arms if arm.kind == "model" for model in arm.models}
    return Results(
        name=suite.name,
        started=datetime.now(UTC),
        margin=suite.margin,
        resamples=suite.resamples,
        seeds=suite.seeds,
        epochs=suite.epochs,
        versions=dict(_versions()),
        hashes={**ready.hashes, "the suite": hashlib.sha256(suite.model_dump_json().encode()).hexdigest()},
        licences=ready.licences,
        baselines=suite.baselines,
        notes=(
            *ready.notes,
            *notes,
            *runner.judgements,
            *_taken_over(ready.models, done, alone),
            *_unheld(suite, arms, done),
        ),
        stopped=_stopped(runner.stopped, len(whole), len(ready.questions)),
        gate=suite.gate or "",
        paid=_paid(ready.within.spent),
        items=tuple(one.record for one in whole),
        arms=tuple(arms),
        outcomes=tuple(map(_outcome, done)),
    )


def _paid(spent: Amount) -> Paid:
    return Paid(usd=spent.usd or Decimal(0), tokens=spent.tokens, calls=spent.calls)


def _outcome(done: Done) -> Outcome:
    job, answered, score = done
    arm, item, epoch = job.name
    return Outcome(
        arm=arm,
        item=item,
        epoch=epoch,
        score=score.value,
        measures=score.measures,
        answer=score.answer,
        text=answered.text,
        cost=answered.cost,
        usage=answered.usage,
        calls=answered.calls,
        latency=answered.latency,
        served=answered.served,
        seed=job.seed,
        escalated=answered.escalated,
        delegated=answered.delegated,
        spent=answered.spent,
        reused=answered.reused,
        failure=answered.failure,
    )


def _stopped(why: str, whole: int, planned: int) -> str:
    return f"{why.rstrip('.')}; {whole:,} of {planned:,} items have all their answers" if why else ""


def _taken_over(models: Mapping[str, ModelInfo], done: Iterable[Done], alone: set[str]) -> Iterator[str]:
    """Models that answered in place of others, and are no single model of the report."""
    for model in dict.fromkeys(one.model for each in done for one in each.answered.spent if one.calls):
        if model in models and model not in alone:
            yield f"{model} answered in place of others, and was not measured alone."


def _unheld(suite: Suite, arms: Iterable[ArmRecord], done: Sequence[Done]) -> Iterator[str]:
    """Functions that do not say what they cost, where there is a limit in dollars."""
    for arm in arms:
        silent = sum(one.job.name[0] == arm.name and one.answered.cost is None for one in done)
        if arm.kind == "python" and silent and suite.budget.usd is not None:
            yield (
                f"{silent} answers of {arm.name} did not say what they cost: the limit of ${suite.budget.usd} does "
                "not count them."
            )


def _check_installed(suite: Suite) -> None:
    """Refuse to begin what could not be ended."""
    solver = ("sympy",) if any(suite.scoring(name).by == "math" for name in suite.tasks) else ()
    missing = [name for name in ("numpy", "matplotlib", *solver) if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"a benchmark needs {' and '.join(missing)}; install the extra: pip install 'compound-fusion[bench]'"
        )


def _versions() -> Iterator[tuple[str, str]]:
    yield "fusion", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _nobody(progress: Progress) -> None:
    return None


@contextmanager
def importing(folder: Path) -> Iterator[None]:
    """A suite's functions may lie beside it."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


@contextmanager
def asking(fusion: Fusion | None, folder: Path) -> Iterator[Fusion]:
    """The one that is given, or one with a store in the folder, which is closed again."""
    if fusion is not None:
        yield fusion
        return
    with Fusion(store=folder / CALLS) as own:
        yield own
