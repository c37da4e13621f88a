"""Breaker: remembers that a model is out of reach, so that not every call has to find it out by itself."""

import time
from collections.abc import Callable

from fusion.core.errors import ModelConnectionError, ModelError, ModelTimeoutError


class Breaker:
    """Opens after `failures` outages in a row; from then on one call is let through every `rest` seconds.

    An outage is no answer in time, or no connection; whatever else a model says shows that it is there.
    """

    def __init__(self, *, failures: int = 3, rest: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._in_a_row = 0
        self._until = 0.0

    def lets_through(self) -> bool:
        """Whether a call may be sent now. The one that tries an open breaker keeps all others away meanwhile."""
        if self._in_a_row < self._failures:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._rest
        return True

    def worked(self) -> None:
        self._in_a_row = 0

    def failed(self, error: ModelError) -> None:
        if not isinstance(error, (ModelConnectionError, ModelTimeoutError)):
            self.worked()
            return
        self._in_a_row += 1
        self._until = self._clock() + self._rest

    def refusal(self, model: str) -> ModelError:
        """Why a model is not asked now."""
        left = max(0.0, self._until - self._clock())
        return ModelConnectionError(
            f"{model!r} was out of reach {self._in_a_row} times in a row; it is asked again in {left:.0f} s",
            model=model,
        )
