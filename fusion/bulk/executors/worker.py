"""Worker: runs rows of a map, each from its inputs in the store to its answer there."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusion.bulk.executors.base import RowEnd
from fusion.core.budget import Budget
from fusion.core.errors import FusionError, StoreError
from fusion.core.events import EventBase, Sink
from fusion.core.result import FailedPart, Result
from fusion.engine.durable import Recorder, Session, result_of
from fusion.engine.manifest import with_data
from fusion.engine.run import Run
from fusion.engine.run_spec import RunSpec
from fusion.store.base import Store
from fusion.store.rows import RunRow


@dataclass
class Recent:
    """Rows on their way in this process: those planned and not begun, and answers that are not taken yet."""

    planned: dict[int, tuple[RunRow, RunSpec | None]] = field(default_factory=dict)
    answers: dict[str, Result] = field(default_factory=dict)

    def take(self, number: int) -> tuple[RunRow, RunSpec | None] | None:
        """Return the run of a planned row and its spec, once."""
        return self.planned.pop(number, None)


class Worker:
    """Runs rows of one map. `spec` is that of the map without inputs; `within` is the budget that all rows share.

    Without `recent` the answers are taken from the store, in another process: a row that could not be kept raises
    StoreError.
    """

    def __init__(
        self,
        recorder: Recorder,
        map_id: str,
        spec: RunSpec,
        *,
        within: Budget,
        sink: Sink | None = None,
        recent: Recent | None = None,
    ) -> None:
        assert recorder.store is not None, "a map has a store"
        self._recorder = recorder
        self._store: Store = recorder.store
        self._map_id = map_id
        self._spec = spec
        self._within = within
        self._shared = frozenset(level.name for level in within.levels)
        self._sink: Sink = sink or _ignore
        self._recent = recent

    async def work(self, number: int) -> RowEnd:
        """Run a row that was planned here, or go on with it. Its answer is in the store at the end."""
        row, spec = (None if self._recent is None else self._recent.take(number)) or (self._run(number), None)
        return await self._work(row, spec or self._spec_on(self._store.own_record(row.run_id) or {}))

    async def work_on(self, row: RunRow, inputs: Mapping[str, Any]) -> RowEnd:
        """`work` on a row and its inputs as they are recorded."""
        return await self._work(row, self._spec_on(inputs))

    async def give_up(self, row: RunRow, inputs: Mapping[str, Any], error: FusionError) -> RowEnd:
        """End a row as failed without running it; finished calls stay paid and kept."""
        session = self._session(row)
        result = self._prepared(self._spec_on(inputs), session).failed(error)
        await session.end(result, interrupted=False)
        return RowEnd(_number(row), row.run_id, "failed", result.cost.usd, result.error)

    async def _work(self, row: RunRow, spec: RunSpec) -> RowEnd:
        begun = time.monotonic()
        session = self._session(row)
        run = self._prepared(spec, session)
        try:
            result = await run.execute()
        except asyncio.CancelledError:
            await session.end(run.interrupted(), interrupted=True)
            raise
        stopped = any(stop.level in self._shared for stop in run.outcome.budget_stops)
        await session.end(result, interrupted=stopped)
        if self._recent is None and session.journal.is_out:
            raise StoreError(f"the store {self._store.where} failed while row {row.run_id} ran; it can be resumed")
        if self._recent is not None and not stopped and result.status != "waiting":
            self._recent.answers[row.run_id] = result
        cause = run.outcome.budget_stops[0].as_failure() if stopped else result.error
        status, seconds = "stopped" if stopped else result.status, time.monotonic() - begun
        return RowEnd(_number(row), row.run_id, status, result.cost.usd, cause, seconds)

    def _prepared(self, spec: RunSpec, session: Session) -> Run:
        return self._recorder.run(spec, session, sink=self._sink, stream=False, within=self._within)

    def _spec_on(self, inputs: Mapping[str, Any]) -> RunSpec:
        return with_data(self._spec, inputs)

    def _run(self, number: int) -> RunRow:
        row = self._store.row_run(self._map_id, number)
        assert row is not None, "a planned row is in the store"
        return row

    def _session(self, row: RunRow) -> Session:
        if row.sessions == 0:
            return self._recorder.begin_row(row)
        return self._recorder.resume(row, None, retry_budget=True, lost=self._lost(row))

    def _lost(self, row: RunRow) -> Collection[FailedPart]:
        return result_of(self._store, row).lost if row.status == "partial" else ()


def _number(row: RunRow) -> int:
    assert row.row is not None, "a row of a map has a number"
    return row.row


def _ignore(event: EventBase) -> None:
    return None
