"""A map under way and its report as lines of text."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusion.cli.terminal import one_line
from fusion.cli.views.history.maps import failure_lines, short_key
from fusion.cli.views.lines import (
    cost_words,
    dollars,
    happening,
    left_words,
    reason,
    role_words,
    seconds,
    standing_words,
)
from fusion.cli.views.maps.progress import MapProgress, SlowRow
from fusion.core.events import (
    AttemptFailed,
    BatchEnded,
    EventBase,
    FallbackTaken,
    MapStarted,
    Noted,
    OutageChanged,
    RowFinished,
)
from fusion.core.types import Failure, pattern

if TYPE_CHECKING:
    from fusion.bulk.report import MapReport

_KINDS_AT_MOST: Final = 200
INCIDENTS: Final = (AttemptFailed, FallbackTaken, OutageChanged, Noted, RowFinished, BatchEnded)
"""Events that may be worth a line."""


def first_line(event: MapStarted, settings: tuple[Path, ...] = ()) -> str:
    """Name the pipeline, map, profile, models and rows."""
    roles = role_words(event.roles)
    again = f", continued ({event.passes - 1})" if event.passes > 1 else ""
    files = f"; settings {', '.join(map(str, settings))}" if settings else ""
    rows = f"rows from {event.source}, {event.concurrency} at once"
    line = f"{event.pipeline}: map {event.run_id}{again}; profile {event.profile}; {roles}; {rows}{files}"
    return one_line(line + "".join(f"; {left_words(one)}" for one in event.budgets))


def progress_line(progress: MapProgress, cap: Decimal | None) -> str:
    """Describe the state of a map: rows done and failed, rate, spending, time left, slowest row."""
    parts = [
        done_words(progress),
        *([f"{progress.failed:,} failed"] if progress.failed else []),
        *in_flight_words(progress),
        f"{progress.rate:.1f} rows/s",
        spent_words(progress, cap),
        *([] if progress.seconds_left is None else [f"about {seconds(progress.seconds_left)} left"]),
        *batch_words(progress),
        *([] if progress.slowest is None else [f"slowest {slow_words(progress.slowest)}"]),
    ]
    return ", ".join(parts)


def done_words(progress: MapProgress) -> str:
    """Describe the rows that are done: `812 of 1,000 rows done (790 before)`."""
    kept = f" ({progress.kept:,} before)" if progress.kept else ""
    if progress.expected is not None:
        return f"{progress.done:,} of {progress.expected:,} rows done{kept}"
    share = "" if progress.share is None else f" ({progress.share:.0%})"
    return f"{progress.done:,} rows done{share}{kept}"


def spent_words(progress: MapProgress, cap: Decimal | None) -> str:
    """Describe the spending, and the cap if there is one."""
    spent = cost_words(progress.usd, progress.unknown)
    return spent if cap is None else f"{spent} of {dollars(cap)}"


def in_flight_words(progress: MapProgress) -> list[str]:
    """Describe the rows that run here, if any: those of a map on workers run elsewhere."""
    return [f"{progress.in_flight:,} in flight"] if progress.in_flight else []


def batch_words(progress: MapProgress) -> list[str]:
    """Describe the batches at providers, if any: `in batch: 3 of 14 done`."""
    found = list(progress.batches.values())
    if not found:
        return []
    done, rows = (sum(one[at] for one in found) for at in (0, 1))
    return [f"in batch: {done:,} of {rows:,} done"]


def slow_words(slow: SlowRow) -> str:
    """Describe a row in flight: `17 in 'work' for 34 s`."""
    where = f" in {slow.stage!r}" if slow.stage else ""
    return f"{slow.run_id}{where} for {seconds(slow.seconds)}"


class MapIncidents:
    """Folds equal incidents over all rows: the first is a line at once, the others are counted at the end.

    With `verbose`, each row that ends is a line.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._seen: dict[tuple[str, str], int] = {}
        self._lines: dict[tuple[str, str], str] = {}

    def lines(self, event: EventBase) -> Iterator[str]:
        """Yield the lines of an event."""
        if isinstance(event, RowFinished) and self._verbose and not event.kept:
            yield row_line(event)
            return
        told = _told(event)
        if told is None or (told not in self._seen and len(self._seen) >= _KINDS_AT_MOST):
            return
        self._seen[told] = self._seen.get(told, 0) + 1
        if self._seen[told] == 1:
            self._lines[told] = line = _line(event)
            yield line

    def counts(self) -> Iterator[str]:
        """Yield a line for each incident that came again."""
        for told, count in self._seen.items():
            if count > 1:
                yield f"{count - 1:,} more times: {self._lines[told]}"


def row_line(event: RowFinished) -> str:
    """Describe a row that has ended."""
    cost = cost_words(event.usd or Decimal(0), event.unknown_calls)
    why = "" if event.failure is None else f": {reason(event.failure)}"
    return f"row {short_key(event.key)}: {event.status}, {cost}, {seconds(event.seconds)}{why}"


def _told(event: EventBase) -> tuple[str, str] | None:
    """Return the kind of an incident and its reason, the same for equal faults."""
    match event:
        case RowFinished(kept=False, failure=Failure() as failure):
            return "row", pattern(reason(failure))
        case RowFinished():
            return None
        case OutageChanged():
            return f"{event.model} {event.state}", ""
        case BatchEnded(status="ended"):
            return None
        case BatchEnded():
            return f"batch {event.model}", f"{event.status} {pattern(event.message)}"
        case AttemptFailed(wait=float()):
            return f"attempt {event.model}", pattern(reason(event.failure))
        case FallbackTaken():
            return f"fallback {event.failed}", pattern(reason(event.failure))
        case Noted():
            return "note", event.message
    return None


def _line(event: EventBase) -> str:
    if isinstance(event, RowFinished):
        return row_line(event)
    if isinstance(event, BatchEnded):
        why = f": {one_line(event.message)}" if event.message else ""
        return f"batch {event.batch} at {event.model} {event.status}{why}"
    row = f"{event.run_id}: " if event.stage else ""
    return f"{row}{happening(event)}"


# The report.


def report_lines(report: "MapReport", *, quiet: bool) -> Iterator[str]:
    """Describe the end of a map: its failed rows, folded, and one line that sums it up."""
    if report.failure is not None:
        yield f"fusion: the map ended early: {reason(report.failure)}"
    elif report.status == "interrupted":
        yield "fusion: interrupted"
    if report.failed or report.partial:
        lost = [f"{report.failed:,} failed"] * bool(report.failed) + [f"{report.partial:,} lack parts"] * bool(
            report.partial
        )
        yield f"fusion: of {_rows(report.done)}, {' and '.join(lost)}:"
        yield from failure_lines(report.failures)
    if not quiet:
        yield summary_line(report)
        yield from map(standing_words, report.budgets)


def summary_line(report: "MapReport") -> str:
    """Sum a map up in one line."""
    counts = {"ok": report.ok, "partial": report.partial, "failed": report.failed}
    counts |= {"waiting for a person": report.held, "not done": report.waiting - report.held}
    named = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "none"
    kept = f", {report.kept:,} of them before" if report.kept else ""
    gone = f"; {report.gone:,} lines of the output have no row in the inputs" if report.gone else ""
    cost = cost_words(report.cost.usd, report.cost.unknown_calls)
    return f"{_rows(report.rows)}: {named}{kept}; {cost}; {seconds(report.seconds)}{gone}"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
