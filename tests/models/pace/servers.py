"""Servers with rate limits in simulated time, and a stage of calls paced by a Control against them."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from fusion.models.pace.control import Control

Admits = Callable[[float, int], bool]
"""Returns True if a server admits a request at a time, with so many requests in flight."""


def sliding(rate: float, *changes: tuple[float, float]) -> Admits:
    """A server that admits so many requests in any second, and others from certain times on."""
    log: deque[float] = deque()

    def admits(now: float, _: int) -> bool:
        limit = next((one for since, one in reversed(changes) if now >= since), rate)
        while log and log[0] <= now - 1:
            log.popleft()
        if len(log) >= limit:
            return False
        log.append(now)
        return True

    return admits


def fixed(rate: float) -> Admits:
    """A server that counts anew each second."""
    seen: dict[int, int] = {}

    def admits(now: float, _: int) -> bool:
        seen[int(now)] = seen.get(int(now), 0) + 1
        if seen[int(now)] > rate:
            seen[int(now)] -= 1
            return False
        return True

    return admits


def bucket(rate: float, size: float) -> Admits:
    """A server with a token bucket."""
    state = [size, 0.0]

    def admits(now: float, _: int) -> bool:
        state[0], state[1] = min(size, state[0] + (now - state[1]) * rate), now
        if state[0] < 1:
            return False
        state[0] -= 1
        return True

    return admits


def slots(most: int) -> Admits:
    """A server that admits so many requests at once."""
    return lambda _, live: live < most


def noise(share: float, seed: int = 1) -> Admits:
    """A server that refuses by chance, whatever is asked."""
    draw = random.Random(seed)
    return lambda _, __: draw.random() >= share


class Outcome(NamedTuple):
    """What a stage came to: its seconds, refused requests, and the times of its replies."""

    seconds: float
    refused: int
    replies: list[float]


class Stage:
    """A stage of so many items, `wide` at once; a refused call is repeated after its Retry-After."""

    def __init__(
        self,
        admits: Admits,
        *,
        items: int = 200,
        wide: int = 16,
        latency: float = 0.3,
        trip: float = 0.003,
        retry_after: float | None = None,
    ) -> None:
        self.control = Control()
        self.replies: list[float] = []
        self.refused = 0
        self.now = 0.0
        self._admits, self._latency, self._trip, self._retry_after = admits, latency, trip, retry_after
        self._items = items
        self._ready = deque([0.0] * min(wide, items))
        self._left = items - len(self._ready)
        self._live = self._open = 0
        self._timer = float("inf")
        self._draw, self._number = random.Random(3), count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[float, ...]]] = []

    def run(self) -> Outcome:
        self._look()
        while len(self.replies) < self._items:
            self.now, _, happens, more = heapq.heappop(self._events)
            happens(*more)
            self._send()
        return Outcome(self.now, self.refused, self.replies)

    def _later(self, seconds: float, happens: Callable[..., None], *more: float) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._number), happens, more))

    def _send(self) -> None:
        while self._ready and (delay := self.control.delay(self.now, self._open)) <= 0:
            since, self._open = self._ready.popleft(), self._open + 1
            number = self.control.send(self.now, waited=since < self.now)
            self._later(self._trip / 2, self._arrive, number, self.now)
        if self._ready and delay < float("inf") and self.now + delay < self._timer:
            late = delay + self._draw.uniform(0, 0.001)
            self._timer = self.now + late
            self._later(late, self._look)

    def _look(self) -> None:
        self._timer = float("inf") if self.now >= self._timer else self._timer
        self._send()

    def _arrive(self, number: int, sent: float) -> None:
        if self._admits(self.now, self._live):
            self._live += 1
            self._later(self._latency, self._answer, number)
        else:
            self._later(self._trip / 2, self._refuse, number, sent)

    def _answer(self, number: int) -> None:
        self._live -= 1
        self._later(self._trip / 2, self._end, number)

    def _end(self, number: int) -> None:
        self._open -= 1
        self.replies.append(self.now)
        self.control.succeed(number, self.now, self._open)
        if self._left:
            self._left -= 1
            self._ready.append(self.now)

    def _refuse(self, number: int, sent: float) -> None:
        self._open -= 1
        self.refused += 1
        self.control.refuse(number, sent, self.now, self._open, self._retry_after)
        self._later((self._retry_after or 0.0) + self._draw.uniform(0, 0.5), self._again)

    def _again(self) -> None:
        self._ready.append(self.now)
