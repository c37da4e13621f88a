"""Writes of a SQLite store: a batch of rows becomes one transaction."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
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
from fusion.store.sqlite import map_writes
from fusion.store.sqlite.codec import (
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
from fusion.store.sqlite.connections import OF_RUN, explained

_BUSY_TRIES: Final = 6
_KNOWN_TEXTS: Final = 64_000_000
_SIGNS_APART: Final = 1.0
_FILLED: Final = 0.9
_SAME_KEY: Final = "stage = ? AND ifnull(item, -1) = ifnull(?, -1) AND step = ? AND digest = ?"

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A use of a cached reply, which keeps it from eviction."""

    key: str
    at: float


def _insert(table: str, columns: str) -> str:
    """Return the SQL that inserts a row of a run; its last value is the run id. Unknown runs insert nothing."""
    marks = ", ".join("?" for _ in columns.split(", "))
    return (
        f"INSERT INTO {table} (run, {columns}) SELECT run, {marks} FROM runs WHERE run_id = ? ON CONFLICT DO NOTHING"
    )


_CALL: Final = _insert(
    "calls",
    "number, stage, item, step, digest, role, asked, state, started, ended, text_digest, failure, reused, finish, "
    "replied, served, writer, source, input, cached_read, cache_write, output, reasoning, usd, latency, first_token, "
    "batch_saved, waited",
)
_BODY: Final = (
    "INSERT INTO bodies (number, request, text, run) SELECT ?, ?, ?, calls.run FROM calls"
    f" WHERE calls.run = {OF_RUN} AND calls.number = ? AND {_SAME_KEY} ON CONFLICT DO NOTHING"
)
_TEXT: Final = _insert("texts", "digest, body")
_FILE: Final = _insert("files", "digest, body")
_ATTEMPT: Final = _insert(
    "attempts", "session, number, stage, item, step, role, model, opened, worst_usd, worst_tokens, usd, tokens"
)
_ATTEMPT_END: Final = (
    "UPDATE attempts SET state = ?, closed = ?, usd = ?, tokens = ?"
    f" WHERE run = {OF_RUN} AND session = ? AND number = ? AND state IN ('open', 'lost')"
)
_DECISION: Final = _insert("decisions", "stage, item, name, value")
_NOTICED: Final = _insert("events", "number, body")
_CACHED: Final = (
    "INSERT INTO cache (key, reply, size, at, used) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
    " reply = excluded.reply, size = excluded.size, at = excluded.at, used = excluded.used"
    " WHERE excluded.at >= at"
)
_USED: Final = "UPDATE cache SET used = ? WHERE key = ?"
_SEEN: Final = (
    "UPDATE sessions SET seen = max(seen, ?2) WHERE run = (SELECT run FROM runs WHERE run_id = ?1)"
    " AND session = (SELECT session FROM runs WHERE run_id = ?1)"
)
_STARTED: Final = (
    "INSERT INTO runs (run_id, parent, root, pipeline, profile, started, tags, content, fingerprint)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_RECORD: Final = _insert("records", "record")
_SESSION: Final = _insert("sessions", "session, started, seen")
_RUNNING: Final = (
    "UPDATE runs SET status = 'running', session = ?2, ended = NULL, usd = NULL, unknown_calls = NULL, calls = NULL,"
    " failure = NULL WHERE run_id = ?1 AND session < ?2"
)
_NO_RESULT: Final = (
    "UPDATE records SET result = NULL WHERE run = (SELECT run FROM runs WHERE run_id = ? AND status = 'running')"
)
_RESULT: Final = (
    "UPDATE records SET result = ?3 WHERE run ="
    " (SELECT run FROM runs WHERE run_id = ?1 AND session <= ?2 AND status = 'running')"
)
_ENDED: Final = (
    "UPDATE runs SET status = ?3, ended = ?4, usd = ?5, unknown_calls = ?6, calls = ?7, failure = ?8"
    " WHERE run_id = ?1 AND session <= ?2 AND status = 'running'"
)
_SET_ASIDE: Final = (
    f"UPDATE calls SET state = 'set aside' WHERE run = {OF_RUN} AND {_SAME_KEY} AND state = 'finished'"
)
_RANK: Final = {
    sql: rank
    for rank, sql in enumerate(
        (
            *map_writes.MANY,
            _ATTEMPT,
            _ATTEMPT_END,
            _TEXT,
            _FILE,
            _CALL,
            _BODY,
            _DECISION,
            _NOTICED,
            _CACHED,
            _USED,
        )
    )
}


class _Step:
    """Statements to execute in the order of `_RANK`, each with the values of many rows."""

    def __init__(self) -> None:
        self.values: dict[str, list[Values]] = {}
        self.seen: dict[str, float] = {}

    def add(self, sql: str, *values: Any) -> None:
        self.values.setdefault(sql, []).append(values)

    def do(self, connection: sqlite3.Connection) -> None:
        for sql in sorted(self.values, key=lambda sql: _RANK.get(sql, 0)):
            connection.executemany(sql, self.values[sql])
        if self.seen:
            connection.executemany(_SEEN, self.seen.items())


class _Texts:
    """Digests of recurring long texts, and the runs that have them stored."""

    def __init__(self) -> None:
        self._digests: dict[str, bytes] = {}
        self._size = 0
        self._kept: dict[str, set[bytes]] = {}

    def digest(self, text: str) -> bytes:
        found = self._digests.get(text)
        if found is None:
            if self._size > _KNOWN_TEXTS:
                self._digests.clear()
                self._size = 0
            found = self._digests[text] = text_digest(text)
            self._size += len(text)
        return found

    def new(self, run_id: str, parts: Parts) -> Parts:
        """Return the parts that are not stored for this run yet, and mark them as stored."""
        kept = self._kept.setdefault(run_id, set())
        found = {digest: body for digest, body in parts.items() if digest not in kept}
        kept.update(found)
        return found

    def forget(self, run_id: str) -> None:
        self._kept.pop(run_id, None)


class RowWriter:
    """Turns rows into SQL statements and executes them, in one thread on one connection."""

    def __init__(self, connection: sqlite3.Connection, where: str, *, cache_bytes: int) -> None:
        self._connection = connection
        self._where = where
        self._cache_bytes = cache_bytes
        self._texts = _Texts()
        self._seen: dict[str, float] = {}
        self._steps = [_Step()]
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
            RowStarted: lambda row: self._together(map_writes.row_started(row)),
            RowSeen: lambda row: self._together(map_writes.row_seen(row)),
            LinesFound: self._lines,
        }

    def write(self, rows: Sequence[Row | CacheHit]) -> StoreError | None:
        """Write rows in order. Raises StoreError if none can be written; returns that of a single row."""
        failure = self._prepare(rows)
        try:
            self._begin()
            try:
                for step in self._steps:
                    step.do(self._connection)
                self._evict()
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise explained(self._where, error) from error
        return failure

    def _prepare(self, rows: Iterable[Row | CacheHit]) -> StoreError | None:
        """Build the statements before the transaction begins, so that it is short."""
        failure = None
        self._steps = [_Step()]
        for row in rows:
            try:
                self._handlers[type(row)](row)
            except (TypeError, ValueError) as error:
                failure = StoreError(f"the store {self._where}: a {type(row).__name__} cannot be stored: {error}")
        return failure

    def _begin(self) -> None:
        for left in reversed(range(_BUSY_TRIES)):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not left:
                    raise

    def _evict(self) -> None:
        """Evict the least recently used replies if the cache is too large."""
        if not any(_CACHED in step.values for step in self._steps):
            return
        total = int(self._connection.execute("SELECT bytes FROM cache_total").fetchone()[0])
        if total <= self._cache_bytes:
            return
        least: list[tuple[str]] = []
        for key, size in self._connection.execute("SELECT key, size FROM cache ORDER BY used, at"):
            if total <= self._cache_bytes * _FILLED:
                break
            least.append((key,))
            total -= size
        self._connection.executemany("DELETE FROM cache WHERE key = ?", least)

    def _sign(self, run_id: str, at: float) -> None:
        """Record a sign of life of a run, at most once per second."""
        if at >= self._seen.get(run_id, 0.0) + _SIGNS_APART:
            self._seen[run_id] = self._steps[-1].seen[run_id] = at

    # Handlers, one per class of row.

    def _apart(self, statements: Iterable[Values]) -> None:
        """Add statements that follow all earlier ones and precede all later ones."""
        for sql, *values in statements:
            step = _Step()
            step.add(sql, *values)
            self._steps.append(step)
        self._steps.append(_Step())

    def _together(self, statements: Iterable[Values]) -> None:
        """Add statements to those of many rows."""
        for sql, *values in statements:
            self._steps[-1].add(sql, *values)

    def _lines(self, row: LinesFound) -> None:
        self._apart(map_writes.no_lines(row))
        self._together(map_writes.lines(row))

    def _started(self, row: Started) -> None:
        about = (row.run_id, row.parent, row.root, row.pipeline, row.profile, row.started, as_json(row.tags))
        record = None if row.record is None else pack(row.record)
        self._texts.forget(row.run_id)
        self._apart([(_STARTED, *about, row.content, row.fingerprint), (_RECORD, record, row.run_id)])

    def _session(self, row: SessionStart) -> None:
        self._seen.pop(row.run_id, None)
        self._apart(
            [
                (_SESSION, row.session, row.started, row.started, row.run_id),
                (_RUNNING, row.run_id, row.session),
                (_NO_RESULT, row.run_id),
            ]
        )

    def _ended(self, row: Ended) -> None:
        result = None if row.result is None else pack(row.result)
        money = (pack_money(row.usd), row.unknown_calls, row.calls, pack_failure(row.failure))
        self._steps[-1].seen[row.run_id] = row.ended
        self._seen.pop(row.run_id, None)
        self._texts.forget(row.run_id)
        self._apart(
            [
                (_RESULT, row.run_id, row.session, result),
                (_ENDED, row.run_id, row.session, row.status, row.ended, *money),
            ]
        )

    def _call(self, row: Call) -> None:
        key = _key(row.key)
        about = (row.role, row.asked, row.state, row.started, row.ended, pack_digest(row.text_digest))
        waited = pack_waited(row.waited)
        end = (pack_failure(row.failure), row.reused, *_reply_values(row.reply), waited, row.run_id)
        self._steps[-1].add(_CALL, row.number, *key, *about, *end)
        self._sign(row.run_id, row.ended)
        request = None if row.request is None else self._request(row.run_id, row.key, row.request)
        text = pack_content(row.reply)
        if request is not None or text is not None:
            self._steps[-1].add(_BODY, row.number, request, text, row.run_id, row.number, *key)

    def _request(self, run_id: str, key: CallKey, request: Request) -> Packed:
        texts: Parts = {}
        files: Parts = {}
        packed = pack_request(request, key, texts, files, self._texts.digest)
        for digest, text in self._texts.new(run_id, texts).items():
            self._steps[-1].add(_TEXT, digest, pack(str(text)), run_id)
        for digest, file in self._texts.new(run_id, files).items():
            self._steps[-1].add(_FILE, digest, file, run_id)
        return packed

    def _set_aside(self, row: SetAside) -> None:
        self._apart([(_SET_ASIDE, row.run_id, *_key(key)) for key in row.keys])

    def _attempt(self, row: Attempt) -> None:
        place = (row.session, row.number, row.stage, row.item, row.step, row.role, row.model)
        worst = (pack_money(row.usd), row.tokens)
        self._steps[-1].add(_ATTEMPT, *place, row.opened, *worst, *worst, row.run_id)
        self._sign(row.run_id, row.opened)

    def _attempt_end(self, row: AttemptEnd) -> None:
        spent = (row.state, row.closed, pack_money(row.usd), row.tokens)
        self._steps[-1].add(_ATTEMPT_END, *spent, row.run_id, row.session, row.number)
        self._sign(row.run_id, row.closed)

    def _decision(self, row: Decision) -> None:
        self._steps[-1].add(_DECISION, row.stage, row.item, row.name, pack_data(row.value), row.run_id)

    def _noticed(self, row: Noticed) -> None:
        self._steps[-1].add(_NOTICED, row.number, pack(row.body), row.run_id)

    def _cached(self, row: Cached) -> None:
        reply = pack_reply(row.reply)
        size = len(reply if isinstance(reply, bytes) else reply.encode()) + len(row.key)
        self._steps[-1].add(_CACHED, row.key, reply, size, row.at, row.at)

    def _cache_hit(self, row: CacheHit) -> None:
        self._steps[-1].add(_USED, row.at, row.key)


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
