"""Store: what keeps runs, whatever it keeps them in; and the rows that it is given and gives back.

Times are seconds since 1970 (UTC). Money is a Decimal of dollars, None where it is unknown.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from fusion.core.types import CallKey, Failure, Money, Reply, Request

Content = Literal["full", "digest", "off"]
"""What is kept of prompts and replies: their texts, their digests, or nothing."""
RunStatus = Literal["running", "ok", "partial", "failed", "interrupted"]
CallState = Literal["finished", "failed", "set aside"]
AttemptState = Literal["open", "settled", "charged", "refunded", "lost"]
"""`lost` is an attempt that was open when its process died: it counts in full."""


# Rows that are put.


@dataclass(frozen=True, slots=True)
class Started:
    """A run begins. `root` is the run that it goes back to by its parents, its own id where it has none.

    `record` is what it needs to be run again (JSON data); None where prompts may not be kept. `fingerprint` is the
    same for runs of the same pipeline, templates, inputs and models.
    """

    run_id: str
    parent: str | None
    root: str
    pipeline: str
    profile: str
    started: float
    tags: Mapping[str, str]
    content: Content
    fingerprint: str
    record: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A process takes up a run: its first session has the number 1. The run is `running` again."""

    run_id: str
    session: int
    started: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A run has ended in this session. `result` is its Result as JSON data; None where prompts may not be kept.

    `usd`, `unknown_calls` and `calls` are those of its receipt.
    """

    run_id: str
    session: int
    status: RunStatus
    ended: float
    usd: Money
    unknown_calls: int
    calls: int
    failure: Failure | None
    result: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has its reply, or has failed. `number` counts the calls of a run from 1, over all sessions.

    A second finished call under the same key is not kept: the first writer wins. `request` is None, and the text of
    `reply` is empty, where prompts may not be kept; `text_digest` is then the SHA-256 (hex) of the reply's text, or
    empty. `reused` says where the reply came from, if not from a model: the run of that id, or `cache`.
    """

    run_id: str
    number: int
    key: CallKey
    role: str
    asked: str
    state: CallState
    started: float
    ended: float
    request: Request | None = None
    reply: Reply | None = None
    text_digest: str = ""
    failure: Failure | None = None
    reused: str | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """These finished calls gave what their stage could not use: they are asked anew on resume. They stay paid."""

    run_id: str
    keys: tuple[CallKey, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a call in the ledger, as it is opened: `usd` and `tokens` are its worst case.

    `session` and `number` name it within the run.
    """

    run_id: str
    session: int
    number: int
    stage: str
    item: int | None
    step: str
    role: str
    model: str
    opened: float
    usd: Money | None
    tokens: int


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """An attempt is over, and cost this much."""

    run_id: str
    session: int
    number: int
    state: AttemptState
    closed: float
    usd: Money | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that a run decided by the clock or its purse, or took for good: it is decided once.

    `name` is unique within stage and item; a second one of the same name is not kept. `value` is JSON data.
    """

    run_id: str
    stage: str
    item: int | None
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Noticed:
    """An event of a run, as JSON data. `number` counts those that are kept, over all sessions."""

    run_id: str
    number: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cached:
    """A reply that may answer the same request in other places; the newest stays. `size` in bytes is the store's."""

    key: str
    reply: Reply
    at: float


Row = Started | SessionStart | Ended | Call | SetAside | Attempt | AttemptEnd | Decision | Noticed | Cached


# What is read.


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as it stands in the history. `sessions` is how often it was taken up.

    For one that has not ended, `usd`, `unknown_calls` and `calls` are what its ledger says as of now, what is open
    included. `seconds` are those in which a process was at it, as far as there are signs of it.
    """

    run_id: str
    parent: str | None
    root: str
    pipeline: str
    profile: str
    status: RunStatus
    started: float
    ended: float | None
    seconds: float
    sessions: int
    tags: Mapping[str, str]
    content: Content
    fingerprint: str
    usd: Money
    unknown_calls: int
    calls: int
    failure: Failure | None


class CallIndex(NamedTuple):
    """Where a call stands, without its texts."""

    number: int
    key: CallKey
    state: CallState


class Spending(NamedTuple):
    """What the attempts of one stage have cost and may still: dollars that are known, tokens, attempts.

    `calls` counts all attempts but those refunded, `unknown` those of them without a known price.
    """

    usd: Decimal
    tokens: int
    calls: int
    unknown: int


class Line(NamedTuple):
    """The finished calls of one stage, role and model, added up: what a line of the receipt is made of.

    `asked` is the model that was asked for, where `model` took over from it, else None; `served` is what the provider
    says it was. `reused` is True for those that another run or the cache answered: they cost nothing here, and `usd`
    is what they saved. `unknown` counts those without a known price. Those set aside count too: they were paid.
    """

    stage: str
    role: str
    model: str
    asked: str | None
    served: str
    source: Literal["measured", "estimated"]
    reused: bool
    calls: int
    input: int
    cached_read: int
    cache_write: int
    output: int
    reasoning: int
    usd: Decimal
    unknown: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are meant: all that is given has to hold. `started_before` is a time."""

    statuses: tuple[RunStatus, ...] = ()
    pipeline: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    started_before: float | None = None
    parent: str | None = None


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
