"""Rows of a store: runs, calls, attempts, decisions and cached replies."""

from collections.abc import Mapping
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


RunState = Literal["running", "died", "ok", "partial", "failed", "interrupted"]
"""`died` is a run that is not over and that no process is at."""
