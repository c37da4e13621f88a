"""Breaker: keeps calls from a model that is down, and finds out with one probe at a time when it is back."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Final, Literal, NamedTuple

from fusion.core import budget
from fusion.core.errors import ModelError, OutageError
from fusion.core.events import OutageChanged, Span, span
from fusion.core.types import Deltas, Reply, Request
from fusion.models.attempt import waiting
from fusion.models.base import Model, ModelWrapper, TrackedDeltas

State = Literal["closed", "open", "probing"]

_IN_A_ROW: Final = 5
_SHARE: Final = 0.8
_RECENT: Final = 20
_FIRST_REST: Final = 1.0
_LONGEST_REST: Final = 30.0
_LONGEST_ASKED: Final = 300.0
"""Longest Retry-After of an outage that is heeded."""
_LONG: Final = 1.0
_OUT_OF_PROPORTION: Final = 4.0
"""Times the slowest of the last replies: a failure that took longer tells more than a quick one."""
_TRIAL: Final = 20.0
"""Part of the timeout that a probe may hold up a call which has another model left."""
_BLINK: Final = 0.05
"""Seconds of the same after an outage in which the model did not even fail."""
_RUNS: Final = 1_000
_SHORT: Final = 10.0
"""Longest Retry-After of a rate limit, in seconds, that is waited for while another model is left."""


class Entry(NamedTuple):
    """One attempt that the breaker let through: the number of its outage, the replies so far, and if it probes."""

    era: int
    replies: int
    probes: bool


class Breaker:
    """Circuit breaker of one model, for all runs of a process.

    It opens after five outages in a row, or 16 of the last 20 attempts. An outage that took longer than four times
    the slowest of the last replies, and during which no other attempt got a response, opens it at once. An outage is
    a timeout, a refused or dropped connection, or a 5xx. Any other response of the provider closes it.

    While it is open, one attempt at a time is let through as a probe: after 1 s, then 2, 4, … up to 30 s, or the
    Retry-After of the failure.
    """

    def __init__(self, model: str = "", *, clock: Callable[[], float] = time.monotonic) -> None:
        self.state: State = "closed"
        self.failure: ModelError | None = None
        self.limit: ModelError | None = None
        self.probes = 0
        self._model = model
        self._clock = clock
        self._era = 0
        self._replies = 0
        self._in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._latencies: deque[float] = deque(maxlen=_RECENT)
        self._rest = _FIRST_REST
        self._asked = False
        self.hangs = False
        self._since = self._until = self._busy = self._lasted = 0.0
        self._changed = asyncio.Event()
        self._waiting: dict[str, Span] = {}
        self._told: dict[str, State] = {}

    @property
    def admits(self) -> bool:
        """True if a call would be let through now."""
        return self.state == "closed" or (self.state == "open" and self._clock() >= self._until)

    @property
    def busy(self) -> bool:
        """True until the Retry-After of the last rate limit is over, if it is a long one."""
        return self._busy > 0.0 and self._clock() < self._busy

    def enter(self, *, early: bool = False) -> Entry | None:
        """Let an attempt through, as the probe of an open breaker; None if it may not be sent now.

        An `early` probe does not wait for the end of the rest, unless the provider asked for it.
        """
        if self.state == "closed":
            return Entry(self._era, self._replies, probes=False)
        if not (self.admits or (early and self.state == "open" and not self._asked)):
            return None
        self.probes += 1
        self._become("probing", self._clock() - self._since)
        return Entry(self._era, self._replies, probes=True)

    def leave(self, entry: Entry) -> None:
        """Take back an attempt without an outcome, such as a cancelled one."""
        if entry.probes and self.state == "probing" and entry.era == self._era:
            self.state = "open"
            self._wake()

    def succeed(self, latency: float | None = None) -> None:
        """Record a response, with the latency of a reply."""
        self._replies += 1
        self._in_a_row = 0
        self._recent.append(False)
        if latency is not None:
            self._latencies.append(latency)
        if self.state != "closed":
            self._era += 1
            self._recent.clear()
            self._lasted = self._clock() - self._since
            self._become("closed", self._lasted)

    def fail(self, entry: Entry, error: ModelError, seconds: float) -> None:
        """Record an attempt that failed after so many seconds."""
        if not error.outage:
            self.heed(error)
            self.succeed()
        elif entry.era != self._era:
            return  # it was sent before the end of an earlier outage
        elif self.state == "closed":
            self._in_a_row += 1
            self._recent.append(True)
            if self._is_outage(entry, seconds):
                self._since, self._rest, self.hangs = self._clock(), _FIRST_REST, seconds >= _LONG
                self._open(error)
        elif entry.probes:
            self._rest = min(2 * self._rest, _LONGEST_REST)
            self._open(error)

    def heed(self, error: ModelError) -> None:
        """Remember a long pause that the provider asked for."""
        if error.retry_after is not None and error.retry_after > _SHORT:
            self._busy, self.limit = self._clock() + error.retry_after, error

    def refusal(self) -> OutageError:
        """Return the error of a call that is not sent."""
        why = f": {self.failure}" if self.failure is not None else ""
        return OutageError(f"{self._model!r} is down and was not asked{why}", model=self._model)

    def lasting(self, patience: float) -> bool:
        """Return True if the next probe is due only after the outage has lasted longer than the patience."""
        return self.state == "open" and max(self._until, self._clock()) - self._since > patience

    def given_up(self, patience: float) -> OutageError:
        """Return the error of a call whose patience an outage has outlasted."""
        return OutageError(
            f"{self._model!r} is down, and still was after {patience:g} s: {self.failure}. Go on with the run later, "
            "or give the role a second model",
            model=self._model,
            stops=True,
        )

    async def turn(self, seconds: float) -> bool:
        """Wait until a call may be let through; False if that takes longer than so many seconds.

        The end of a probe that is under way is waited for in any case.
        """
        here, until = span.get(), self._clock() + seconds
        while not self.admits:
            now = self._clock()
            due = self._until if self.state == "open" else float("inf")
            if self.state == "open" and (now >= until or (self._asked and due > until)):
                return False
            if here is not None:
                self._waiting[here.run_id] = here
                self.tell(here)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(due, until) - now) if self.state == "open" else None):
                    await self._changed.wait()
        return True

    def tell(self, here: Span | None) -> None:
        """Send the state to a run that has not heard of it."""
        if here is None or (self.state == "closed" and not self._told):
            return
        known = self._told.get(here.run_id, "closed")
        if self.state == "closed" and known != "closed":
            self._send(here, "closed", self._lasted)
        elif self.state != "closed" and known == "closed":
            self._send(here, "open", max(0.0, self._until - self._clock()))

    def _is_outage(self, entry: Entry, seconds: float) -> bool:
        if self._in_a_row >= _IN_A_ROW:
            return True
        slowest = max(self._latencies, default=0.0)
        if seconds >= _LONG and seconds > _OUT_OF_PROPORTION * slowest and entry.replies == self._replies:
            return True
        return len(self._recent) == _RECENT and sum(self._recent) >= _SHARE * _RECENT

    def _open(self, error: ModelError) -> None:
        asked = min(error.retry_after or 0.0, _LONGEST_ASKED)
        rest, self._asked = max(self._rest, asked), asked > self._rest
        self.failure = error
        self._until = self._clock() + rest
        self._become("open", rest)

    def _become(self, state: State, seconds: float) -> None:
        self.state = state
        here = span.get()
        told = dict(self._waiting)
        if here is not None and (state != "closed" or self._told.get(here.run_id, "closed") != "closed"):
            told[here.run_id] = here
        if state != "probing":
            self._wake()
        for one in told.values():
            self._send(one, state, seconds)

    def _send(self, here: Span, state: State, seconds: float) -> None:
        if len(self._told) >= _RUNS:
            self._told.clear()
        self._told[here.run_id] = state
        failure = None if state == "closed" or self.failure is None else self.failure.as_failure()
        here.sink(
            OutageChanged(
                run_id=here.run_id, model=self._model, state=state, failure=failure, seconds=round(seconds, 3)
            )
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._waiting.clear()


class Guarded(ModelWrapper):
    """A model behind its circuit breaker.

    With `waits`, which is for the last model of a chain, a call waits while the breaker is open, for its `patience`
    in seconds at most, or fails at once if its request says so. Without, it fails at once. The probe of a chain with
    models left holds its call up for a twentieth of the timeout only: then the call goes on, is charged for the
    attempt, and the probe goes on without it. `trial` is the same model, whose attempts can be left like that.

    Raises OutageError for a call that is not sent.
    """

    def __init__(self, inner: Model, breaker: Breaker, *, waits: bool, trial: "Trial | None" = None) -> None:
        super().__init__(inner)
        self._breaker = breaker
        self._waits = waits
        self._trial = trial

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        self._breaker.tell(span.get())
        entry = self._breaker.enter() or await self._admitted(request)
        if entry.probes and self._trial is not None:
            return await self._trial.probe(request, on_delta, entry)
        try:
            return await _recorded(self.inner.complete(request, on_delta), self._breaker, entry, request)
        except ModelError as error:
            if self._waits and request.on_outage == "wait" and self._breaker.lasting(request.patience):
                raise self._breaker.given_up(request.patience) from error
            raise

    async def close(self) -> None:
        if self._trial is not None:
            self._trial.close()

    async def _admitted(self, request: Request) -> Entry:
        breaker = self._breaker
        if not self._waits or request.on_outage == "fail":
            raise breaker.refusal()
        until, probes = time.monotonic() + request.patience, breaker.probes
        with waiting("pause"):
            while await breaker.turn(until - time.monotonic()):
                entry = breaker.enter()
                if entry is not None:
                    return entry
        entry = breaker.enter(early=True) if breaker.probes == probes else None
        if entry is not None:
            return entry
        raise breaker.given_up(request.patience)


async def _recorded(work: Awaitable[Reply], breaker: Breaker, entry: Entry, request: Request) -> Reply:
    """Return the reply of an attempt, and record its outcome in the breaker."""
    try:
        reply = await work
    except ModelError as error:
        error.probe = entry.probes
        if error.took is None and not error.outage:  # it was not sent
            breaker.heed(error)
            breaker.leave(entry)
        else:
            breaker.fail(entry, error, request.timeout if error.took is None else error.took)
        raise
    except BaseException:
        breaker.leave(entry)
        raise
    breaker.succeed(reply.latency)
    return reply


class Trial:
    """Probes of a breaker that their calls need not wait for. `around` meters the model, from the inside."""

    def __init__(self, model: Model, breaker: Breaker, around: Callable[[Model], Model]) -> None:
        self._breaker = breaker
        self._loose = _Loose(model, breaker)
        self._metered = around(self._loose)

    async def probe(self, request: Request, on_delta: Deltas | None, entry: Entry) -> Reply:
        """Return the reply of a probe. Raises OutageError if it is late; then the probe goes on without its call."""
        deltas = None if on_delta is None else TrackedDeltas(on_delta)
        self._loose.left = None
        work = asyncio.ensure_future(self._metered.complete(request, deltas))
        try:
            await asyncio.wait({work}, timeout=_BLINK if self._breaker.hangs else request.timeout / _TRIAL)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            self._breaker.leave(entry)
            raise
        if not work.done() and not (deltas is not None and deltas.any):
            self._loose.left = entry
            work.cancel()
            await asyncio.wait({work})
            if work.cancelled():
                raise self._breaker.refusal()
        return await _recorded(work, self._breaker, entry, request)

    def close(self) -> None:
        """End the probes under way."""
        self._loose.cancel()


class _Loose(ModelWrapper):
    """A model whose attempt goes on after its call was cancelled, if `left` is set; its outcome is recorded."""

    def __init__(self, inner: Model, breaker: Breaker) -> None:
        super().__init__(inner)
        self.left: Entry | None = None
        self._breaker = breaker
        self._tasks: set[asyncio.Future[Reply]] = set()

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        deltas = None if on_delta is None else _Silenced(on_delta)
        task = asyncio.ensure_future(self.inner.complete(request, deltas))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            reservation = budget.attempt.get()
            if self.left is None or (reservation is not None and not reservation.sent):
                task.cancel()
                await asyncio.wait({task})
                if self.left is not None:
                    self._breaker.leave(self.left)
            else:
                if deltas is not None:
                    deltas.silent = True
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, self.left), context=Context())  # of no run
            raise

    def cancel(self) -> None:
        """Cancel the attempts without a call."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, entry: Entry, task: asyncio.Future[Reply]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ModelError) and (error.outage or error.took is not None):
            self._breaker.fail(entry, error, 0.0)
        elif error is not None or task.cancelled():
            self._breaker.leave(entry)
        else:
            self._breaker.succeed(task.result().latency)


class _Silenced:
    """Forwards the chunks of a reply until `silent` is set."""

    def __init__(self, to: Deltas) -> None:
        self.silent = False
        self._to = to

    @property
    def committed(self) -> bool:
        return self._to.committed

    def add(self, text: str) -> None:
        if not self.silent:
            self._to.add(text)

    def restart(self) -> None:
        if not self.silent:
            self._to.restart()
