"""Store: the interface of the storage of runs.

Times are seconds since 1970 (UTC). Money is a Decimal of US dollars; None if it is unknown.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, Literal, NamedTuple

from fusion.core.budget import Budget, Ledger
from fusion.core.errors import StoreError, UsageError
from fusion.core.events import Sink
from fusion.core.result import Result
from fusion.core.types import CallKey, Reply
from fusion.store.accounts import Accounts
from fusion.store.batches import BatchPlace
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    AttemptState,
    Call,
    CallIndex,
    Decision,
    Line,
    MapCounts,
    MapEntry,
    MapRow,
    Row,
    RowOrder,
    RunFilter,
    RunRow,
    RunStatus,
    Spending,
    Timing,
)
from fusion.store.slices import Slices

CACHE_BYTES: Final = 500_000_000
Synchronous = Literal["NORMAL", "FULL"]
"""FULL syncs a file at every commit; NORMAL can lose the last commits if the machine crashes."""

OF_TOOL: Final = "tool "
"""Beginning of the names of decisions about a call of a tool: it stays made, whatever is worked on again."""


class StoreAddress(NamedTuple):
    """URL at which other machines open a store, and the environment variables of the secrets that it lacks."""

    url: str
    secrets: Mapping[str, str]


class Subscription(ABC):
    """Follows a run until it is closed."""

    @abstractmethod
    def close(self) -> None:
        """Hear of nothing more. A second call does nothing."""


class RunLock(ABC):
    """The exclusive lock of a run. It ends with the process that holds it."""

    @abstractmethod
    def release(self) -> None:
        """Release the lock; a second call does nothing."""

    @abstractmethod
    def when_lost(self, call: Callable[[StoreError], object]) -> None:
        """Call this, on any thread, if the lock is lost before it is released: its run has to end."""


class Store(ABC):
    """Storage of runs, shared by all processes that open the same place. Every method is thread-safe.

    `put` queues rows, which a writer commits in order and in batches; `written` waits for that. Reads see committed
    rows only, so await `written` to read your own.

    Raises StoreError if the place cannot be read or written, RunBusyError from `lock`.
    """

    where: str
    """The place of the store, for messages."""
    spans_machines = False
    """True for a store of many machines, whose processes share the rates of models."""

    @abstractmethod
    def put(self, *rows: Row) -> None:
        """Queue rows to be written. Never blocks; `written` raises the errors."""

    @abstractmethod
    async def written(self) -> None:
        """Wait until all rows queued so far are on disk. Raises StoreError if any could not be written."""

    @abstractmethod
    def when_written(self, call: Callable[[StoreError | None], object]) -> None:
        """Call this on the running loop once all rows queued so far are on disk, with the error if there is one.

        Those that await `written` go on after it. The rows are in no hurry: others may join their batch.
        """

    @abstractmethod
    def flush(self) -> None:
        """`written` without an event loop: blocks."""

    @abstractmethod
    def close(self) -> None:
        """Write the queued rows, then release threads and files. A second call does nothing."""

    # Locks.

    @abstractmethod
    def lock(self, run_id: str) -> RunLock:
        """Acquire the lock of a run. Raises RunBusyError if it is held, by this process or another."""

    @abstractmethod
    def claim(self, name: str) -> RunLock | None:
        """Acquire the lock of a request to be sent once in all processes; None if it is held. Never blocks."""

    def claim_all(self, names: Sequence[str]) -> RunLock | None:
        """Acquire the locks of these names as one; None, holding none of them, if one is held. Never blocks."""
        locks = _Locks()
        for name in names:
            if (lock := self.claim(name)) is None:
                locks.release()
                return None
            locks.append(lock)
        return locks

    @abstractmethod
    def is_locked(self, run_id: str) -> bool:
        """Return True while the lock of a run is held."""

    # Caps and rates of all processes.

    @property
    @abstractmethod
    def accounts(self) -> Accounts:
        """The accounts and the shared rates of the store."""

    @property
    def address(self) -> StoreAddress:
        """The address of the store for other machines. Raises UsageError for a file."""
        raise UsageError(
            f"the store {self.where} is a file of this machine, which other machines cannot open: give a PostgreSQL "
            "database that all of them reach, --store postgresql://…, or run the map here"
        )

    @property
    def slices(self) -> Slices:
        """The queue of slices for workers. Raises UsageError for a store that has none."""
        raise UsageError(
            f"the store {self.where} is a file of one machine, and workers need a PostgreSQL database that all of"
            " them reach: give --store postgresql://…, or run the map here"
        )

    def follow(self, run_id: str, call: Callable[[], object]) -> Subscription | None:
        """Call this, on a thread of the store, whenever a process has written events, decisions or the end of a run.

        It may be called without news, and is called once at the beginning. Returns None for a store that tells of
        nothing: its readers look at it from time to time.
        """
        return None

    # Reading a run.

    @abstractmethod
    def run(self, run_id: str) -> RunRow | None:
        """Return a run by its id."""

    @abstractmethod
    def runs(self, which: RunFilter, *, limit: int | None = None) -> list[RunRow]:
        """Return the runs that match, newest first."""

    @abstractmethod
    def run_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        """Return the run ids with this prefix, newest first, without those of rows of maps."""

    @abstractmethod
    def record(self, run_id: str) -> Mapping[str, Any] | None:
        """Return the data from which a run is resumed; None if it was not stored."""

    @abstractmethod
    def own_record(self, run_id: str) -> Mapping[str, Any] | None:
        """Return the record of a run without the part that it shares with the other rows of its map."""

    @abstractmethod
    def result(self, run_id: str) -> Mapping[str, Any] | None:
        """Return the Result of a finished run as JSON data; None if it was not stored."""

    @abstractmethod
    def results(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Return the Results of finished runs as JSON data, by run; those that are not stored miss."""

    @abstractmethod
    def index(self, run_id: str) -> Iterator[CallIndex]:
        """Yield the key and state of every call of a run, in order of number."""

    @abstractmethod
    async def answer(self, run_id: str, number: int) -> Call | None:
        """Return a call with its reply, without blocking the event loop; `request` may be omitted."""

    @abstractmethod
    def call(self, run_id: str, number: int) -> Call | None:
        """Return a call with its request and reply."""

    @abstractmethod
    def calls(self, run_id: str, *, texts: bool = False, after: int = 0, stage: str | None = None) -> Iterator[Call]:
        """Yield the calls of a run in order of number; without `texts`, omit requests and reply texts.

        `after` leaves out the calls up to this number, `stage` those of other stages.
        """

    @abstractmethod
    def attempts(
        self, run_id: str, *, states: Collection[AttemptState] = ()
    ) -> Iterator[tuple[Attempt, AttemptEnd | None]]:
        """Yield the attempts of a run in order, each with its end, if any; `states` filters them."""

    @abstractmethod
    def decisions(self, run_id: str) -> list[Decision]:
        """Return the decisions of a run, in order."""

    @abstractmethod
    def events(self, run_id: str, *, after: int = 0) -> list[Mapping[str, Any]]:
        """Return the stored events of a run, in order, without those up to the number `after`."""

    @abstractmethod
    def spending(self, run_id: str) -> dict[str, Spending]:
        """Return the spending of a run by stage path; open attempts count with their worst case."""

    @abstractmethod
    def lines(self, run_id: str) -> list[Line]:
        """Return the finished calls of a run, summed by the identifying fields of Line, in order of first call."""

    @abstractmethod
    def timings(self, run_id: str) -> list[Timing]:
        """Return the times of the calls of a run in order of number, without replies that came from another run."""

    @abstractmethod
    def last_numbers(self, run_id: str) -> tuple[int, int]:
        """Return the highest call number and event number of a run; 0 if there are none."""

    # Maps.

    @abstractmethod
    def map(self, map_id: str) -> MapRow | None:
        """Return a map by its id."""

    @abstractmethod
    def maps(self, which: RunFilter, *, limit: int | None = None) -> list[MapRow]:
        """Return the maps that match, newest first. Fingerprint, parent and map of the filter are not looked at."""

    @abstractmethod
    def map_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        """Return the map ids with this prefix, newest first."""

    @abstractmethod
    def map_counts(self, map_id: str, *, seen: int | None = None) -> MapCounts:
        """Count the rows of a map, those of the pass `seen` if it is given, and the spending of all their runs."""

    @abstractmethod
    def map_entries(self, map_id: str, keys: Sequence[str]) -> dict[str, MapEntry]:
        """Return the rows of a map with these keys, by key."""

    @abstractmethod
    def map_lines(self, map_id: str, keys: Sequence[str]) -> dict[str, str]:
        """Return the lines found in the output of a map, by key."""

    @abstractmethod
    def map_pages(self, map_id: str, *, seen: int | None = None) -> Iterator[MapEntry]:
        """Yield all rows of a map in order of number, those of the pass `seen` if it is given."""

    @abstractmethod
    def row_run(self, map_id: str, number: int) -> RunRow | None:
        """Return the latest run of a row."""

    @abstractmethod
    def row_runs(self, map_id: str, numbers: Sequence[int]) -> list[tuple[RunRow, Mapping[str, Any]]]:
        """Return the latest runs of rows, by number, each with its inputs as they are recorded."""

    @abstractmethod
    def map_entry(self, map_id: str, number: int) -> MapEntry | None:
        """Return a row of a map by its number."""

    @abstractmethod
    def map_runs(
        self,
        map_id: str,
        *,
        statuses: Collection[RunStatus] = (),
        order: RowOrder = "first",
        limit: int | None = None,
    ) -> Iterator[tuple[str, RunRow]]:
        """Yield the latest run of each row of a map, with the key of the row; `statuses` filters them."""

    @abstractmethod
    def map_spending(self, map_id: str) -> dict[str, Spending]:
        """Return the spending of all rows of a map by stage path; open attempts count with their worst case."""

    @abstractmethod
    def map_records(self, map_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the records that rows of a map share, each with its fingerprint."""

    @abstractmethod
    def last_row(self, map_id: str) -> int:
        """Return the highest number of a row of a map; 0 if it has none."""

    @abstractmethod
    def remove_map(self, map_id: str) -> bool:
        """Delete a map with all its rows, their runs and its account; return False if there is no such map.

        Budgets that its rows drew on beside keep what was spent.
        """

    # The cache.

    @abstractmethod
    async def cached(self, key: str) -> Reply | None:
        """Return the cached reply of a key and mark it as used; None on a cache miss."""

    @abstractmethod
    def clear_cache(self) -> int:
        """Delete all cached replies; return their number."""

    # Housekeeping.

    @abstractmethod
    def lose_open(self, run_id: str) -> int:
        """Mark open attempts of a run as lost, counted with their worst case; return their number.

        The caller must hold the lock of the run.
        """

    @abstractmethod
    def remove(self, run_ids: Iterable[str]) -> int:
        """Delete runs with all their rows, in one transaction, and free the disk space; return the number deleted."""

    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Return the counts of `runs`, `calls`, `attempts` and `cached` replies, and the `bytes` on disk."""


class _Locks(list[RunLock], RunLock):
    """Several locks that are held as one."""

    def release(self) -> None:
        for lock in self:
            lock.release()

    def when_lost(self, call: Callable[[StoreError], object]) -> None:
        for lock in self:
            lock.when_lost(call)


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

    def confirm(self, stage: str, item: int | None, name: str) -> None:
        """Record a decision of another run in this one, too."""

    async def decide(self, stage: str, item: int | None, name: str, value: Any) -> Any:
        """Record a decision that other processes may make at the same time; return the one that was first."""
        return value

    def works_again(self, stage: str, item: int | None, name: str) -> bool:
        """Return True for a place that is worked on again, or whose decision is that of another run."""
        return False

    @property
    def is_out(self) -> bool:
        """True if the store has failed during the run, so that nothing more is recorded."""
        return False

    @property
    def joins(self) -> bool:
        """True if a later session of the run joins the batches of this one."""
        return False

    @property
    def disk(self) -> Store | None:
        """The store that keeps the journal, if any; rows of all its runs are written in order."""
        return None

    def in_batches(self, key: CallKey) -> Sequence[BatchPlace]:
        """Return the places of a call in batches, also those of earlier sessions; the last one last."""
        return ()

    def is_lost(self, attempt: tuple[int, int]) -> bool:
        """Return True if an attempt, by session and number, ended with its session and counts in full."""
        return False

    def enter_batch(self, key: CallKey, place: BatchPlace) -> None:
        """Record the place of a call in a batch, or the provider's id of that batch, as a decision."""

    timed = False
    """True if the seconds of the run are limited."""

    def pause(self, seconds: float) -> None:
        """Record the seconds of a pause in which the run waited for its batches."""

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
