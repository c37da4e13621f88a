"""Worker: runs rows of a map, each from its inputs in the store to its answer there."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fusion.bulk.executors.base import RowEnd
from fusion.core.budget import Budget
from fusion.core.events import EventBase, Sink
from fusion.core.result import FailedPart, Result
from fusion.engine.durable import Recorder, Session, result_of
from fusion.engine.manifest import with_data
from fusion.engine.run_spec import RunSpec
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
    """Runs rows of one map. `spec` is that of the map without inputs; `within` is the budget that all rows share."""

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
        self._recorder = recorder
        self._map_id = map_id
        self._spec = spec
        self._within = within
        self._shared = frozenset(level.name for level in within.levels)
        self._sink: Sink = sink or _ignore
        self._recent = recent or Recent()

    async def work(self, number: int) -> RowEnd:
        """Run a row, or go on with it. Its answer is in the store at the end."""
        row, spec = self._recent.take(number) or (self._run(number), None)
        spec = spec or with_data(self._spec, self._inputs(row))
        session = self._session(row)
        run = self._recorder.run(spec, session, sink=self._sink, stream=False, within=self._within)
        try:
            result = await run.execute()
        except asyncio.CancelledError:
            await session.end(run.interrupted(), interrupted=True)
            raise
        stopped = any(stop.level in self._shared for stop in run.outcome.budget_stops)
        await session.end(result, interrupted=stopped)
        if not stopped and result.status != "waiting":
            self._recent.answers[row.run_id] = result
        cause = run.outcome.budget_stops[0].as_failure() if stopped else result.error
        return RowEnd(number, row.run_id, "stopped" if stopped else result.status, result.cost.usd, cause)

    def _run(self, number: int) -> RunRow:
        assert self._recorder.store is not None
        row = self._recorder.store.row_run(self._map_id, number)
        assert row is not None, "a planned row is in the store"
        return row

    def _inputs(self, row: RunRow) -> dict[str, Any]:
        assert self._recorder.store is not None
        return dict(self._recorder.store.own_record(row.run_id) or {})

    def _session(self, row: RunRow) -> Session:
        if row.sessions == 0:
            return self._recorder.begin_row(row)
        return self._recorder.resume(row, None, retry_budget=True, lost=self._lost(row))

    def _lost(self, row: RunRow) -> Collection[FailedPart]:
        if row.status != "partial" or self._recorder.store is None:
            return ()
        return result_of(self._recorder.store, row).lost


def _ignore(event: EventBase) -> None:
    return None
