"""Rows of runs: calls, attempts, decisions, events and cached replies.

Times are seconds since 1970 (UTC). Money is a Decimal of US dollars; None if it is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from fusion.core.types import CallKey, Failure, Money, Reply, Request, Waited
from fusion.store.encoding import Json

Content = Literal["full", "digest", "off"]
"""Stored content of prompts and replies: texts, digests or nothing."""
RunStatus = Literal["running", "ok", "partial", "failed", "interrupted", "waiting"]
"""Status of a run; `waiting` is that of a run whose open gates people have to answer."""
CallState = Literal["finished", "failed", "set aside"]
AttemptState = Literal["open", "settled", "charged", "refunded", "lost"]
"""`lost` is an attempt that was open when its process died; it counts with its worst case."""


@dataclass(frozen=True, slots=True)
class Started:
    """A run starts. `root` is the first ancestor by `parent`, or the run itself.

    `record` is the JSON from which the run resumes; None if prompts are not stored. `fingerprint` is equal for
    runs of the same pipeline, templates, inputs and models.
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
    record: Json | None


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A process starts or resumes a run; sessions count from 1. The run is `running` again."""

    run_id: str
    session: int
    started: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A run ends in this session. `result` is its Result as JSON; None if prompts are not stored.

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
    result: Json | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its reply or its failure. `number` counts the calls of a run from 1, over all sessions.

    Of two finished calls with the same key, the first is stored. If prompts are not stored, `request` is None and
    the text of `reply` is empty; `text_digest` is then the SHA-256 (hex) of the text, or empty. `reused` is the
    origin of a reply that no model gave: the id of another run, or `cache`. `waited` are its waits, None for none.
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
    waited: Waited | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """Finished calls with replies that their stage could not use; a resume repeats them. Their cost stays."""

    run_id: str
    keys: tuple[CallKey, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of a call, opened before it is sent. `usd` and `tokens` are its worst case.

    `session` and `number` identify it within the run.
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
    """The end of an attempt, with its actual cost."""

    run_id: str
    session: int
    number: int
    state: AttemptState
    closed: float
    usd: Money | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision by clock or budget, or an accepted value, which a resume must repeat.

    `name` is unique within stage and item; of two with the same name, the first is stored. `value` is JSON data.
    """

    run_id: str
    stage: str
    item: int | None
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Noticed:
    """An event of a run as JSON. `number` counts the stored events over all sessions."""

    run_id: str
    number: int
    body: Json


@dataclass(frozen=True, slots=True)
class Cached:
    """A cached reply. Of two with the same key, the newer is stored."""

    key: str
    reply: Reply
    at: float


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the history. `sessions` counts its starts and resumes.

    For an unfinished run, `usd`, `unknown_calls` and `calls` are sums of its attempts so far, open ones included.
    `seconds` is the time a process was running it, up to its last recorded sign of life.
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
    map: str | None = None
    row: int | None = None
    """The map that a run is a row of, and the number of the row."""
    shared: str | None = None
    """Fingerprint of the record that the run shares with other rows of its map."""


class CallIndex(NamedTuple):
    """Key and state of a call."""

    number: int
    key: CallKey
    state: CallState


class Spending(NamedTuple):
    """Spending of one stage: known dollars, tokens and attempts, with open ones at their worst case.

    `calls` counts all attempts except refunded ones, `unknown` those of them with an unknown price.
    """

    usd: Decimal
    tokens: int
    calls: int
    unknown: int


class Line(NamedTuple):
    """Sums over the finished calls of one stage, role and model, for a line of the receipt.

    `asked` is the requested model if `model` replied as its fallback, else None; `served` is the name in the
    provider's response. If `reused`, the replies came from another run or the cache, and `usd` is the amount saved.
    `unknown` counts calls with an unknown price. Calls set aside are included, since they were paid. `batched` of the
    calls came in a batch, which saved `batch_saved` dollars.
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
    batched: int = 0
    batch_saved: Decimal = Decimal(0)


class Timing(NamedTuple):
    """The times of a call, in seconds since 1970, with its place and its tokens of input.

    `model` and `asked` are as in a Line. `latency` is 0 without a reply; `reused` is True for a reply of the cache.
    """

    stage: str
    item: int | None
    step: str
    role: str
    model: str
    asked: str | None
    started: float
    ended: float
    waited: Waited | None
    latency: float
    reused: bool
    input: int
    cached_read: int
    cache_write: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A filter of runs; all given conditions must hold."""

    statuses: tuple[RunStatus, ...] = ()
    pipeline: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    started_before: float | None = None
    started_from: float | None = None
    parent: str | None = None
    map: str | None = None
    """Rows of this map; without it, runs that are no row of a map."""


RunState = Literal["running", "died", "ok", "partial", "failed", "interrupted", "waiting"]
"""`died` is an unfinished run that no process is running."""
