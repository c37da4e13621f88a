"""Progress: events of a run as the steps, items and dollars that a client shows while it waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from decimal import Decimal
from typing import Final, NamedTuple

from fusion.core.events import (
    AttemptCharged,
    CallFinished,
    EventBase,
    ItemFinished,
    RunStarted,
    StageFinished,
    StageGrew,
    StageStarted,
)

_BEAT: Final = 10.0
"""Seconds after which a client hears of a run again, also without news: hosts give up on silent tools."""
_PAUSE: Final = 0.2


class Step(NamedTuple):
    """Progress as a client hears it: steps done, the known ones, and a line for people."""

    progress: float
    total: float | None
    message: str


class _Stage:
    """A stage under way: items that are known and done."""

    def __init__(self) -> None:
        self.known = 0
        self.done = 0


class Progress:
    """Adds up the events of a run. A step is a stage or an item; calls between two steps are parts of one."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._stages = 0
        self._known = 0
        self._done = 0
        self._parts = 0
        self._usd = Decimal(0)
        self._now: dict[str, _Stage] = {}

    def take(self, event: EventBase) -> None:
        """Take an event of the run."""
        match event:
            case RunStarted():
                self._stages = len(event.stages)
            case StageStarted(stage=stage):
                self._now.setdefault(stage, _Stage())
            case StageGrew(stage=stage, known=known):
                of = self._now.setdefault(stage, _Stage())
                self._known += known - of.known
                of.known = known
            case ItemFinished(stage=stage):
                self._now.setdefault(stage, _Stage()).done += 1
                self._step()
            case StageFinished(stage=stage):
                self._now.pop(stage, None)
                self._step()
            case CallFinished(reused=None, cost=cost) | AttemptCharged(cost=cost):
                self._usd += cost or 0
                self._parts += 1
            case _:
                return
        self.changed.set()

    async def steps(self) -> AsyncIterator[Step]:
        """Yield a step whenever there is news, a few in a second at most, and one now and then without any."""
        last = -1.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_BEAT):
                    await self.changed.wait()
            self.changed.clear()
            if self.step().progress <= last:  # a client must hear of growth
                self._parts += 1
            last = self.step().progress
            yield self.step()
            await asyncio.sleep(_PAUSE)

    def step(self) -> Step:
        """Return the step that the run has reached."""
        total = max(self._stages + self._known, self._done + 1)
        return Step(self._done + self._parts / (self._parts + 1), float(total), self._message())

    def _step(self) -> None:
        self._done, self._parts = self._done + 1, 0

    def _message(self) -> str:
        now = ", ".join(
            f"{name} {stage.done}/{stage.known}" if stage.known else name
            for name, stage in self._now.items()
            if "/" not in name
        )
        return f"{now or 'starting'}; ${self._usd:.4f}"
