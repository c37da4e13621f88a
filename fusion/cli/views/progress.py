"""Where a run stands, added up from its events: what a live view shows."""

import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from fusion.core.events import (
    AttemptCharged,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    EventBase,
    ItemFinished,
    RunFinished,
    RunStarted,
    StageFinished,
    StageGrew,
    StageStarted,
)

State = Literal["waiting", "working", "ok", "skipped", "failed", "stopped"]


@dataclass
class Spent:
    """Tokens and money, with what has no known price counted apart."""

    tokens: int = 0
    usd: Decimal = Decimal(0)
    unknown: int = 0

    @property
    def any(self) -> bool:
        return bool(self.tokens or self.usd or self.unknown)

    def add(self, tokens: int, usd: Decimal | None) -> None:
        self.tokens += tokens
        if usd is None:
            self.unknown += 1
        else:
            self.usd += usd


@dataclass
class StageProgress:
    """One stage: `known` items of which `done` are done, `final` when no more will come.

    `calls` are under way; `reused` were answered by journal or cache, and cost nothing now.
    """

    kind: str
    state: State = "waiting"
    known: int = 0
    final: bool = False
    done: int = 0
    failed: int = 0
    calls: int = 0
    reused: int = 0
    spent: Spent = field(default_factory=Spent)
    began: float | None = None
    seconds: float | None = None

    def elapsed(self, now: float) -> float | None:
        if self.seconds is not None:
            return self.seconds
        return None if self.began is None else now - self.began


class Progress:
    """A run so far. Stages stand in the pipeline's order."""

    def __init__(self) -> None:
        self.pipeline = ""
        self.profile = ""
        self.stages: dict[str, StageProgress] = {}
        self.spent = Spent()
        self.began = time.monotonic()

    @property
    def calls(self) -> int:
        """Calls under way."""
        return sum(stage.calls for stage in self.stages.values())

    def take(self, event: EventBase) -> None:
        match event:
            case RunStarted():
                self.pipeline, self.profile = event.pipeline, event.profile
                self.stages = {name: StageProgress(kind) for name, kind in event.stages.items()}
            case RunFinished():
                self._stop()
            case _ if event.stage in self.stages:
                self._of_stage(event, self.stages[event.stage])
            case _ if (outermost := event.stage.partition("/")[0]) in self.stages:
                self._of_call(event, self.stages[outermost])

    def _of_stage(self, event: EventBase, stage: StageProgress) -> None:
        match event:
            case StageStarted():
                stage.state, stage.began = "working", time.monotonic()
            case StageGrew():
                stage.known, stage.final = event.known, event.final
            case ItemFinished():
                stage.done += 1
                stage.failed += event.failure is not None
            case StageFinished():
                stage.state, stage.seconds, stage.calls = event.status, event.seconds, 0
            case _:
                self._of_call(event, stage)

    def _of_call(self, event: EventBase, stage: StageProgress) -> None:
        match event:
            case CallStarted():
                stage.calls += 1
            case CallFinished(reused=str()):
                stage.calls -= 1
                stage.reused += 1
            case CallFinished():
                stage.calls -= 1
                self._add(stage, event.usage.total, event.cost)
            case CallFailed() | CallCancelled():
                stage.calls -= 1
            case AttemptCharged():  # its tokens are a bound and no usage
                self._add(stage, 0, event.cost)

    def _add(self, stage: StageProgress, tokens: int, usd: Decimal | None) -> None:
        stage.spent.add(tokens, usd)
        self.spent.add(tokens, usd)

    def _stop(self) -> None:
        now = time.monotonic()
        for stage in self.stages.values():
            stage.calls = 0
            if stage.state == "working":
                stage.state, stage.seconds = "stopped", stage.elapsed(now)
