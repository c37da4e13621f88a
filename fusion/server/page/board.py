"""Board: the state of one run and its stages, read from the store piece by piece, and from its live part."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from fusion.client.history.details import kept_result
from fusion.core.events import (
    Decided,
    EventBase,
    ItemFinished,
    Noted,
    RoundStarted,
    StageFinished,
    StageStarted,
)
from fusion.server.runs.progress import Progress, RunProgress
from fusion.store.base import Store
from fusion.store.lookup import kept_events, run_state
from fusion.store.rows import AttemptState, Call, RunRow, RunState, Spending

OPEN: Final[tuple[AttemptState, ...]] = ("open",)
_NOTHING: Final = Spending(Decimal(0), 0, 0, 0)


@dataclass
class StageBoard:
    """A stage as far as the store has it. Times are seconds since 1970; `items` are finished ones by index.

    `round` is the round of a loop, and the most.
    """

    kind: str
    status: str = "waiting"
    began: float | None = None
    ended: float | None = None
    calls: int = 0
    refused: int = 0
    reused: int = 0
    items: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    failure: Any = None
    decision: str | None = None
    round: tuple[int, int] | None = None

    def start(self, event: StageStarted) -> None:
        self.kind, self.status, self.ended, self.failure = event.kind, "open", None, None
        self.began = self.began or event.at.timestamp()
        self.failed.clear()

    def finish(self, event: StageFinished) -> None:
        self.kind, self.status, self.ended = event.kind, event.status, event.at.timestamp()
        self.failure = None if event.failure is None else event.failure.model_dump()

    def fail(self, event: ItemFinished) -> None:
        if event.item is not None and event.failure is not None:
            self.failed.add(event.item)

    def decide(self, event: Decided) -> None:
        self.decision = event.decision if event.item is None else None

    def call(self, call: Call) -> None:
        """Count a finished or failed call."""
        self.calls += 1
        self.refused += call.state == "failed"
        self.reused += call.reused is not None
        if call.key.item is not None and call.state == "finished":
            self.items.add(call.key.item)


@dataclass(frozen=True)
class KeptEvent:
    """An event of the store with its number."""

    number: int
    event: EventBase


class Board:
    """The state of a run. `refresh` reads what is new; nothing that was read is read again.

    `kinds` are the kinds of the stages that are known before the first of them starts.
    """

    def __init__(self, store: Store, row: RunRow, live: Progress, kinds: Mapping[str, str]) -> None:
        self._store = store
        self._live = live
        self._calls = 0
        self._events = 0
        self._spent: dict[str, Spending] = {}
        self._flying: dict[str, int] = {}
        self.row = row
        self.status: RunState = "running"
        self.stages = {path: StageBoard(kind) for path, kind in kinds.items()}
        self.notes: list[str] = []

    @property
    def live(self) -> RunProgress | None:
        """The part of the run that only this process knows."""
        return self._live.of(self.row.run_id)

    @property
    def last_event(self) -> int:
        """Number of the last event that was read."""
        return self._events

    @property
    def over(self) -> bool:
        """True once no process works on the run."""
        return self.status != "running"

    def refresh(self) -> Sequence[KeptEvent]:
        """Read what is new, and return the new events."""
        run_id = self.row.run_id
        self.row = self._store.run(run_id) or self.row  # before the rest: what it says has ended is all there
        self.status = run_state(self._store, self.row)
        for call in self._store.calls(run_id, after=self._calls):
            self._calls = call.number
            self._stage(call.key.stage).call(call)
        found = []
        for event in kept_events(self._store, run_id, after=self._events):
            self._events += 1
            self._take(event)
            found.append(KeptEvent(self._events, event))
        self._spent = self._store.spending(run_id)
        self._flying = self._in_flight()
        return found

    def _stage(self, path: str) -> StageBoard:
        return self.stages.setdefault(path, StageBoard(""))

    def _take(self, event: EventBase) -> None:
        match event:
            case StageStarted():
                self._stage(event.stage).start(event)
            case StageFinished():
                self._stage(event.stage).finish(event)
            case ItemFinished():
                self._stage(event.stage).fail(event)
            case Decided():
                self._stage(event.stage).decide(event)
            case RoundStarted():
                self._stage(event.stage).round = event.number, event.most
            case Noted():
                self.notes.append(event.message)

    def _in_flight(self) -> dict[str, int]:
        """Count the calls in flight by stage."""
        if self.over:
            return {}
        if self.live is not None:
            return {path: stage.flying for path, stage in self.live.stages.items() if stage.flying > 0}
        flying: defaultdict[str, int] = defaultdict(int)
        for attempt, _ in self._store.attempts(self.row.run_id, states=OPEN):
            flying[attempt.stage] += 1
        return flying

    # JSON.

    def state(self) -> dict[str, Any]:
        """Return the state of the run and of its stages as JSON data."""
        row = self.row
        return {
            "status": self.status,
            "usd": str(row.usd),
            "unknown_calls": row.unknown_calls,
            "calls": row.calls,
            "tokens": sum(one.tokens for one in self._spent.values()),
            "began": row.started,
            "ended": self._ended(),
            "seconds": row.seconds,
            "sessions": row.sessions,
            "flying": sum(self._flying.values()),
            "failure": None if row.failure is None else row.failure.model_dump(),
            "live": self.live is not None and not self.over,
            "now": time.time(),
            "stages": {path: self._of(path, stage) for path, stage in self.stages.items()},
        }

    def _ended(self) -> float | None:
        if self.status == "died":
            return self.row.started + self.row.seconds
        return self.row.ended

    def _of(self, path: str, stage: StageBoard) -> dict[str, Any]:
        spent = self._spent.get(path, _NOTHING)
        return {
            "kind": stage.kind,
            "status": "stopped" if stage.status == "open" and self.over else stage.status,
            "began": stage.began,
            "ended": stage.ended,
            "calls": stage.calls,
            "refused": stage.refused,
            "reused": stage.reused,
            "flying": self._flying.get(path, 0),
            "usd": str(spent.usd),
            "tokens": spent.tokens,
            "unknown_calls": spent.unknown,
            "failure": stage.failure,
            "decision": stage.decision,
            "round": stage.round,
            **self._items(path, stage),
        }

    def _items(self, path: str, stage: StageBoard) -> dict[str, Any]:
        """Count the items of a stage: `done` of `known`, None where it is not known how many there are."""
        live = None if self.live is None else self.live.stages.get(path)
        seen = len(stage.items | stage.failed)
        if live is not None and live.known is not None:
            done, failed = max(live.done, 0), max(live.failed, len(stage.failed))
            return {"known": live.known, "final": live.final, "done": done, "failed": failed}
        is_over = stage.ended is not None or self.over
        return {
            "known": seen if is_over and seen else None,
            "final": is_over,
            "done": seen,
            "failed": len(stage.failed),
        }

    def plan(self) -> list[str]:
        """Return the titles of the subtasks planned so far."""
        if self.live is not None and self.live.titles:
            return list(self.live.titles)
        return plan_of(self._store, self.row.run_id)

    def answer(self) -> dict[str, Any] | None:
        """Return the answer so far: its text, and True if it is whole."""
        result = kept_result(self._store, self.row)
        if result is not None:
            return {"text": result.text, "data": result.data, "whole": True}
        return None if self.live is None else {"text": "".join(self.live.pieces), "data": None, "whole": False}


def plan_of(store: Store, run_id: str) -> list[str]:
    """Return the titles of the subtasks that the run has accepted, those of its last plan."""
    plans: dict[str, list[str]] = {}
    for one in store.decisions(run_id):
        name, _, asked = one.name.partition("@")
        word, _, number = name.partition(" ")
        if word == "subtask" and number.isdigit() and isinstance(one.value, Mapping):
            plans.setdefault(f"{one.stage}@{asked}", []).append(str(one.value.get("title") or ""))
    return next(reversed(plans.values()), [])
