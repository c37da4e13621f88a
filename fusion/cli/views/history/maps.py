"""Maps of the history as text: a map with its rows, and the differences of two maps."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fusion.cli.terminal import one_line, table
from fusion.cli.views.budgets import stopped_by
from fusion.cli.views.lines import cost_words, dollars, reason, seconds
from fusion.client.history.map_types import MapDetails, MapDiff, MapSummary, RowPair, RowSummary
from fusion.core.errors import BudgetError
from fusion.core.types import Failure, FoldedFailure

_ROWS_HEAD: Final = ["row", "key", "run", "status", "started", "calls", "cost", "time", ""]
_RIGHT: Final = frozenset({0, 5, 6, 7})
_SPARED: Final = (4, 8)
_STAGES_HEAD: Final = ["stage", "calls", "tokens", "cost"]
_KEY_AT_MOST: Final = 40
_PAIRS_AT_MOST: Final = 40
_FAILURES_AT_MOST: Final = 10
_UNFINISHED: Final = frozenset({"died", "interrupted", "failed"})


def progress_words(one: MapSummary) -> str:
    """Describe the rows of a map: `812 of 1,000 rows done, 5 failed`."""
    known = max(one.rows, one.expected or 0)
    failed = f", {one.failed:,} failed" if one.failed else ""
    failed += f", {one.held:,} waiting for a person" if one.held else ""
    return f"{one.done:,} of {known:,} row{'s' * (known != 1)} done{failed}"


def map_line(one: MapSummary) -> str:
    """Format the state, profile, start and tags of a map as one line."""
    again = f" in {one.passes} passes" if one.passes > 1 else ""
    words = [
        f"{one.map_id}: map of {one.pipeline}, {one.status}{again}",
        f"profile {one.profile}",
        f"began {one.started.astimezone():%Y-%m-%d %H:%M:%S}",
        *(f"{key}={value}" for key, value in one.tags.items()),
    ]
    return one_line("; ".join(words))


def map_lines(details: MapDetails, width: int | None = None) -> Iterator[str]:
    """Format a map: its rows by status, cost by stage, failures, newest and slowest rows."""
    one = details.map
    yield map_line(one)
    yield one_line(f"rows from {one.source or 'Python'}; {f'answers in {one.output}' if one.output else 'no output'}")
    yield f"rows: {_counts(one)}"
    cost = cost_words(one.cost.usd, one.cost.unknown_calls)
    yield f"cost: {cost}, {one.calls:,} calls; the latest pass took {seconds(one.seconds)}"
    if details.stages:
        rows = [
            [line.stage, f"{line.calls:,}", f"{line.tokens:,}", cost_words(line.cost.usd, line.cost.unknown_calls)]
            for line in details.stages
        ]
        yield ""
        yield from table([_STAGES_HEAD, *rows], right=frozenset({1, 2, 3}), width=width)
    if one.failure is not None:
        yield ""
        yield f"stopped: {reason(one.failure)}"
    yield from _titled("failed rows:", failure_lines(details.failures))
    yield from _titled("newest rows:", row_lines(details.newest, width))
    yield from _titled("slowest rows:", row_lines(details.slowest, width))


def row_lines(rows: Sequence[RowSummary], width: int | None = None) -> list[str]:
    """Format rows of a map as a table."""
    if not rows:
        return []
    return table([_ROWS_HEAD, *map(_row, rows)], right=_RIGHT, width=width, spared=_SPARED, whole={2})


def failure_lines(failures: Sequence[FoldedFailure]) -> list[str]:
    """List failures, each with the number of its rows and the keys of the first ones."""
    lines = [_failure(one) for one in failures[:_FAILURES_AT_MOST]]
    more = len(failures) - _FAILURES_AT_MOST
    return [*lines, f"  and {more:,} other failures"] if more > 0 else lines


def way_on(details: MapDetails) -> list[str]:
    """Say how to go on with a map, if there is work left; the store has no other options of its command."""
    one = details.map
    if one.status == "running":
        return []
    command = f"`fusion map {shlex.quote(details.pipeline_file or one.pipeline)} … --id {one.map_id}`"
    if one.waiting and one.waiting == one.held:
        waiting = f"`fusion approve {one.map_id}` answers the rows that wait for a person"
        return [waiting, f"once they are answered: {command} with the same options"]
    if one.status in _UNFINISHED or one.waiting:
        return [f"to go on: {command} with the same options{_needed(one.failure)}"]
    return [f"to ask the failed rows again: {command} with the same options and --retry-failed"] if one.failed else []


def _needed(failure: Failure | None) -> str:
    """Say what a map needs to go on beside its options, if a budget stopped it."""
    if failure is None or failure.reason != BudgetError.__name__:
        return ""
    stop = stopped_by(failure.message)
    return " and a higher budget" if stop is None else f", once the budget {stop[1]!r} has room: see `fusion budgets`"


def map_diff_lines(diff: MapDiff, width: int | None = None) -> Iterator[str]:
    """Format the differences of two maps: costs, counts, and the rows that are not the same."""
    for name, one in (("a", diff.a), ("b", diff.b)):
        cost = cost_words(one.cost.usd, one.cost.unknown_calls)
        yield f"{name}: {map_line(one)}; {progress_words(one)}; {cost}"
    yield f"cost: {_difference(diff)}"
    yield ""
    counts = ", ".join(f"{count:,} {_STATES[state]}" for state, count in diff.counts.items())
    yield f"rows: {counts or 'none'}"
    shown = diff.rows[:_PAIRS_AT_MOST]
    yield from table([_pair(pair) for pair in shown], width=width)
    more = len(diff.rows) - len(shown) + diff.more
    if more:
        yield f"  and {more:,} more"


_STATES: Final = {
    "same": "the same",
    "different": "with another answer",
    "status": "failed in one of them",
    "unfinished": "without an end in one of them",
    "not kept": "without a kept answer",
    "only a": "only in a",
    "only b": "only in b",
}


def _difference(diff: MapDiff) -> str:
    """Compare the costs of two maps: `$0.0120 more in b`."""
    more = diff.b.cost.usd - diff.a.cost.usd
    return f"{dollars(abs(more))} {'more' if more > 0 else 'less'} in b" if more else "the same"


def _pair(pair: RowPair) -> list[str]:
    runs = [f"{name}: {run}" if run else "" for name, run in (("a", pair.a), ("b", pair.b))]
    return [f"  {short_key(pair.key)}", _STATES[pair.state], *runs]


def _counts(one: MapSummary) -> str:
    open_ones = one.waiting - one.held
    counts = {"ok": one.ok, "partial": one.partial, "failed": one.failed, "unfinished": open_ones}
    counts["waiting for a person"] = one.held
    named = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count) or "none yet"
    return named if one.expected is None else f"{named}, of {one.expected:,} in the inputs"


def _failure(one: FoldedFailure) -> str:
    more = one.count - len(one.keys)
    keys = ", ".join(map(short_key, one.keys)) + (f" and {more:,} more" if more else "")
    return f"  {one.count:,} ({keys}): {reason(one.failure)}"


def _titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = [*lines]
    if found:
        yield ""
        yield from [title] if title else []
        yield from found


def _row(row: RowSummary) -> list[str]:
    return [
        f"{row.number:,}",
        short_key(row.key),
        row.run_id,
        row.status,
        f"{row.started.astimezone():%Y-%m-%d %H:%M}",
        f"{row.calls:,}",
        cost_words(row.cost.usd, row.cost.unknown_calls),
        seconds(row.seconds),
        "" if row.failure is None else row.failure.reason,
    ]


def short_key(key: str) -> str:
    """Cut the key of a row to 40 characters."""
    line = one_line(key)
    return line if len(line) <= _KEY_AT_MOST else f"{line[: _KEY_AT_MOST - 1]}…"
