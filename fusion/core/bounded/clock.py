"""Clock: bounds work on untrusted text in time, and moves long work off the event loop.

Work is a pure function: it is tried on the event loop for a few milliseconds, and begun anew in a thread if it takes
longer. The work itself asks its clock, in every loop whose length depends on the text.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from fusion.core.errors import StageError

T = TypeVar("T")

LIGHT_SECONDS: Final = 0.004
"""Longest work on the event loop."""
LIGHT_SIZE: Final = 16_384
"""Longest text, in characters, that is worked on in the event loop."""
LIGHT_STEP: Final = 262_144
"""Longest text, in characters, that one step over it may read or write in the event loop."""
HEAVY_SECONDS: Final = 10.0
"""Longest work in a thread."""


class OverrunError(BaseException):
    """The work takes longer than the event loop may wait; it is begun anew in a thread.

    A BaseException, so that no handler of errors within the work takes it for a failure.
    """


class TimeUpError(StageError):
    """The work takes longer than it may."""


class Clock:
    """Deadline of the work in its `with` block, which other threads may bring forward."""

    __slots__ = ("_token", "_until", "light", "seconds")

    def __init__(self, seconds: float, *, light: bool = False) -> None:
        self.seconds = seconds
        self.light = light
        self._until = time.monotonic() + seconds
        self._token: Token[Clock | None] | None = None

    def __enter__(self) -> "Clock":
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(self._until - time.monotonic(), 0.0)

    def stop(self) -> None:
        """End the work at its next check."""
        self._until = 0.0

    def check(self) -> None:
        """Raise OverrunError or TimeUpError after the deadline."""
        if time.monotonic() > self._until:
            self.fail()

    def fail(self) -> None:
        """Raise the error for work that takes too long."""
        if self.light:
            raise OverrunError
        raise TimeUpError(f"it takes longer than {self.seconds:g} s")


_current: ContextVar[Clock | None] = ContextVar("fusion_clock", default=None)


def current() -> Clock | None:
    """Return the clock of the work in progress, if any."""
    return _current.get()


def check() -> None:
    """Raise OverrunError or TimeUpError if the work in progress takes too long."""
    clock = _current.get()
    if clock is not None:
        clock.check()


def check_light(size: int) -> None:
    """Raise OverrunError on the event loop, for a text of so many characters that one step over it takes long."""
    clock = _current.get()
    if clock is not None and clock.light and size > LIGHT_STEP:
        raise OverrunError


def size_of(value: Any) -> int:
    """Return the size of data in characters, about; counting ends above what the event loop works on."""
    size, left = 0, [value]
    while left and size <= LIGHT_SIZE:
        part = left.pop()
        size += len(part) if isinstance(part, str) else 8
        if isinstance(part, Mapping):
            left += [*islice(part, LIGHT_SIZE), *islice(part.values(), LIGHT_SIZE)]
        elif isinstance(part, (list, tuple)):
            left += part[:LIGHT_SIZE]
        elif isinstance(part, BaseModel):
            left += vars(part).values()
    return size


def lightly(work: Callable[[], T]) -> T:
    """Return the result of `work` on the event loop. Raises OverrunError if it takes too long there."""
    with Clock(LIGHT_SECONDS, light=True):
        return work()


async def run(work: Callable[[], T], *, size: int = 0, seconds: float = HEAVY_SECONDS) -> T:
    """Return the result of `work`, a pure function over a text of `size` characters.

    A cancelled caller does not wait for the thread, which ends at its next check. Raises TimeUpError after `seconds`.
    """
    if size <= LIGHT_SIZE:
        try:
            return lightly(work)
        except OverrunError:
            pass
    from asyncio import to_thread  # here: checking stages needs no event loop

    clock = Clock(seconds)
    try:
        return await to_thread(_within, clock, work)
    finally:
        clock.stop()


def _within(clock: Clock, work: Callable[[], T]) -> T:
    with clock:
        clock.check()
        return work()
