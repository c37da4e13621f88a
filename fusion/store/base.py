"""Store: what keeps runs, whatever it keeps them in; and the rows that it is given and gives back.

Times are seconds since 1970 (UTC). Money is a Decimal of dollars, None where it is unknown.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from fusion.core.budget import Budget, Ledger
from fusion.core.events import Sink
from fusion.core.result import Result
from fusion.core.types import CallKey, Reply
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    AttemptState,
    Call,
    CallIndex,
    Decision,
    Line,
    Row,
    RunFilter,
    RunRow,
    Spending,
)


class RunLock(ABC):
    """The right to run a certain run. It is gone with the process that holds it, however that ends."""

    @abstractmethod
    def release(self) -> None:
        """Give it back; a second call changes nothing."""


class Store(ABC):
    """Keeps runs for all processes that open the same place. Every method may be called from every thread.

    What is `put` is written behind the caller's back, in its order, many rows in one go; `written` says when. Rows
    that are read are those that are written; a reader that wants its own rows awaits `written` first.

    Raises StoreError where the place cannot be read or written, RunBusyError from `lock`.
    """

    where: str
    """The place, in words for people."""

    @abstractmethod
    def put(self, *rows: Row) -> None:
        """Take rows to be written. Never waits; what goes wrong is raised by `written`."""

    @abstractmethod
    async def written(self) -> None:
        """Wait until all that was put before is on disk. Raises StoreError if any of it could not be written."""

    @abstractmethod
    def flush(self) -> None:
        """`written` for those without a loop: blocks."""

    @abstractmethod
    def close(self) -> None:
        """Write what was put, and give back threads and files. A second call changes nothing."""

    # Who runs what.

    @abstractmethod
    def lock(self, run_id: str) -> RunLock:
        """The right to run this run. Raises RunBusyError where another one has it, in this process or another."""

    @abstractmethod
    def is_locked(self, run_id: str) -> bool:
        """True while somebody has the right to run this run."""

    # Reading a run.

    @abstractmethod
    def run(self, run_id: str) -> RunRow | None:
        """A run by its id."""

    @abstractmethod
    def runs(self, which: RunFilter, *, limit: int | None = None) -> list[RunRow]:
        """Runs, the newest first."""

    @abstractmethod
    def run_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        """Ids that begin so, the newest first."""

    @abstractmethod
    def record(self, run_id: str) -> Mapping[str, Any] | None:
        """What a run needs to be run again; None where it was not kept."""

    @abstractmethod
    def result(self, run_id: str) -> Mapping[str, Any] | None:
        """The Result of a run that has ended, as it was kept."""

    @abstractmethod
    def index(self, run_id: str) -> Iterator[CallIndex]:
        """Every call of a run in the order of its numbers, without its texts."""

    @abstractmethod
    async def answer(self, run_id: str, number: int) -> Call | None:
        """A call of a run, with its reply, in the middle of another run's work; `request` may be left out."""

    @abstractmethod
    def call(self, run_id: str, number: int) -> Call | None:
        """A call of a run with all that is kept of it."""

    @abstractmethod
    def calls(self, run_id: str, *, texts: bool = False) -> Iterator[Call]:
        """The calls of a run in the order of their numbers; without `texts`, no requests and no texts of replies."""

    @abstractmethod
    def attempts(
        self, run_id: str, *, states: Collection[AttemptState] = ()
    ) -> Iterator[tuple[Attempt, AttemptEnd | None]]:
        """The ledger of a run, in its order: each attempt, and its end if it has one; with `states` those only."""

    @abstractmethod
    def decisions(self, run_id: str) -> list[Decision]:
        """What a run decided, in the order in which it did."""

    @abstractmethod
    def events(self, run_id: str) -> list[Mapping[str, Any]]:
        """The events of a run that were put, in their order."""

    @abstractmethod
    def spending(self, run_id: str) -> dict[str, Spending]:
        """What a run has spent, by the paths of its stages; attempts that are open count with their worst case."""

    @abstractmethod
    def lines(self, run_id: str) -> list[Line]:
        """The finished calls of a run, added up by all that a Line tells apart, in the order they first came."""

    @abstractmethod
    def last_numbers(self, run_id: str) -> tuple[int, int]:
        """The highest numbers of calls and of events of a run; 0 where there are none."""

    # The cache.

    @abstractmethod
    async def cached(self, key: str) -> Reply | None:
        """The reply that is cached under a key; it counts as used now."""

    @abstractmethod
    def clear_cache(self) -> int:
        """Forget all that is cached; how many replies that were."""

    # Housekeeping.

    @abstractmethod
    def lose_open(self, run_id: str) -> int:
        """Mark what is open in a run's ledger as lost, which counts in full; how many attempts that were.

        Only for whoever has the run's lock.
        """

    @abstractmethod
    def remove(self, run_ids: Iterable[str]) -> int:
        """Forget these runs, and all that is kept of them; how many there were. The space is given back."""

    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Numbers of `runs`, `calls`, `attempts`, `cached` replies, and `bytes` on disk of all of it."""


class NullJournal:
    """Journal of a run without a store: records nothing, finds nothing and waits for nothing."""

    seconds = 0.0
    """Running time of earlier sessions of the run, in seconds."""
    on_loss: Callable[[str], None]
    """Called once with the reason if the store fails during the run."""

    @property
    def ledger(self) -> Ledger | None:
        """Ledger of the run's budget, if any."""
        return None

    def restore(self, budget: Budget, stage: str = "") -> None:
        """Count in a budget the spending of earlier sessions: of a stage and those within it, or of the run."""

    def keep(self, stage: str, item: int | None, name: str, value: Any) -> None:
        """Record a decision for good. It is on disk before the next attempt is sent."""

    def kept(self, stage: str, item: int | None, name: str) -> Any:
        """Return a recorded decision; None if there is no such decision."""

    def is_finished(self, key: CallKey) -> bool:
        """Return True for a call that this run, or one that it continues, has finished."""
        return False

    def set_aside(self, keys: Iterable[CallKey]) -> None:
        """Mark the replies to these calls as unusable: a resumed run requests them anew. They stay paid."""

    def deliver_to(self, sink: Sink) -> Sink:
        """Return the sink for the run's events; it passes each on to `sink` once the event's rows are on disk."""
        return sink

    def delivering(self) -> AbstractAsyncContextManager[None]:
        """Return a block during which events are delivered even if no call waits for the disk."""
        return nullcontext()

    async def written(self) -> None:
        """Wait until every row is on disk, then deliver the events that waited for it."""

    async def end(self, result: Result, *, interrupted: bool) -> None:
        """Record the end of the run, and deliver the remaining events. After a loss of the store, nothing is kept."""
