"""Planner: reads rows, finds them in the store, and gives those that are to run a run of their own."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from fusion.bulk.sources import SourceRow
from fusion.bulk.sources.columns import Columns
from fusion.bulk.sources.keys import Repeats, digest, key_of
from fusion.core.errors import InputError
from fusion.core.types import Failure
from fusion.engine.manifest import inputs_data, row_fingerprint
from fusion.engine.run_spec import RunSpec
from fusion.store.base import Store
from fusion.store.encoding import as_json
from fusion.store.rows import Ended, MapEntry, Row, RowSeen, RowStarted, RunRow, SessionStart, Started

_UNREADABLE: Final = InputError.__name__
_NOTHING: Final = Decimal(0)
_HELD: Final = 20_000
"""Longest inputs, in characters of JSON, that a row holds while it waits; longer ones are read from the store."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over a map: what all its rows share."""

    map_id: str
    number: int
    spec: RunSpec
    shared: str
    """Fingerprint of pipeline, templates and models."""
    tags: Mapping[str, str]
    columns: Columns
    key: str | None
    retry_failed: bool

    def name_of(self, row: SourceRow) -> str:
        """Return the text whose hash draws a sample."""
        return row.path or (digest(dict(row.values)) if self.key is None else str(row.values.get(self.key)))


class Planned(NamedTuple):
    """A row of this pass. `run` is None for one that is done, `spec` for a run whose inputs are in the store.

    `line` is the state of its line in the output, None without one.
    """

    number: int
    key: str
    position: int
    run_id: str
    line: str | None
    status: Literal["ok", "partial", "failed", "open"] = "open"
    run: RunRow | None = None
    spec: RunSpec | None = None


@dataclass(slots=True)
class _Read:
    """A row as it was read: its inputs, or the reason why it has none."""

    row: SourceRow
    position: int
    key: str
    given: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


class Planner:
    """Plans the rows of one pass, some at a time. It keeps nothing of rows that it has planned."""

    def __init__(self, store: Store, one: Pass) -> None:
        self._store = store
        self._pass = one
        self._repeats = Repeats()
        self._last = store.last_row(one.map_id)
        self._position = 0

    async def plan(self, rows: Sequence[SourceRow]) -> list[Planned]:
        """Return consecutive rows with their runs, which are in the store then.

        Raises InputError for a key that an earlier row of the pass has.
        """
        planned, changes = self.planned(rows)
        self._store.put(*changes)
        await self._store.written()
        return planned

    def planned(self, rows: Sequence[SourceRow]) -> tuple[list[Planned], list[Row]]:
        """Return consecutive rows, and what is to be written for them."""
        read = [self._read(row) for row in rows]
        entries = self._entries(read)
        lines = self._store.map_lines(self._pass.map_id, [one.key for one in read if one.key not in entries])
        planned = []
        changes: list[Row] = []
        for one in read:
            entry = entries.get(one.key)
            found, written = self._planned(one, entry, lines.get(one.key))
            planned.append(found)
            changes += written
        return planned, changes

    def _read(self, row: SourceRow) -> _Read:
        self._position += 1
        one, problem = self._pass, row.problem
        given: Mapping[str, Any] = {}
        if problem is None:
            try:
                given = one.columns.inputs(row)
            except InputError as error:
                problem = str(error)
        key = key_of(row, one.key, given or {"row": dict(row.values)})
        return _Read(row, self._position, key, given, problem)

    def _entries(self, read: Sequence[_Read]) -> dict[str, MapEntry]:
        """Return the known rows by key. Raises InputError for a key that comes twice in the pass."""
        entries = self._store.map_entries(self._pass.map_id, [one.key for one in read])
        seen = {key: entry.position for key, entry in entries.items() if entry.seen == self._pass.number}
        if self._pass.key is not None or any(one.row.path is not None for one in read):
            for one in read:
                if one.key in seen:
                    raise InputError(
                        f"{one.row.where}: the key {one.key!r} is that of row {seen[one.key]:,} too; a key has one "
                        "row: choose another column for --key"
                    )
                seen[one.key] = one.position
            return entries
        named = self._repeats.named([one.key for one in read], seen)
        repeated = [key for one, key in zip(read, named, strict=True) if key != one.key]
        for one, key in zip(read, named, strict=True):
            one.key = key
        return entries | self._store.map_entries(self._pass.map_id, repeated) if repeated else entries

    def _planned(self, one: _Read, entry: MapEntry | None, line: str | None) -> tuple[Planned, list[Row]]:
        try:
            if one.problem is not None:
                raise InputError(one.problem)
            spec = self._pass.spec.with_inputs(one.given)
        except InputError as error:
            return self._unreadable(one, entry, line, error)
        data = inputs_data(spec)
        fingerprint = row_fingerprint(self._pass.shared, data)
        if entry is None or entry.fingerprint != fingerprint:
            started = self._started(one, entry, fingerprint, data)
            about = (started.number, one.key, one.position, started.run.run_id)
            held = spec if len(started.run.record or "") <= _HELD else None
            return Planned(*about, entry.line if entry else line, "open", _run_of(started), held), [started]
        return self._again(one, entry), [self._seen(one, entry)]

    def _again(self, one: _Read, entry: MapEntry) -> Planned:
        """Return a row whose run is current: done, or to be gone on with."""
        about = (entry.number, one.key, one.position, entry.run_id, entry.line)
        if entry.status == "ok" or (entry.status in ("partial", "failed") and not self._pass.retry_failed):
            return Planned(*about, entry.status)
        return Planned(*about, "open", self._store.run(entry.run_id))

    def _unreadable(
        self, one: _Read, entry: MapEntry | None, line: str | None, error: InputError
    ) -> tuple[Planned, list[Row]]:
        """Return a row that cannot run: it has failed."""
        fingerprint = row_fingerprint(self._pass.shared, {"problem": str(error)})
        if entry is not None and entry.fingerprint == fingerprint:
            done = Planned(entry.number, one.key, one.position, entry.run_id, entry.line, "failed")
            return done, [self._seen(one, entry)]
        started = self._started(one, entry, fingerprint, None)
        run_id, now = started.run.run_id, time.time()
        failure = Failure(reason=_UNREADABLE, message=str(error))
        ended = Ended(run_id, 1, "failed", now, _NOTHING, 0, 0, failure, None)
        done = Planned(started.number, one.key, one.position, run_id, entry.line if entry else line, "failed")
        return done, [started, SessionStart(run_id, 1, now), ended]

    def _seen(self, one: _Read, entry: MapEntry) -> RowSeen:
        return RowSeen(self._pass.map_id, entry.number, self._pass.number, one.position)

    def _started(
        self, one: _Read, entry: MapEntry | None, fingerprint: str, data: Mapping[str, Any] | None
    ) -> RowStarted:
        """Return a new row, or a new generation of one that has changed, which reuses its calls."""
        this = self._pass
        if entry is None:
            self._last += 1
        number = self._last if entry is None else entry.number
        first = f"{this.map_id}-{number}"
        run_id = first if entry is None else f"{first}-g{_generation(entry.run_id, first) + 1}"
        run = Started(
            run_id=run_id,
            parent=None if entry is None else entry.run_id,
            root=first,
            pipeline=this.spec.pipeline.name,
            profile=this.spec.profile,
            started=time.time(),
            tags=this.tags,
            content="full",
            fingerprint=fingerprint,
            record=None if data is None else as_json(data),
        )
        return RowStarted(this.map_id, number, one.key, this.number, one.position, this.shared, run)


def _generation(run_id: str, first: str) -> int:
    """Return the generation that a run of a row is of."""
    return 1 if run_id == first else int(run_id.removeprefix(f"{first}-g"))


def _run_of(row: RowStarted) -> RunRow:
    """Return the run of a row as the store has it before it begins."""
    run = row.run
    return RunRow(
        run_id=run.run_id,
        parent=run.parent,
        root=run.root,
        pipeline=run.pipeline,
        profile=run.profile,
        status="running",
        started=run.started,
        ended=None,
        seconds=0.0,
        sessions=0,
        tags=run.tags,
        content=run.content,
        fingerprint=run.fingerprint,
        usd=_NOTHING,
        unknown_calls=0,
        calls=0,
        failure=None,
        map=row.map_id,
        row=row.number,
    )
