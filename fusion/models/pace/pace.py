"""Pace: the slots and the rate of one model with one key, shared by all runs."""

from collections.abc import Mapping
from typing import Final

from fusion.core.errors import ModelConnectionError, RateLimitError
from fusion.core.events import Paused, emit, span
from fusion.core.types import Request
from fusion.models.attempt import Wait
from fusion.models.base import in_words
from fusion.models.pace.control import Control
from fusion.models.pace.gate import NEVER, Gate, Rates, Ticket, Waiting
from fusion.models.pace.headers import Allowance, Told, Unit, told

_TOLD_AGAIN: Final = 30.0
"""Seconds after which a run is told again that it waits."""
_RUNS_TOLD: Final = 1_000
_SHORTEST: Final = 0.02
_AMPLE: Final = 0.5
"""Share of a limit above which the rest needs no count."""


class Pace(Gate):
    """The slots and the rate of a model with one key: the user's ceilings, what its server tells, what it refuses.

    The ceilings `concurrency`, `rpm` and `tpm` always hold. Headers of responses are heeded before the limit is hit.
    Refusals are answered by a Control. A call whose `patience` is shorter than the time until any request may pass
    fails at once with a RateLimitError and is not sent, so that its chain goes on. A call with a `spare` model does
    so while the server refuses everything.
    """

    def __init__(
        self,
        model: str,
        *,
        concurrency: int | None = None,
        rpm: float | None = None,
        tpm: float | None = None,
        rates: Rates | None = None,
    ) -> None:
        super().__init__(concurrency=concurrency, rpm=rpm, tpm=tpm, rates=rates)
        self.control = Control()
        self._model = model
        self._allowances: dict[Unit, Allowance] = {}
        self._input = self._given = 0
        """Tokens of all calls so far, as expected."""
        self._told: dict[str, float] = {}

    def succeed(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        """Take in a response with a reply."""
        now = self._now()
        self.control.succeed(ticket.number, now, self.open - 1)
        if headers:
            self._heed(ticket, headers, now)

    def fail(self, ticket: Ticket, headers: Mapping[str, str], error: Exception) -> None:
        """Take in a failed attempt: a refusal for a rate limit, a refused connection, or neither."""
        now = self._now()
        self._heed(ticket, headers, now)
        if isinstance(error, RateLimitError):
            self._refuse(ticket, now, error.retry_after)
        elif isinstance(error, ModelConnectionError) and not error.sent:
            self.control.fail_to_connect(ticket.at, now, self.open - 1)

    def _refuse(self, ticket: Ticket, now: float, retry_after: float | None) -> None:
        if retry_after is None:
            retry_after = max([one.delay(now) for one in self._allowances.values()], default=0.0)
        self.control.refuse(ticket.number, ticket.at, now, self.open - 1, retry_after)
        for waiter in list(self._queue):
            self._send_away(waiter, now)

    def _delay(self, now: float, request: Request) -> float:
        delay = self.control.delay(now, self.open)
        if delay == NEVER or self.open >= self._most:
            return NEVER
        if not self._plain:
            delay = max(delay, super()._delay(now, request))
        return max(delay, self._held(now, request)) if self._allowances else delay

    def _held(self, now: float, request: Request) -> float:
        """Return the seconds until the allowances that the server told of let the request pass."""
        units = self._units(*self._expected(request))
        return max(allowance.delay(now, units[unit]) for unit, allowance in self._allowances.items())

    def _admit(self, now: float, request: Request, *, waited: bool) -> Ticket:
        ticket = super()._admit(now, request, waited=waited)
        ticket.number = self.control.send(now, waited=waited)
        if self._counts:
            self._input += ticket.input
            self._given += ticket.output
            ticket.before = self._input, self._given
        if self._allowances:
            units = self._units(ticket.input, ticket.output)
            for unit, allowance in self._allowances.items():
                allowance.take(units[unit])
        return ticket

    def _units(self, taken: int, given: int, requests: int = 1) -> dict[Unit, float]:
        return {"requests": requests, "tokens": taken + given, "input": taken, "output": given}

    def _heed(self, ticket: Ticket, headers: Mapping[str, str], now: float) -> None:
        """Take in the limits that a response tells of."""
        for one in told(headers):
            allowance = self._allowances.get(one.unit)
            if allowance is None:
                if one.limit is not None and one.remaining > _AMPLE * one.limit:
                    continue
                allowance = self._allowances[one.unit] = Allowance()
            allowance.see(one, ticket.number, now, self._since(ticket, one))
            self._counts = self._counts or one.unit != "requests"

    def _since(self, ticket: Ticket, one: Told) -> float:
        """Return the units of requests sent after one; of tokens not counted then, as many as it shows for each."""
        requests = self.control.sent - ticket.number
        if self._counts or one.unit == "requests":
            taken, given = ticket.before
            return self._units(self._input - taken, self._given - given, requests)[one.unit]
        used = 0.0 if one.limit is None else one.limit - one.remaining
        return requests * used / max(ticket.number, 1)

    def _cause(self, now: float, request: Request) -> Wait:
        return "slot" if self._pause(now, request) < _SHORTEST else "pause"

    def _pause(self, now: float, request: Request) -> float:
        """Return the seconds until a rate lets the next request pass; 0 if no rate is in the way."""
        if self.control.mode == "free" and self.control.hold <= now and self._plain and not self._allowances:
            return 0.0
        delay = self._delay(now, request)
        return 0.0 if delay == NEVER else delay

    def _check(self, waiter: Waiting) -> None:
        now = self._now()
        if not self._send_away(waiter, now):
            self._tell(waiter, now)

    def _send_away(self, waiter: Waiting, now: float) -> bool:
        """Fail a call that may not wait until any request may pass."""
        wait = self.control.hold - now
        if self._allowances:
            wait = max(wait, self._held(now, waiter.request))
        is_refused = waiter.spare and self.control.admits_nothing(now)
        if waiter.turn.done() or (wait <= waiter.patience and not is_refused):
            return False
        when = "refuses all requests" if is_refused else f"takes the next request {in_words(wait)}"
        waiter.turn.set_exception(
            RateLimitError(
                f"{self._model!r} has reached its rate limit: its server {when}",
                model=self._model,
                retry_after=None if is_refused else wait,
            )
        )
        return True

    def _tell(self, waiter: Waiting, now: float) -> None:
        """Report once to a run that its calls wait for a rate."""
        wait = self._pause(now, waiter.request)
        if wait < _SHORTEST or self._told.get(waiter.flow, -_TOLD_AGAIN) > now - _TOLD_AGAIN or span.get() is None:
            return
        if len(self._told) > _RUNS_TOLD:
            self._told.clear()
        self._told[waiter.flow] = now
        emit(Paused, model=self._model, rate=self._rate(), wait=round(wait, 3))

    def _rate(self) -> float | None:
        """Return the requests a second that may pass, if they are limited."""
        rates = [self.control.rate, None if self._requests is None else self._requests.rate]
        return min((round(rate, 2) for rate in rates if rate is not None), default=None)

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()
