"""Executor: runs the rows of a map in slices, here or elsewhere. The store is the truth: it may lose everything."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from decimal import Decimal
from typing import ClassVar, Final, Literal, NamedTuple

from fusion.core.types import Failure, Limits, Value

MAP_BUDGET: Final = "the map"
"""Name of the budget of all rows of a map."""


class Slice(NamedTuple):
    """Rows of a map, by their numbers. Their inputs are in the store."""

    map_id: str
    numbers: tuple[int, ...]


class RowEnd(NamedTuple):
    """The end of a row; its answer is in the store.

    `stopped` is a row that a budget of many rows stopped, `waiting` one that waits for a person. `seconds` is the
    time that it took here; 0 for one that had its end already.
    """

    number: int
    run_id: str
    status: Literal["ok", "partial", "failed", "stopped", "waiting"]
    usd: Decimal
    failure: Failure | None
    seconds: float = 0.0


Work = Callable[[int], Awaitable[RowEnd]]
"""Runs one row of a map, by its number."""


class Terms(Value):
    """Terms of a pass over a map: what another process needs beside the store to run its rows.

    `number` is that of the pass. `fingerprint` is that of the record which the rows share in the store, `version` the
    Fusion that wrote it. `budget` limits the map over all its passes, `within` names the budget that it shares; so do
    its `tags`.
    """

    map_id: str
    number: int
    fingerprint: str
    version: str
    retry_failed: bool = False
    budget: Limits | None = None
    within: str | None = None
    tags: Mapping[str, str] = {}


def same_terms(before: str | None, terms: Terms) -> bool:
    """Return True if rows that run on earlier terms end as those of this pass."""
    if before is None:
        return False
    try:
        return Terms.model_validate_json(before).model_copy(update={"number": terms.number}) == terms
    except ValueError:  # of another version
        return False


class Job(NamedTuple):
    """A map to run: its terms, the work on one row here, and the number of rows at once.

    `note` tells the person who watches the map. `holds` is false once the lock of the map is lost: another driver may
    run it, whose rows are not for this one to stop.
    """

    terms: Terms
    work: Work
    concurrency: int
    note: Callable[[str], None]
    holds: Callable[[], bool]


class Executor(ABC):
    """Runs slices. Inputs and answers do not pass through it."""

    here: ClassVar[bool] = False
    """True if rows run in this process, from what it has planned."""
    queues: ClassVar[bool] = False
    """True if rows go through the queue of the store, and those of an earlier driver are taken over there."""
    locks: ClassVar[bool] = False
    """True if each row runs under a lock of its own, which is waited for."""

    @abstractmethod
    def run(self, job: Job, slices: AsyncIterator[Slice]) -> AsyncIterator[RowEnd]:
        """Run the rows of the slices, and yield their ends in any order. Slices are taken as there is room."""

    @abstractmethod
    async def close(self) -> None:
        """Release what the executor holds. A second call does nothing."""
