"""FairQueue: calls that wait, served by turns of their runs, small ones before large ones."""

import asyncio
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar


class Waiter:
    """A call that waits. `flow` is the run that it belongs to, `size` its tokens; `turn` resolves once it may go."""

    __slots__ = ("flow", "size", "turn")

    def __init__(self, flow: str, size: float) -> None:
        self.flow = flow
        self.size = size
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


W = TypeVar("W", bound=Waiter)


class _Flow(Generic[W]):
    """The waiting calls of one run, and the tokens that it was served so far."""

    __slots__ = ("calls", "served")

    def __init__(self) -> None:
        self.calls: list[tuple[float, int, W]] = []
        self.served = 0.0


class FairQueue(Generic[W]):
    """A queue that shares its service among runs by tokens.

    The run with the least service is next (start-time fair queueing: Goyal, Vin and Cheng, 1996): a run that joins
    starts level with the one in service, so that a wide stage delays another run by one call at a time. Within a run,
    a call goes by the service at its arrival plus its own size: small calls pass large ones, and none starves, since
    later calls start from a higher service.
    """

    def __init__(self) -> None:
        self._flows: dict[str, _Flow[W]] = {}
        self._order: list[tuple[float, int, str]] = []
        self._number = count()
        self._clock = 0.0
        self._length = 0

    def __len__(self) -> int:
        """Return the number of calls, those cancelled since the last look included."""
        return self._length

    def __iter__(self) -> Iterator[W]:
        return (waiter for flow in self._flows.values() for _, _, waiter in flow.calls if not waiter.turn.done())

    def add(self, waiter: W) -> None:
        flow = self._flows.get(waiter.flow)
        if flow is None:
            flow = self._flows[waiter.flow] = _Flow()
            heappush(self._order, (self._clock, next(self._number), waiter.flow))
        heappush(flow.calls, (flow.served + waiter.size, next(self._number), waiter))
        self._length += 1

    def first(self) -> W | None:
        """Return the next call, which stays in the queue; None if none waits. Drops cancelled calls."""
        while self._order:
            calls = self._flows[self._order[0][2]].calls
            while calls and calls[0][2].turn.done():
                heappop(calls)
                self._length -= 1
            if calls:
                return calls[0][2]
            del self._flows[heappop(self._order)[2]]
        return None

    def pop(self) -> None:
        """Remove the call that `first` returned."""
        start, _, name = heappop(self._order)
        flow = self._flows[name]
        waiter = heappop(flow.calls)[2]
        self._clock = start
        self._length -= 1
        flow.served += waiter.size
        if flow.calls:
            heappush(self._order, (start + waiter.size, next(self._number), name))
        else:
            del self._flows[name]
