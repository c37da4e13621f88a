"""History: list, read, compare, export and remove the runs and maps of a store."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, Unpack

from fusion.client.history.details import (
    accounts_of,
    call_details,
    call_line,
    command_lines,
    failed_parts,
    kept_result,
    run_summary,
    stage_lines,
    tool_lines,
)
from fusion.client.history.export import exported_map, exported_run
from fusion.client.history.map_types import MapDetails, MapDiff, MapSummary, RowSummary
from fusion.client.history.maps import map_details, map_summary, row_entry, rows_of
from fusion.client.history.run_types import CallDetails, RunDetails, RunDiff, RunSummary, StoreSizes
from fusion.core.config import Settings
from fusion.core.errors import RunBusyError, UsageError
from fusion.core.result import Result
from fusion.core.types import AnsweredGate
from fusion.store.base import Store
from fusion.store.gates import gates_of
from fusion.store.lookup import (
    Kept,
    StoreGiven,
    find_map,
    find_run,
    id_of,
    map_state,
    removing,
    resolve_store,
    run_state,
)
from fusion.store.rows import MapRow, RunFilter, RunRow, RunState, RunStatus

if TYPE_CHECKING:
    from fusion.pipeline.spec import Pipeline


Row = TypeVar("Row", RunRow, MapRow)
_DAY: Final = 86400
_NO_TAGS: Final[Mapping[str, str]] = {}


class Which(TypedDict, total=False):
    """Filter of runs and maps: every given condition holds.

    `status` lists alternatives; a run has all of `tags`, and started at or after `since` and before `before`.
    """

    status: Collection[RunState]
    pipeline: str | None
    tags: Mapping[str, str]
    since: datetime | None
    before: datetime | None


class History:
    """The runs and maps of a store. An id may be shortened to a unique prefix; `latest` is the one started last.

    >>> with Fusion(store=True) as fusion:
    ...     latest, *_ = fusion.runs.list()
    ...     fusion.runs.show(latest.run_id).receipt.cost
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def store(self) -> Store:
        """The store of these runs."""
        return self._store

    @classmethod
    @contextmanager
    def open(cls, store: StoreGiven = True, settings: Settings | None = None) -> "Iterator[History]":
        """Open the history of a store without a Fusion; close it on exit. Raises StoreError.

        `store` is a path or a Store; True is the store of FUSION_STORE, fusion.toml or the platform.
        """
        kept_in, is_ours = resolve_store(store, settings or Settings.announced(depth=4))
        if kept_in is None:
            raise UsageError("no store is given: name one, as in `History.open(path)`")
        try:
            yield cls(kept_in)
        finally:
            if is_ours:
                kept_in.close()

    # Many runs.

    def list(self, *, limit: int | None = None, **which: Unpack[Which]) -> tuple[RunSummary, ...]:
        """Return runs, newest first, without the rows of maps."""
        return tuple(run_summary(row, status) for row, status in self._runs(which, limit=limit))

    def maps(self, *, limit: int | None = None, **which: Unpack[Which]) -> tuple[MapSummary, ...]:
        """Return maps, newest first."""
        return tuple(map_summary(self._store, row) for row, _ in self._maps(which, limit=limit))

    def rows(
        self, map_id: str, *, status: Collection[RunState] = (), limit: int | None = None
    ) -> Iterator[RowSummary]:
        """Yield the rows of a map, those of the highest numbers first. Raises UsageError for no map."""
        return rows_of(self._store, self._map(map_id).map_id, status=status, limit=limit)

    def ids(self, prefix: str = "") -> tuple[str, ...]:
        """Return the ids of maps and runs that begin with `prefix`, each newest first."""
        return (*self._store.map_ids(prefix), *self._store.run_ids(prefix))

    def sizes(self) -> StoreSizes:
        """Return the path of the store, its rows and its size."""
        return StoreSizes(where=self._store.where, **self._store.sizes())

    def remove(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Remove runs with all their calls, and maps with all their rows; return their ids.

        Raises RunBusyError for a running one, UsageError for an unknown one or a row of a map. Then it removes none,
        unless a run begins meanwhile: that one is kept.
        """
        rows: dict[str, Kept] = {}
        for given in ids:
            one = find_map(self._store, given) or find_run(self._store, given)
            if isinstance(one, RunRow) and one.map is not None:
                raise UsageError(f"run {one.run_id!r} is a row of map {one.map!r}; remove the map: it is one whole")
            rows[id_of(one)] = one
        for dry_run in (True, False):
            gone = {id_of(one) for one in removing(self._store, rows.values(), dry_run=dry_run)}
            if busy := [one for one_id, one in rows.items() if one_id not in gone]:
                kind = "map" if isinstance(busy[0], MapRow) else "run"
                raise RunBusyError(f"{kind} {id_of(busy[0])!r} is being run; wait for its end, or stop it first")
        return tuple(rows)

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        **which: Unpack[Which],
    ) -> tuple[RunSummary | MapSummary, ...]:
        """Remove the runs and maps that match and started more than `older_than` days ago, except the newest `keep`.

        Returns the removed ones; with `dry_run`, those that would be. Running ones are kept, and waiting ones unless
        the status is given. A map is removed with its rows or not at all.

        Raises UsageError without an age, a number or a status.
        """
        if older_than is None and keep is None and not which.get("status"):
            raise UsageError("no runs to prune: give an age (older_than), a number (keep) or a status")
        until = None if older_than is None else time.time() - older_than * _DAY
        rows: list[tuple[Kept, RunState]] = [*self._runs(which), *self._maps(which)]
        rows.sort(key=lambda one: -one[0].started)
        states = {id_of(row): status for row, status in rows}
        free = removing(self._store, self._prunable(rows[keep or 0 :], until, which), dry_run=dry_run)
        return tuple(
            map_summary(self._store, row) if isinstance(row, MapRow) else run_summary(row, states[row.run_id])
            for row in free
        )

    def _prunable(self, rows: Sequence[tuple[Kept, RunState]], until: float | None, which: Which) -> Iterator[Kept]:
        """Yield those that may be removed: old enough, not running, and not waiting unless that is asked for."""
        for row, status in rows:
            held = status == "running" or (status == "waiting" and "waiting" not in which.get("status", ()))
            if not held and (until is None or self._is_older(row, until)):
                yield row

    def _is_older(self, row: Kept, until: float) -> bool:
        """Return True for a run that started before `until`, or a map whose latest pass did."""
        return (row.started if isinstance(row, RunRow) else row.resumed) < until

    # One map.

    def map_id(self, given: str) -> str | None:
        """Return the id of the map that an id means; None if it means a run, or nothing."""
        row = find_map(self._store, given)
        return None if row is None else row.map_id

    def show_map(self, map_id: str) -> MapDetails:
        """Return a map with its spending by stage, its folded failures, and its newest and slowest rows."""
        return map_details(self._store, self._map(map_id))

    def row(self, map_id: str, row: str) -> str:
        """Return the id of the latest run of a row, by its key, else by its number. Raises UsageError."""
        return row_entry(self._store, self._map(map_id).map_id, row).run_id

    def diff_maps(self, a: str, b: str) -> MapDiff:
        """Compare two maps row by row, by key."""
        from fusion.client.history.map_diff import compared_maps

        one, other = (map_summary(self._store, self._map(given)) for given in (a, b))
        return compared_maps(self._store, one, other)

    # One run.

    def find(self, run_id: str) -> RunSummary:
        """Return the summary of a run. Raises UsageError if no id or several begin with `run_id`."""
        return self._found(run_id)[1]

    def show(self, run_id: str) -> RunDetails:
        """Return a run with its receipt, stages, calls, failures and notes; `call` returns the texts of a call."""
        row, run = self._found(run_id)
        result = kept_result(self._store, row)
        accounts, was = accounts_of(self._store, row)
        calls = tuple(call_line(call) for call in self._store.calls(row.run_id))
        return RunDetails(
            run=run,
            receipt=accounts.receipt(row.seconds, row.tags) if result is None else result.receipt,
            models=accounts.served(),
            stages=stage_lines(was, calls),
            calls=calls,
            tools=tool_lines(was.events),
            commands=command_lines(was.events),
            failed=failed_parts(was.events) if result is None else result.failed,
            notes=tuple(accounts.notes),
            gates=gates_of(self._store, row.run_id),
        )

    def gates(self, run_id: str) -> tuple[AnsweredGate, ...]:
        """Return the questions of a run to people, in order, each with its answer; None for an open one."""
        return gates_of(self._store, find_run(self._store, run_id).run_id)

    def result(self, run_id: str) -> Result:
        """Return the Result of a finished run. Raises UsageError for an unfinished one, StoreError if not kept."""
        from fusion.engine.durable import result_of

        row = find_run(self._store, run_id)
        if row.ended is None:
            raise UsageError(f"run {row.run_id!r} has not ended (it is {run_state(self._store, row)!r})")
        return result_of(self._store, row)

    def pipeline(self, run_id: str) -> "Pipeline":
        """Return the pipeline of a run, as it was at its start. Raises StoreError if it was not kept."""
        from fusion.engine.durable import record_of

        return record_of(self._store, find_run(self._store, run_id)).pipeline

    def call(self, run_id: str, which: int | str) -> CallDetails:
        """Return a call with its texts, by its number, its place such as `work/3/work`, or a prefix of the place.

        Raises UsageError if no call matches, or several do.
        """
        row = find_run(self._store, run_id)
        number = int(which) if str(which).isascii() and str(which).isdigit() else self._number(row, str(which))
        call = self._store.call(row.run_id, number)
        if call is None:
            last, _ = self._store.last_numbers(row.run_id)
            has = f"its calls have the numbers 1 to {last}" if last else "it has no calls"
            raise UsageError(f"run {row.run_id!r} has no call {number}; {has}")
        return call_details(call, row)

    def diff(self, a: str, b: str) -> RunDiff:
        """Compare two runs."""
        from fusion.client.history.run_diff import compared

        return compared(self._store, self.find(a), self.find(b))

    def export(self, given: str) -> Iterator[str]:
        """Return everything kept of a run or a map as one JSON document, in pieces to write in order.

        Of a run, its keys are `version` (of this format), `run`, `receipt`, `record` (pipeline, inputs and models)
        and `result`, both null if they were not kept. Then come the lists `decisions`, `events`, `attempts` (the
        ledger) and `calls`, with messages and replies.

        Of a map they are `version`, `map`, `records` (that rows share, by fingerprint), and the list `rows`. A row is
        a run with `row` (number and key) and `shared` (the fingerprint of its record); its `record` has its inputs.
        """
        row = find_map(self._store, given)
        if row is not None:
            return exported_map(self._store, row)
        return exported_run(self._store, find_run(self._store, given))

    # Rows.

    def _found(self, run_id: str) -> tuple[RunRow, RunSummary]:
        row = find_run(self._store, run_id)
        return row, run_summary(row, run_state(self._store, row))

    def _map(self, given: str) -> MapRow:
        row = find_map(self._store, given)
        if row is None:
            raise UsageError(f"no map {given!r} in {self._store.where}; `fusion runs list` names them")
        return row

    def _runs(self, which: Which, *, limit: int | None = None) -> Sequence[tuple[RunRow, RunState]]:
        """Return the runs that match, with their states. Only its lock tells a running run from a dead one."""
        meant, exact = _filter(which)
        rows = self._store.runs(meant, limit=limit if exact else None)
        return _matching(((row, run_state(self._store, row)) for row in rows), which, limit)

    def _maps(self, which: Which, *, limit: int | None = None) -> Sequence[tuple[MapRow, RunState]]:
        """Return the maps that match, with their states."""
        meant, exact = _filter(which)
        rows = self._store.maps(meant, limit=limit if exact else None)
        return _matching(((row, map_state(self._store, row)) for row in rows), which, limit)

    def _number(self, row: RunRow, place: str) -> int:
        lines = [call_line(call) for call in self._store.calls(row.run_id)]
        exact = [line for line in lines if line.place == place]
        found_ = exact or [line for line in lines if line.place.startswith(f"{place.rstrip('/')}/")]
        if len(found_) == 1:
            return found_[0].number
        if not found_:
            raise UsageError(
                f"run {row.run_id!r} has no call {place!r}; give its number, or its place such as 'work/3/work'"
            )
        named = ", ".join(f"{line.number} ({line.place})" for line in found_[:10])
        raise UsageError(f"{place!r} matches {len(found_)} calls of run {row.run_id!r}: {named}; give a number")


def _filter(which: Which) -> tuple[RunFilter, bool]:
    """Return the filter of a store, and True if it is exact: no lock has to be looked at."""
    status = set(which.get("status", ()))
    kept: dict[RunStatus, None] = {"running" if one == "died" else one: None for one in which.get("status", ())}
    since, before = which.get("since"), which.get("before")
    meant = RunFilter(
        statuses=tuple(kept),
        pipeline=which.get("pipeline"),
        tags=which.get("tags", _NO_TAGS),
        started_from=None if since is None else since.timestamp(),
        started_before=None if before is None else before.timestamp(),
    )
    return meant, not {"running", "died"} & status


def _matching(
    rows: Iterable[tuple[Row, RunState]], which: Which, limit: int | None
) -> Sequence[tuple[Row, RunState]]:
    status = set(which.get("status", ()))
    return [(row, one) for row, one in rows if not status or one in status][:limit]
