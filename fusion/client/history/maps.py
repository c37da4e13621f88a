"""Maps in the history: their summaries, details and rows."""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from fusion.client.history.details import copied, moment, run_summary
from fusion.client.history.map_types import MapDetails, MapSummary, RowSummary, StageCost
from fusion.core.errors import UsageError
from fusion.core.result import Cost
from fusion.core.types import FailureFold, FoldedFailure
from fusion.store.base import Store
from fusion.store.lookup import map_state, run_state
from fusion.store.rows import MapEntry, MapRow, RowOrder, RunState, RunStatus

_FEW: Final = 5
_ENDED: Final[tuple[RunStatus, ...]] = ("ok", "partial", "failed")


def map_summary(store: Store, row: MapRow) -> MapSummary:
    """Return the summary of a map."""
    counts = store.map_counts(row.map_id)
    return copied(
        MapSummary,
        row,
        counts,
        status=map_state(store, row),
        started=moment(row.started),
        ended=None if row.ended is None else moment(row.ended),
        cost=Cost(usd=counts.usd, unknown_calls=counts.unknown_calls),
        tags=dict(row.tags),
    )


def map_details(store: Store, row: MapRow) -> MapDetails:
    """Return a map with its spending, failures, and newest and slowest rows."""
    return MapDetails(
        map=map_summary(store, row),
        pipeline_file=_file(store, row),
        stages=tuple(_stages(store, row.map_id)),
        failures=_failures(store, row.map_id),
        newest=tuple(_rows(store, row.map_id, _ENDED, order="last", limit=_FEW)),
        slowest=tuple(_rows(store, row.map_id, _ENDED, order="slowest", limit=_FEW)),
    )


def rows_of(store: Store, map_id: str, *, status: Collection[RunState], limit: int | None) -> Iterator[RowSummary]:
    """Yield rows of a map with their latest runs, those of the highest numbers first."""
    kept: dict[RunStatus, None] = {"running" if one == "died" else one: None for one in status}
    rows = _rows(store, map_id, tuple(kept), order="last")
    return islice((row for row in rows if not status or row.status in status), limit)


def row_entry(store: Store, map_id: str, given: str) -> MapEntry:
    """Return a row of a map by its key, else by its number. Raises UsageError."""
    entry = store.map_entries(map_id, [given]).get(given)
    if entry is None and given.isascii() and given.isdigit():
        entry = store.map_entry(map_id, int(given))
    if entry is None:
        last = store.last_row(map_id)
        has = f"its rows have the numbers 1 to {last:,}" if last else "it has no rows"
        raise UsageError(f"map {map_id!r} has no row with the key or number {given!r}; {has}")
    return entry


def _rows(
    store: Store,
    map_id: str,
    statuses: Collection[RunStatus] = (),
    *,
    order: RowOrder,
    limit: int | None = None,
) -> Iterator[RowSummary]:
    for key, run in store.map_runs(map_id, statuses=statuses, order=order, limit=limit):
        about = run_summary(run, run_state(store, run))
        yield copied(RowSummary, about, map=map_id, number=run.row, key=key)


def _stages(store: Store, map_id: str) -> Iterator[StageCost]:
    for stage, spent in store.map_spending(map_id).items():
        cost = Cost(usd=spent.usd, unknown_calls=spent.unknown)
        yield StageCost(stage=stage, calls=spent.calls, tokens=spent.tokens, cost=cost)


def _failures(store: Store, map_id: str) -> tuple[FoldedFailure, ...]:
    fold = FailureFold()
    failed: tuple[RunStatus, ...] = ("failed",)
    for key, run in store.map_runs(map_id, statuses=failed):
        if run.failure is not None:
            fold.add(run.failure, key)
    return fold.folded


def _file(store: Store, row: MapRow) -> str | None:
    """Return the file of the pipeline in the latest pass, if it was kept."""
    for fingerprint, record in store.map_records(row.map_id):
        if fingerprint == row.fingerprint:
            file = record.get("file")
            return None if file is None else str(file)
    return None
