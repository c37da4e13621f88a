"""Statements that write the rows of runs, and the steps in which they are executed."""

from collections.abc import Iterator
from typing import Any, Final

from fusion.store.sql import map_writes

Values = tuple[Any, ...]

OF_RUN: Final = "(SELECT run FROM runs WHERE run_id = ?)"
"""SQL for the row number of a run id."""

SAME_KEY: Final = "stage = ? AND ifnull(item, -1) = ifnull(?, -1) AND step = ? AND digest = ?"


INSERTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {}
"""The table and the columns of the statements that insert a row of a run; the run id is the last value of each."""


def _insert(table: str, columns: str) -> str:
    """Return the SQL that inserts a row of a run; its last value is the run id. Unknown runs insert nothing."""
    names = tuple(columns.split(", "))
    marks = ", ".join("?" for _ in names)
    sql = (
        f"INSERT INTO {table} (run, {columns}) SELECT run, {marks} FROM runs WHERE run_id = ? ON CONFLICT DO NOTHING"
    )
    INSERTS[sql] = table, names
    return sql


CALL: Final = _insert(
    "calls",
    "number, stage, item, step, digest, role, asked, state, started, ended, text_digest, failure, reused, finish, "
    "replied, served, writer, source, input, cached_read, cache_write, output, reasoning, usd, latency, first_token, "
    "batch_saved, waited",
)
BODY: Final = (
    "INSERT INTO bodies (number, request, text, run) SELECT ?, ?, ?, calls.run FROM calls"
    f" WHERE calls.run = {OF_RUN} AND calls.number = ? AND {SAME_KEY} ON CONFLICT DO NOTHING"
)
TEXT: Final = _insert("texts", "digest, body")
FILE: Final = _insert("files", "digest, body")
ATTEMPT: Final = _insert(
    "attempts", "session, number, stage, item, step, role, model, opened, worst_usd, worst_tokens, usd, tokens"
)
ATTEMPT_END: Final = (
    "UPDATE attempts SET state = ?, closed = ?, usd = ?, tokens = ?"
    f" WHERE run = {OF_RUN} AND session = ? AND number = ? AND state IN ('open', 'lost')"
)
DECISION: Final = _insert("decisions", "stage, item, name, value")
NOTICED: Final = _insert("events", "number, body")
DRAWING: Final = "INSERT INTO drawings (account, holder, run_id, session) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
CACHED: Final = (
    "INSERT INTO cache (key, reply, size, at, used) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
    " reply = excluded.reply, size = excluded.size, at = excluded.at, used = excluded.used"
    " WHERE excluded.at >= cache.at"
)
USED: Final = "UPDATE cache SET used = ? WHERE key = ?"
SEEN: Final = (
    "UPDATE sessions SET seen = ?2 WHERE run = (SELECT run FROM runs WHERE run_id = ?1)"
    " AND session = (SELECT session FROM runs WHERE run_id = ?1) AND seen < ?2"
)
STARTED: Final = (
    "INSERT INTO runs (run_id, parent, root, pipeline, profile, started, tags, content, fingerprint)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
RECORD: Final = _insert("records", "record")
SESSION: Final = _insert("sessions", "session, started, seen")
RUNNING: Final = (
    "UPDATE runs SET status = 'running', session = ?2, ended = NULL, usd = NULL, unknown_calls = NULL, calls = NULL,"
    " failure = NULL WHERE run_id = ?1 AND session < ?2"
)
NO_RESULT: Final = (
    "UPDATE records SET result = NULL WHERE run = (SELECT run FROM runs WHERE run_id = ? AND status = 'running')"
)
RESULT: Final = (
    "UPDATE records SET result = ?3 WHERE run ="
    " (SELECT run FROM runs WHERE run_id = ?1 AND session <= ?2 AND status = 'running')"
)
ENDED: Final = (
    "UPDATE runs SET status = ?3, ended = ?4, usd = ?5, unknown_calls = ?6, calls = ?7, failure = ?8"
    " WHERE run_id = ?1 AND session <= ?2 AND status = 'running'"
)
SET_ASIDE: Final = f"UPDATE calls SET state = 'set aside' WHERE run = {OF_RUN} AND {SAME_KEY} AND state = 'finished'"
_RANK: Final = {
    sql: rank
    for rank, sql in enumerate(
        (
            STARTED,
            RECORD,
            *map_writes.MANY,
            SESSION,
            RUNNING,
            NO_RESULT,
            DRAWING,
            ATTEMPT,
            ATTEMPT_END,
            TEXT,
            FILE,
            CALL,
            BODY,
            DECISION,
            NOTICED,
            CACHED,
            USED,
            SEEN,
            RESULT,
            ENDED,
        )
    )
}


class Step:
    """Statements in the order of `_RANK`, each with the values of many rows.

    `runs` are those with rows in it beyond their start, `ended` those that end in it, `seen` their signs of life.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Values]] = {}
        self.seen: dict[str, float] = {}
        self.runs: set[str] = set()
        self.ended: set[str] = set()

    def told(self) -> Iterator[tuple[str, int]]:
        """Yield the runs of which those that follow them want to hear, with the number of a new event or 0."""
        for number, _, run_id in self.values.get(NOTICED, ()):
            yield run_id, number
        for *_, run_id in self.values.get(DECISION, ()):
            yield run_id, 0
        for run_id, *_ in (*self.values.get(RUNNING, ()), *self.values.get(ENDED, ())):
            yield run_id, 0

    def add(self, sql: str, *values: Any) -> None:
        self.values.setdefault(sql, []).append(values)

    def statements(self) -> Iterator[tuple[str, list[Values]]]:
        """Yield each statement with its values, in the order of execution."""
        if self.seen:
            self.values[SEEN] = list(self.seen.items())
        for sql in sorted(self.values, key=lambda sql: _RANK.get(sql, 0)):
            yield sql, self.values[sql]
