"""Slices: a queue of rows of maps, which any number of workers on any number of machines serve.

The queue tells who runs which rows, and nothing else: their inputs, calls and answers are in the runs of the store.
It may lose its last changes with its server, and is filled again from there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

BEAT: Final = 2.0
"""Seconds between two signs of life of a worker."""
LATE: Final = 3 * BEAT
"""Seconds without a sign of life, after which others look if a worker has died."""
DEATHS: Final = 3
"""Workers that a slice may end before its rows fail."""


class WorkerRow(NamedTuple):
    """A worker of a store. `worker` is its id, `name` is for people. `age` is the seconds since its last sign."""

    worker: str
    name: str
    host: str
    pid: int
    version: str
    concurrency: int
    started: float
    age: float = 0.0
    rows: int = 0
    draining: bool = False

    @property
    def alive(self) -> bool:
        """True for a worker that has given a sign of life in time."""
        return self.age < LATE


class Taken(NamedTuple):
    """A slice that a worker has taken: rows of a map, and the terms of its pass as JSON.

    `deaths` counts the workers that died while they ran it.
    """

    slice: int
    map_id: str
    terms: str
    numbers: tuple[int, ...]
    deaths: int


class Crew(NamedTuple):
    """The live workers of a store, and the reasons of those that cannot run a map, by the name of the worker."""

    workers: tuple[WorkerRow, ...]
    refusals: Mapping[str, str]

    @property
    def fit(self) -> tuple[WorkerRow, ...]:
        """The workers that may run rows of the map."""
        return tuple(one for one in self.workers if one.worker not in self.refusals and not one.draining)

    @property
    def capacity(self) -> int:
        """The number of rows that they run at once."""
        return sum(one.concurrency for one in self.fit)


class Listener(ABC):
    """Hears of changes of the queue until it is closed."""

    @abstractmethod
    def close(self) -> None:
        """Hear of nothing more. A second call does nothing."""


class Slices(ABC):
    """The queue. Every method is thread-safe, blocks, and raises StoreError."""

    # The driver of a map, under the lock of the map.

    @abstractmethod
    def open(self, map_id: str, terms: str) -> tuple[str | None, frozenset[int]]:
        """Begin a pass: withdraw what waits of earlier ones. Return the terms of the last one, and rows that run."""

    @abstractmethod
    def put(self, map_id: str, parts: Sequence[Sequence[int]]) -> None:
        """Queue slices, each by the numbers of its rows."""

    @abstractmethod
    def ends(self, map_id: str) -> list[str]:
        """Take the ends of rows that have come since the last time: JSON texts, in their order."""

    @abstractmethod
    def under_way(self, map_id: str) -> frozenset[int]:
        """Return the rows of a map that wait or run."""

    @abstractmethod
    def crew(self, map_id: str) -> Crew:
        """Return the live workers, and those that cannot run the map."""

    @abstractmethod
    def stop(self, map_id: str) -> None:
        """Withdraw what waits of a map, and tell workers to stop what runs."""

    @abstractmethod
    def close(self, map_id: str) -> None:
        """Forget a map that has ended, but for what still runs."""

    # Workers, each under the lock that `lock_of_worker` names.

    @abstractmethod
    def enter(self, worker: WorkerRow) -> None:
        """Begin to serve."""

    @abstractmethod
    def beat(self, worker: str, *, rows: int, draining: bool) -> frozenset[int] | None:
        """Give a sign of life; return the slices that the worker still has to run. None if it counts as dead."""

    @abstractmethod
    def take(self, worker: str, busy: Mapping[str, int]) -> Taken | None:
        """Take a slice, of a map of which fewest rows run here by `busy`; None if no slice waits for this worker."""

    @abstractmethod
    def settle(self, worker: str, slice_id: int, ends: str, left: Sequence[int]) -> bool:
        """Tell the ends of some rows of a slice, and which are left; return False if the slice is not its own."""

    @abstractmethod
    def give_back(self, worker: str, slice_id: int, left: Sequence[int]) -> None:
        """Put what is left of a slice back into the queue."""

    @abstractmethod
    def refuse(self, worker: str, slice_id: int, reason: str) -> None:
        """Put a slice back, and take none of its map any more in this pass."""

    @abstractmethod
    def leave(self, worker: str) -> None:
        """End to serve; slices that it has go back into the queue."""

    @abstractmethod
    def late(self) -> list[str]:
        """Return the workers without a sign of life in time."""

    @abstractmethod
    def bury(self, worker: str) -> int:
        """Put the slices of a worker that has died back, each row by itself, and return their number.

        The caller must hold the lock of the worker.
        """

    @abstractmethod
    def workers(self) -> list[WorkerRow]:
        """Return the workers, those that began first in front."""

    @abstractmethod
    def listen(self, map_id: str | None, call: Callable[[], object]) -> Listener:
        """Call this, in a thread of its own, when rows of a map end, or slices wait; it may miss some."""


def lock_of_worker(worker: str) -> str:
    """Return the name of the lock that a worker holds while it lives."""
    return f"worker {worker}"
