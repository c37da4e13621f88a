"""Gate: the place where calls wait for a slot, and for their turn under a rate."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Final

from fusion.core.events import span
from fusion.core.types import Request, Usage
from fusion.models.attempt import Wait, waiting
from fusion.models.base import BYTES_PER_TOKEN
from fusion.models.pace.meter import Meter
from fusion.models.pace.queue import FairQueue, Waiter
from fusion.models.pace.shared import SharedMeter

NEVER: Final = float("inf")
_FIRST_OUTPUT: Final = 1_000
"""Output tokens that a call is expected to take before any reply is known."""
_FORMAT: Final = 8
"""Tokens of a chat's format."""
_LEARNED: Final = 0.2
"""Weight of a new measurement."""
_LATE: Final = 0.0002

Rates = Callable[[str, float], float]
"""Books so many seconds of the shared rate of a unit, requests or tokens; returns the seconds until they begin."""

patience: ContextVar[float] = ContextVar("fusion_patience", default=NEVER)
"""Seconds that the current attempt may wait until its model's rate limit lets any request pass."""
spare: ContextVar[bool] = ContextVar("fusion_spare", default=False)
"""True if another model is left for the current call, so that one that admits nothing is not waited for."""


class Ticket:
    """One call that passed a gate: its number there, the time, and its expected tokens.

    `before` are the tokens of all calls up to it, in and out.
    """

    __slots__ = ("at", "before", "input", "number", "output")

    def __init__(self, at: float, taken: int, given: int) -> None:
        self.at = at
        self.input = taken
        self.output = given
        self.number = 0
        self.before = 0, 0

    @property
    def tokens(self) -> int:
        return self.input + self.output


class Gate:
    """Limits the concurrent calls, the requests and the tokens a minute, of all runs together.

    Where nothing is in the way, a call passes at once: no task, timer or lock. Otherwise it waits in a FairQueue. One
    timer serves all that wait. The tokens of a call are estimated from its size and the mean output so far, and
    corrected by its reply. With `rates` those of all processes of a store together keep to them.
    """

    def __init__(
        self,
        *,
        concurrency: int | None = None,
        rpm: float | None = None,
        tpm: float | None = None,
        rates: Rates | None = None,
    ) -> None:
        self.open = 0
        self._most = NEVER if concurrency is None else concurrency
        self._rates = rates
        self._least = 0.0
        """Tokens that a call counts for at least: of two shared rates only that of tokens is booked."""
        if rates is not None and rpm is not None and tpm is not None:
            self._least, rpm = tpm / rpm, None
        self._requests = None if rpm is None else self._meter("requests", rpm / 60)
        self._tokens = None if tpm is None else self._meter("tokens", tpm / 60)
        self._plain = rpm is None and tpm is None
        self._counts = tpm is not None
        """True once the tokens of calls matter."""
        self._queue = FairQueue[Waiting]()
        self._output: float | None = None
        self._scale: float | None = None
        """Input tokens as measured, over those estimated; None until a reply is known."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None
        self._due = NEVER
        """Time of the timer: the handles of other event loops than asyncio's do not tell it."""

    async def enter(self, request: Request) -> Ticket:
        """Wait for the call's turn. `leave` must follow."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        if not self._queue:
            now = loop.time()
            if self._delay(now, request) <= 0:
                return self._admit(now, request, waited=False)
        return await self._wait(request, loop)

    def leave(self, ticket: Ticket, usage: Usage | None = None) -> None:
        """End a call; `usage` is that of its reply, if it has one."""
        self.open -= 1
        if usage is not None and self._counts:
            self._correct(ticket, usage)
        if self._queue:
            self._pump()

    def _delay(self, now: float, request: Request) -> float:
        """Return the seconds until the next call may pass; infinite until another one has left."""
        if self.open >= self._most:
            return NEVER
        if self._plain:
            return 0.0
        delays = [] if self._requests is None else [self._requests.delay(now)]
        if self._tokens is not None:
            delays.append(
                self._tokens.delay(now, 1.0 if self._rates is None else self._counted(sum(self._expected(request))))
            )
        return max(delays)

    def _counted(self, tokens: float) -> float:
        return max(tokens, self._least)

    def _meter(self, unit: str, rate: float) -> Meter:
        """Return the meter of a rate, that of all processes if the rate is shared."""
        if self._rates is None:
            return Meter(rate)
        return SharedMeter(rate, partial(self._rates, unit), waiting=lambda: len(self._queue), wake=self._pump)

    def _admit(self, now: float, request: Request, *, waited: bool) -> Ticket:
        taken, given = self._expected(request) if self._counts else (0, 0)
        ticket = Ticket(now, taken, given)
        self.open += 1
        if self._requests is not None:
            self._requests.take(now)
        if self._tokens is not None:
            self._tokens.take(now, self._counted(ticket.tokens))
        return ticket

    def _expected(self, request: Request) -> tuple[int, int]:
        """Estimate the tokens that a call takes and gives."""
        size = _FORMAT + sum([message.size for message in request.messages]) / BYTES_PER_TOKEN
        given = _FIRST_OUTPUT if self._output is None else self._output
        return int(size * (self._scale or 1.0) + 0.5), int(min(request.max_tokens, given) + 0.5)

    def _correct(self, ticket: Ticket, usage: Usage) -> None:
        if self._output is None:
            self._output = float(usage.output)
        self._output += _LEARNED * (usage.output - self._output)
        if usage.source == "measured" and ticket.input:
            found = max(usage.input, 1) / ticket.input
            self._scale = found if self._scale is None else self._scale * found**_LEARNED
        if self._tokens is not None:
            self._tokens.correct(self._counted(usage.total) - self._counted(ticket.tokens))

    async def _wait(self, request: Request, loop: asyncio.AbstractEventLoop) -> Ticket:
        here = span.get()
        run = "" if here is None else here.run_id
        size = sum(self._expected(request))
        waiter = Waiting(run, size, request)
        self._queue.add(waiter)
        with waiting(self._cause(loop.time(), request)):
            self._pump()
            try:
                self._check(waiter)
                await waiter.turn
            except asyncio.CancelledError:
                if waiter.ticket is not None:
                    self.leave(waiter.ticket)
                raise
        assert waiter.ticket is not None
        return waiter.ticket

    def _cause(self, now: float, request: Request) -> Wait:
        """Return what a call waits for: a slot, or a rate."""
        return "slot" if self._delay(now, request) == NEVER else "pause"

    def _check(self, waiter: "Waiting") -> None:
        """Report that a call waits. Raises ModelError for one that may not wait so long."""

    def _pump(self) -> None:
        """Let calls pass in turn, and set the timer for the next."""
        assert self._loop is not None
        now = self._loop.time()
        while (waiter := self._queue.first()) is not None:
            delay = self._delay(now, waiter.request)
            if delay > 0:
                self._set_timer(now + delay)
                return
            self._queue.pop()
            waiter.ticket = self._admit(now, waiter.request, waited=True)
            waiter.turn.set_result(None)

    def _set_timer(self, at: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            if self._due <= at + _LATE:
                return
            self._timer.cancel()
        self._due = at
        self._timer = None if at == NEVER else self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._pump()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew on another event loop: the calls of the one before ended with it."""
        self._loop, self._timer = loop, None
        self._queue, self.open = FairQueue(), 0


class Waiting(Waiter):
    """A waiting call with its request, its patience in seconds and, once it passed, its ticket.

    `spare` is True if another model is left for it.
    """

    __slots__ = ("patience", "request", "spare", "ticket")

    def __init__(self, flow: str, size: float, request: Request) -> None:
        super().__init__(flow, size)
        self.patience = patience.get()
        self.spare = spare.get()
        self.request = request
        self.ticket: Ticket | None = None
