"""Limited: bounds the concurrent attempts of a model, their rate, and the time of each."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from fusion.core import budget
from fusion.core.errors import ModelError, ModelTimeoutError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.attempt import Attempt, attempt, note_wait
from fusion.models.base import Model, ModelWrapper
from fusion.models.pace import Gate, Pace, Ticket

_LATE: Final = 0.25
"""Seconds by which a timer is late only if the process was stopped or busy."""


class Deadlines:
    """The deadlines of all attempts with the same timeout, on one timer.

    Nearly all attempts end long before their deadline, so the timer fires at the first one and is then set to that
    of the oldest attempt still open. Each deadline reschedules an `asyncio.timeout(None)`.

    >>> async with asyncio.timeout(None) as timeout:
    ...     deadlines.begin(timeout)
    ...     try:
    ...         await work()
    ...     finally:
    ...         deadlines.end(timeout)
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._graced: set[asyncio.Timeout] = set()
        self._open: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, timeout: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        deadline = self._open[timeout] = loop.time() + self._seconds
        if self._timer is None or self._loop is not loop:
            self._loop, self._timer = loop, loop.call_at(deadline, self._fire)

    def end(self, timeout: asyncio.Timeout) -> None:
        self._open.pop(timeout, None)
        self._graced.discard(timeout)

    def _fire(self) -> None:
        """Expire the timeouts whose deadline has passed, and set the timer for the next."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._put_off(now)
        for timeout, deadline in sorted(self._open.items(), key=lambda pair: pair[1]):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._fire)
                return
            self.end(timeout)
            timeout.reschedule(now)

    def _put_off(self, now: float) -> None:
        """Put off the deadlines that passed while the process was stopped."""
        late = now - min(self._open.values(), default=now)
        if late < _LATE:
            return
        for timeout, deadline in self._open.items():
            if deadline <= now and timeout not in self._graced:
                self._graced.add(timeout)
                self._open[timeout] = now + min(late, self._seconds)


class Limited(ModelWrapper):
    """A model behind gates: at most `concurrency` attempts of its role, then the `gates` that it shares with others.

    One of them may be its Pace, which learns from every response: its headers, its refusals, refused connections.
    `slots` are those of this machine. Once it is through, an attempt is marked as sent in `budget.attempt`, and has
    `request.timeout` seconds to reply. Providers leave that to it. Loading the model's library is part of no attempt.
    Loading, the wait for gates and a failed attempt are waits of the call.

    Raises ModelTimeoutError when the time is over.
    """

    def __init__(
        self,
        inner: Model,
        *,
        concurrency: int | None = None,
        gates: Sequence[Gate] = (),
        slots: asyncio.Semaphore | None = None,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise UsageError(f"the concurrency of {inner.info.id!r} is {concurrency}: give 1 or more")
        super().__init__(inner)
        own = () if concurrency is None else (Gate(concurrency=concurrency),)
        self._gates: tuple[Gate, ...] = (*own, *gates)
        self._slots = slots
        self._deadlines: dict[float, Deadlines] = {}  # by their seconds

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        begun = time.perf_counter()
        await self.inner.ready()
        begun = note_wait("library", begun)
        passed: list[tuple[Gate, Ticket]] = []
        reply = None
        try:
            for gate in self._gates:
                passed.append((gate, await gate.enter(request)))
            if self._slots is None:
                reply = await self._attempt(request, on_delta, passed)
            else:
                begun = time.perf_counter()
                async with self._slots:
                    note_wait("slot", begun)
                    reply = await self._attempt(request, on_delta, passed)
        finally:
            for gate, ticket in reversed(passed):
                gate.leave(ticket, None if reply is None else reply.usage)
        return reply

    async def _attempt(
        self, request: Request, on_delta: Deltas | None, passed: Sequence[tuple[Gate, Ticket]]
    ) -> Reply:
        """Make an attempt within its time, and let the paces among its gates learn from the response."""
        self._mark_sent()
        response, begun = Attempt(), time.perf_counter()
        outer = attempt.set(response)
        deadlines, timeout = self._deadlines_of(request.timeout), asyncio.timeout(None)
        try:
            async with timeout:
                deadlines.begin(timeout)
                reply = await self.inner.complete(request, on_delta)
        except Exception as error:
            note_wait("failed", begun)
            # A provider may turn the cancellation at its deadline into another error.
            late = timeout.expired() and isinstance(error, (TimeoutError, ModelError))
            failure = self._timed_out(request.timeout) if late else error
            for gate, ticket in passed:
                if isinstance(gate, Pace):
                    gate.fail(ticket, response.headers, failure)
            if failure is error:
                raise
            raise failure from error
        finally:
            deadlines.end(timeout)
            attempt.reset(outer)
        for gate, ticket in passed:
            if isinstance(gate, Pace):
                gate.succeed(ticket, response.headers)
        return reply

    def _mark_sent(self) -> None:
        reservation = budget.attempt.get()
        if reservation is not None:
            reservation.sent = True

    def _deadlines_of(self, seconds: float) -> Deadlines:
        found = self._deadlines.get(seconds)
        if found is None:
            found = self._deadlines[seconds] = Deadlines(seconds)
        return found

    def _timed_out(self, seconds: float) -> ModelTimeoutError:
        model = self.info.id
        return ModelTimeoutError(
            f"{model!r} gave no complete reply within {seconds:g} s: raise `timeout` of its role or"
            " `defaults.timeout`, lower `max_tokens`, or use a faster model",
            model=model,
        )
