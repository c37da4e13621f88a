"""Attempt: one request on its way to a provider, and the times of the call that it belongs to."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal, Protocol

from fusion.core.types import Waited

Wait = Literal["library", "budget", "slot", "pause", "failed", "batch"]
"""Causes of a wait, by the fields of Waited."""

_SHORTEST: Final = 0.001
"""Seconds from which on a pause counts as a wait; a shorter one is work."""


class Attempt:
    """One request to a provider. Its door sets `status` and `headers` once a response begins.

    The look-up of headers ignores case.
    """

    __slots__ = ("headers", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}


attempt: ContextVar[Attempt | None] = ContextVar("fusion_attempt", default=None)
"""The attempt of the current task; set around the door."""


def note_response(status: int, headers: Mapping[str, str]) -> None:
    """Record the status and headers of a response in the current attempt, if there is one."""
    here = attempt.get()
    if here is not None:
        here.status, here.headers = status, headers


class Departure:
    """The moment at which the current attempt was sent, by `time.perf_counter`; `first` is that of the first one."""

    __slots__ = ("at", "first", "sent")

    def __init__(self) -> None:
        self.at: float | None = None
        self.first: float | None = None
        self.sent = asyncio.Event()

    def begin(self, now: float) -> None:
        """Record the sending of an attempt."""
        self.at, self.first = now, self.first or now
        self.sent.set()

    def end(self) -> None:
        """Record that it failed: the next one is not sent yet."""
        self.at = None
        self.sent.clear()

    def left(self, seconds: float) -> float | None:
        """Return the time until the attempt has taken so many seconds; None if none is under way."""
        return None if self.at is None else self.at + seconds - time.perf_counter()


departure: ContextVar[Departure | None] = ContextVar("fusion_departure", default=None)
"""The departure of the current call, for those that race it."""


class CallClock:
    """The waits of one call so far, in seconds."""

    __slots__ = ("batch", "budget", "failed", "library", "pause", "slot")

    def __init__(self) -> None:
        self.library = self.budget = self.slot = self.pause = self.failed = self.batch = 0.0

    def waited(self) -> Waited | None:
        """Return the waits; None if there were none."""
        if not (self.library or self.budget or self.slot or self.pause or self.failed or self.batch):
            return None
        return Waited(
            library=self.library,
            budget=self.budget,
            slot=self.slot,
            pause=self.pause,
            failed=self.failed,
            batch=self.batch,
        )


clock: ContextVar[CallClock | None] = ContextVar("fusion_call_clock", default=None)
"""The clock of the current call; set by its caller."""


class Place(Protocol):
    """A place among items that are limited in number, which one whose call is in a batch leaves to others."""

    def leave(self) -> None:
        """Leave the place."""

    def enter(self) -> None:
        """Take a place again at once."""

    async def back(self) -> None:
        """Take a place again once one is free."""


place: ContextVar[Place | None] = ContextVar("fusion_place", default=None)
"""The place of the current call, if its stage limits them."""


def note_wait(cause: Wait, begun: float) -> float:
    """Count the time since `begun`, of `time.perf_counter`, as a wait of the current call. Returns the time now.

    Cheaper than `waiting` where a call seldom waits.
    """
    now = time.perf_counter()
    if now - begun >= _SHORTEST:
        here = clock.get()
        if here is not None:
            setattr(here, cause, getattr(here, cause) + now - begun)
    return now


@contextmanager
def waiting(cause: Wait) -> Iterator[None]:
    """Count the time of a block as a wait of the current call."""
    here, begun = clock.get(), time.perf_counter()
    try:
        yield
    finally:
        if here is not None:
            setattr(here, cause, getattr(here, cause) + time.perf_counter() - begun)
