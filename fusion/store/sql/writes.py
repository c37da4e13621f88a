"""Writes: a batch of rows becomes the statements of one transaction."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from fusion.core.errors import StoreError
from fusion.core.types import CallKey, Reply, Request
from fusion.store.encoding import as_json
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    Cached,
    Call,
    Decision,
    Drawing,
    Ended,
    LinesFound,
    MapEnded,
    MapPass,
    MapStarted,
    Noticed,
    Row,
    RowSeen,
    RowStarted,
    SessionStart,
    SetAside,
    Started,
)
from fusion.store.sql import map_writes, statements
from fusion.store.sql.codec import (
    Packed,
    Parts,
    pack,
    pack_content,
    pack_data,
    pack_digest,
    pack_failure,
    pack_money,
    pack_reply,
    pack_request,
    pack_waited,
    text_digest,
)
from fusion.store.sql.statements import Step, Values

_KNOWN_TEXTS: Final = 1_000_000
_SIGNS_APART: Final = 1.0
FILLED: Final = 0.9
"""Share of its bound to which a cache shrinks once it passes it."""


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A use of a cached reply, which keeps it from eviction."""

    key: str
    at: float


class _Texts:
    """Digests of recurring long texts, and the runs that have them stored.

    A text that does not recur soon is forgotten, so that many runs need no more memory than few.
    """

    def __init__(self) -> None:
        self._digests: dict[str, bytes] = {}
        self._earlier: dict[str, bytes] = {}
        self._size = 0
        self._kept: dict[str, set[bytes]] = {}

    def digest(self, text: str) -> bytes:
        found = self._digests.get(text)
        if found is None:
            if self._size > _KNOWN_TEXTS:
                self._earlier, self._digests, self._size = self._digests, {}, 0
            found = self._digests[text] = self._earlier.get(text) or text_digest(text)
            self._size += len(text)
        return found

    def new(self, run_id: str, parts: Parts) -> Parts:
        """Return the parts that are not stored for this run yet, and mark them as stored."""
        if not parts:
            return parts
        kept = self._kept.setdefault(run_id, set())
        found = {digest: body for digest, body in parts.items() if digest not in kept}
        kept.update(found)
        return found

    def forget(self, run_id: str) -> None:
        self._kept.pop(run_id, None)


class RowWriter:
    """Turns rows into the statements of SQL, in one thread."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._texts = _Texts()
        self._seen: dict[str, float] = {}
        self._step = Step()
        self._steps = [self._step]
        self._handlers: dict[type, Callable[[Any], None]] = {
            Started: self._started,
            SessionStart: self._session,
            Ended: self._ended,
            Call: self._call,
            SetAside: self._set_aside,
            Attempt: self._attempt,
            AttemptEnd: self._attempt_end,
            Decision: self._decision,
            Noticed: self._noticed,
            Cached: self._cached,
            CacheHit: self._cache_hit,
            MapStarted: lambda row: self._apart(map_writes.started(row)),
            MapPass: lambda row: self._apart(map_writes.begun(row)),
            MapEnded: lambda row: self._apart(map_writes.ended(row)),
            RowStarted: self._row_started,
            RowSeen: lambda row: self._together(map_writes.row_seen(row)),
            LinesFound: self._lines,
            Drawing: self._drawing,
        }

    def prepared(self, rows: Iterable[Row | CacheHit]) -> tuple[list[Step], StoreError | None]:
        """Return the steps that write these rows in order, and the error of a row that cannot be stored.

        They are built before the transaction begins, so that it is short.
        """
        failure = None
        self._step = Step()
        self._steps = [self._step]
        for row in rows:
            try:
                self._handlers[type(row)](row)
            except (TypeError, ValueError) as error:
                failure = StoreError(f"the store {self._where}: a {type(row).__name__} cannot be stored: {error}")
        return self._steps, failure

    def _sign(self, run_id: str, at: float) -> None:
        """Record a sign of life of a run, at most once per second."""
        self._step.runs.add(run_id)
        if at >= self._seen.get(run_id, 0.0) + _SIGNS_APART:
            self._seen[run_id] = self._step.seen[run_id] = at

    # Handlers, one per class of row.

    def _apart(self, statements: Iterable[Values]) -> None:
        """Add statements that follow all earlier ones and precede all later ones."""
        for sql, *values in statements:
            self._next_step().add(sql, *values)
        self._next_step()

    def _next_step(self) -> Step:
        self._step = Step()
        self._steps.append(self._step)
        return self._step

    def _before_others(self, run_id: str) -> None:
        """Make sure that the next statements precede all those of the run in their step."""
        self._texts.forget(run_id)
        if run_id in self._step.runs:
            self._next_step()

    def _together(self, statements: Iterable[Values]) -> None:
        """Add statements to those of many rows."""
        for sql, *values in statements:
            self._step.add(sql, *values)

    def _lines(self, row: LinesFound) -> None:
        self._apart(map_writes.no_lines(row))
        self._together(map_writes.lines(row))

    def _started(self, row: Started) -> None:
        about = (row.run_id, row.parent, row.root, row.pipeline, row.profile, row.started, as_json(row.tags))
        record = None if row.record is None else pack(row.record)
        self._before_others(row.run_id)
        self._step.add(statements.STARTED, *about, row.content, row.fingerprint)
        self._step.add(statements.RECORD, record, row.run_id)

    def _row_started(self, row: RowStarted) -> None:
        self._before_others(row.run.run_id)
        self._together(map_writes.row_started(row))

    def _session(self, row: SessionStart) -> None:
        self._before_others(row.run_id)
        self._seen[row.run_id] = row.started
        self._step.runs.add(row.run_id)
        self._step.add(statements.SESSION, row.session, row.started, row.started, row.run_id)
        self._step.add(statements.RUNNING, row.run_id, row.session)
        self._step.add(statements.NO_RESULT, row.run_id)

    def _ended(self, row: Ended) -> None:
        result = None if row.result is None else pack(row.result)
        money = (pack_money(row.usd), row.unknown_calls, row.calls, pack_failure(row.failure))
        if row.run_id in self._step.ended:
            self._next_step()
        self._step.runs.add(row.run_id)
        self._step.ended.add(row.run_id)
        self._step.seen[row.run_id] = row.ended
        self._seen.pop(row.run_id, None)
        self._texts.forget(row.run_id)
        self._step.add(statements.RESULT, row.run_id, row.session, result)
        self._step.add(statements.ENDED, row.run_id, row.session, row.status, row.ended, *money)

    def _call(self, row: Call) -> None:
        key = _key(row.key)
        about = (row.role, row.asked, row.state, row.started, row.ended, pack_digest(row.text_digest))
        waited = pack_waited(row.waited)
        end = (pack_failure(row.failure), row.reused, *_reply_values(row.reply), waited, row.run_id)
        self._step.add(statements.CALL, row.number, *key, *about, *end)
        self._sign(row.run_id, row.ended)
        request = None if row.request is None else self._request(row.run_id, row.key, row.request)
        text = pack_content(row.reply)
        if request is not None or text is not None:
            self._step.add(statements.BODY, row.number, request, text, row.run_id, row.number, *key)

    def _request(self, run_id: str, key: CallKey, request: Request) -> Packed:
        texts: Parts = {}
        files: Parts = {}
        packed = pack_request(request, key, texts, files, self._texts.digest)
        for digest, text in self._texts.new(run_id, texts).items():
            self._step.add(statements.TEXT, digest, pack(str(text)), run_id)
        for digest, file in self._texts.new(run_id, files).items():
            self._step.add(statements.FILE, digest, file, run_id)
        return packed

    def _set_aside(self, row: SetAside) -> None:
        self._apart([(statements.SET_ASIDE, row.run_id, *_key(key)) for key in row.keys])

    def _attempt(self, row: Attempt) -> None:
        place = (row.session, row.number, row.stage, row.item, row.step, row.role, row.model)
        worst = (pack_money(row.usd), row.tokens)
        self._step.add(statements.ATTEMPT, *place, row.opened, *worst, *worst, row.run_id)
        self._sign(row.run_id, row.opened)

    def _attempt_end(self, row: AttemptEnd) -> None:
        spent = (row.state, row.closed, pack_money(row.usd), row.tokens)
        self._step.add(statements.ATTEMPT_END, *spent, row.run_id, row.session, row.number)
        self._sign(row.run_id, row.closed)

    def _decision(self, row: Decision) -> None:
        self._step.runs.add(row.run_id)
        self._step.add(statements.DECISION, row.stage, row.item, row.name, pack_data(row.value), row.run_id)

    def _noticed(self, row: Noticed) -> None:
        self._step.runs.add(row.run_id)
        self._step.add(statements.NOTICED, row.number, pack(row.body), row.run_id)

    def _drawing(self, row: Drawing) -> None:
        self._step.add(statements.DRAWING, row.account, row.holder, row.run_id, row.session)

    def _cached(self, row: Cached) -> None:
        reply = pack_reply(row.reply)
        size = len(reply if isinstance(reply, bytes) else reply.encode()) + len(row.key)
        self._step.add(statements.CACHED, row.key, reply, size, row.at, row.at)

    def _cache_hit(self, row: CacheHit) -> None:
        self._step.add(statements.USED, row.at, row.key)


def _key(key: CallKey) -> tuple[str, int | None, str, Packed]:
    return key.stage, key.item, key.step, pack_digest(key.digest)


def _reply_values(reply: Reply | None) -> Values:
    """Return the columns of a reply, without its text."""
    if reply is None:
        return (None,) * 14
    usage = reply.usage
    about = (reply.finish_reason, reply.asked, reply.served, reply.by, usage.source)
    tokens = (usage.input, usage.cached_read, usage.cache_write, usage.output, usage.reasoning)
    money, saved = pack_money(reply.cost), pack_money(reply.batch_saved)
    return (*about, *tokens, money, reply.latency, reply.first_token, saved)
