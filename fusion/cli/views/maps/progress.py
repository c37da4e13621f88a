"""Progress of a map, added up from its events in memory that does not grow with its rows."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

from fusion.core.events import (
    AttemptCharged,
    BatchEnded,
    BatchProgressed,
    BatchSubmitted,
    CallFinished,
    EventBase,
    MapFinished,
    MapStarted,
    RowFinished,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
)

_WINDOW: Final = 60.0
"""Seconds over which the rate of rows is taken."""
_SAMPLES: Final = 120


@dataclass(slots=True)
class RowsOfStage:
    """Rows in a stage now, those that have left it, those that failed in it, and its spending in this pass."""

    kind: str
    working: int = 0
    done: int = 0
    failed: int = 0
    usd: Decimal = Decimal(0)
    unknown: int = 0


@dataclass(slots=True)
class _Row:
    """A row in flight: its start, and its stages that have started and not finished."""

    began: float
    stages: list[str] = field(default_factory=list)


class SlowRow(NamedTuple):
    """The row that has been in flight for longest: the id of its run, its time, and its stage."""

    run_id: str
    seconds: float
    stage: str


class MapProgress:
    """Counts of a map. `take` may be called on another thread than the readers; `clock` returns seconds.

    `done` rows have an answer or a failure; `kept` of them are of earlier passes. `usd` is the spending of this pass
    and of kept rows.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.began = clock()
        self.map: MapStarted | None = None
        self.over = False
        self.stages: dict[str, RowsOfStage] = {}
        self.done = self.failed = self.partial = self.kept = 0
        self.usd, self.unknown = Decimal(0), 0
        self.fraction: float | None = None
        self.batches: dict[str, tuple[int, int]] = {}
        self._rows: dict[str, _Row] = {}
        self._samples: deque[tuple[float, int]] = deque([(self.began, 0)], _SAMPLES)
        self._entries: dict[type[EventBase], Callable[[Any], None]] = {
            MapStarted: self._map_started,
            RunStarted: self._row_started,
            StageStarted: self._stage_started,
            StageFinished: self._stage_finished,
            CallFinished: self._called,
            AttemptCharged: self._charged,
            RunFinished: self._row_left,
            RowFinished: self._row_finished,
            BatchSubmitted: self._batched,
            BatchProgressed: self._batched,
            BatchEnded: self._batch_ended,
            MapFinished: self._map_finished,
        }

    def take(self, event: EventBase) -> None:
        """Count an event."""
        entry = self._entries.get(type(event))
        if entry is not None:
            entry(event)

    @property
    def in_flight(self) -> int:
        """Rows that are being worked on."""
        return len(self._rows)

    @property
    def expected(self) -> int | None:
        """Rows of the inputs, if known."""
        return None if self.map is None else self.map.expected

    @property
    def share(self) -> float | None:
        """The share of the inputs that is done, from 0 to 1, if known."""
        if self.expected:
            return min(1.0, self.done / self.expected)
        return self.fraction

    def sample(self) -> None:
        """Note the rows of this pass so far, for the rate."""
        self._samples.append((self._clock(), self.done - self.kept))

    @property
    def rate(self) -> float:
        """Rows that finished a second, over the last minute."""
        now, done = self._clock(), self.done - self.kept
        first, before = next((one for one in self._samples if one[0] >= now - _WINDOW), self._samples[-1])
        return (done - before) / (now - first) if now > first else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The likely time to the end, in seconds; None if it cannot be told yet."""
        share, rate = self.share, self.rate
        if not share or not rate:
            return None
        return max(0.0, self.done / share - self.done) / rate

    @property
    def slowest(self) -> SlowRow | None:
        """The row that has been in flight for longest."""
        rows = list(self._rows.items())
        if not rows:
            return None
        run_id, row = min(rows, key=lambda one: one[1].began)
        return SlowRow(run_id, self._clock() - row.began, row.stages[-1] if row.stages else "")

    def _map_started(self, event: MapStarted) -> None:
        self.map = event
        self.stages = {name: RowsOfStage(kind) for name, kind in event.stages.items()}

    def _map_finished(self, event: MapFinished) -> None:
        self.over = True

    def _row_started(self, event: RunStarted) -> None:
        self._rows[event.run_id] = _Row(self._clock())

    def _stage_started(self, event: StageStarted) -> None:
        stage, row = self.stages.get(event.stage), self._rows.get(event.run_id)
        if stage is not None and row is not None:
            stage.working += 1
            row.stages.append(event.stage)

    def _stage_finished(self, event: StageFinished) -> None:
        stage, row = self.stages.get(event.stage), self._rows.get(event.run_id)
        if stage is None or row is None:
            return
        if event.stage in row.stages:
            row.stages.remove(event.stage)
            stage.working -= 1
        stage.done += event.status == "ok"
        stage.failed += event.status == "failed"

    def _row_left(self, event: RunFinished) -> None:
        row = self._rows.pop(event.run_id, None)
        for name in () if row is None else row.stages:
            self.stages[name].working -= 1

    def _row_finished(self, event: RowFinished) -> None:
        self.done += 1
        self.failed += event.status == "failed"
        self.partial += event.status == "partial"
        self.fraction = event.fraction
        if event.kept:
            self.kept += 1
            self.usd += event.usd or 0
            self.unknown += event.unknown_calls

    def _called(self, event: CallFinished) -> None:
        if event.reused is None:
            self._spend(event.stage, event.cost)

    def _charged(self, event: AttemptCharged) -> None:
        self._spend(event.stage, event.cost)

    def _spend(self, path: str, usd: Decimal | None) -> None:
        stage = self.stages.get(path) or self.stages.get(path.partition("/")[0])
        if usd is None:
            self.unknown += 1
        else:
            self.usd += usd
        if stage is not None:
            stage.unknown += usd is None
            stage.usd += usd or 0

    def _batched(self, event: BatchSubmitted | BatchProgressed) -> None:
        done = event.done + event.failed if isinstance(event, BatchProgressed) else 0
        self.batches[event.batch] = max(done, self.batches.get(event.batch, (0, 0))[0]), event.rows

    def _batch_ended(self, event: BatchEnded) -> None:
        self.batches.pop(event.batch, None)
