"""Progress of a run, added up from its events."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from fusion.cli.terminal import one_line
from fusion.cli.views.lines import seconds
from fusion.core.events import (
    AttemptCharged,
    BatchEnded,
    BatchProgressed,
    BatchSubmitted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    EventBase,
    ItemFinished,
    OutageChanged,
    RoundStarted,
    RunFinished,
    RunStarted,
    StageFinished,
    StageGrew,
    StageStarted,
)

State = Literal["waiting", "working", "ok", "skipped", "failed", "stopped"]


@dataclass
class Spent:
    """Tokens and dollars; calls without a known price are counted apart."""

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
    """Progress of a stage: `done` of `known` items; `final` when the count is complete.

    `calls` are in flight; `reused` ones were answered by journal or cache at no cost. `titles` are those of its
    items, in order. `round` is the round of a loop, and the most. `batches` are the open batches of its calls, each
    with the rows that are done, and all rows.
    """

    kind: str
    state: State = "waiting"
    known: int = 0
    round: tuple[int, int] | None = None
    final: bool = False
    titles: list[str] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    calls: int = 0
    reused: int = 0
    batches: dict[str, tuple[int, int]] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    began: float | None = None
    seconds: float | None = None

    def elapsed(self, now: float) -> float | None:
        if self.seconds is not None:
            return self.seconds
        return None if self.began is None else now - self.began


def batch_line(event: EventBase) -> str | None:
    """Describe what becomes of a batch."""
    match event:
        case BatchSubmitted():
            calls = f"{event.calls:,} call{'s' * (event.calls != 1)}"
            again = "again in" if event.joined else "in"
            return f"{event.stage}: {calls} to {event.model} {again} batch {event.batch}"
        case BatchProgressed():
            return f"{event.stage}: in batch {event.batch}, {event.done + event.failed:,} of {event.rows:,} done"
        case BatchEnded(status="late"):
            return f"{event.stage}: {event.calls:,} of batch {event.batch} are late and go to the live API"
        case BatchEnded():
            why = f": {one_line(event.message)}" if event.message else ""
            left = "" if event.answered == event.calls else ", the others go on"
            answered = f"{event.answered:,} of {event.calls:,} answered{left}"
            after = f"{event.status} after {seconds(event.seconds)}"
            return f"{event.stage}: batch {event.batch} {after}, {answered}{why}"
    return None


@dataclass
class Outage:
    """A model that is down since `began`, and asked again at `due`; None while a probe is on its way."""

    began: float
    due: float | None


class Progress:
    """Progress of a run. Stages are in the pipeline's order. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.pipeline = ""
        self.profile = ""
        self.stages: dict[str, StageProgress] = {}
        self.spent = Spent()
        self.outages: dict[str, Outage] = {}
        self.began = clock()

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return sum(stage.calls for stage in self.stages.values())

    def take(self, event: EventBase) -> None:
        match event:
            case RunStarted():
                self.pipeline, self.profile = event.pipeline, event.profile
                self.stages = {name: StageProgress(kind) for name, kind in event.stages.items()}
            case RunFinished():
                self._stop()
            case OutageChanged():
                self._of_outage(event)
            case _ if event.stage in self.stages:
                self._of_stage(event, self.stages[event.stage])
            case _ if (outermost := event.stage.partition("/")[0]) in self.stages:
                self._of_call(event, self.stages[outermost])

    def _of_outage(self, event: OutageChanged) -> None:
        if event.state == "closed":
            self.outages.pop(event.model, None)
            return
        now = self._clock()
        outage = self.outages.setdefault(event.model, Outage(now, None))
        outage.due = now + event.seconds if event.state == "open" else None

    def _of_stage(self, event: EventBase, stage: StageProgress) -> None:
        match event:
            case StageStarted():
                stage.state, stage.began = "working", self._clock()
            case StageGrew():
                stage.known, stage.final = event.known, event.final
                stage.titles += [event.title] * bool(event.title)
            case RoundStarted():
                stage.round = event.number, event.most
            case ItemFinished():
                stage.done += 1
                stage.failed += event.failure is not None
            case StageFinished():
                stage.state, stage.seconds, stage.calls = event.status, event.seconds, 0
                stage.batches.clear()
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
            case BatchSubmitted():
                stage.batches[event.batch] = 0, event.rows
            case BatchProgressed():
                stage.batches[event.batch] = event.done + event.failed, event.rows
            case BatchEnded():
                stage.batches.pop(event.batch, None)
            case AttemptCharged():  # its tokens are a bound, not usage
                self._add(stage, 0, event.cost)

    def _add(self, stage: StageProgress, tokens: int, usd: Decimal | None) -> None:
        stage.spent.add(tokens, usd)
        self.spent.add(tokens, usd)

    def _stop(self) -> None:
        now = self._clock()
        for stage in self.stages.values():
            stage.calls = 0
            stage.batches.clear()
            if stage.state == "working":
                stage.state, stage.seconds = "stopped", stage.elapsed(now)
