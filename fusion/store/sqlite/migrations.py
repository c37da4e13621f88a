"""Tables of a SQLite store, as numbered migrations: append new ones, never change old ones."""

import sqlite3
from typing import Final

APPLICATION: Final = 0x4675736E
"""The application id of a store of Fusion ("Fusn")."""

_FIRST: Final = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    parent TEXT,
    root TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    profile TEXT NOT NULL,
    started REAL NOT NULL,
    tags TEXT NOT NULL,
    content TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'running',
    session INTEGER NOT NULL DEFAULT 0,
    ended REAL,
    usd TEXT,
    unknown_calls INTEGER,
    calls INTEGER,
    failure
);
CREATE INDEX runs_by_start ON runs (started);
CREATE INDEX runs_by_fingerprint ON runs (fingerprint);
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;

CREATE TABLE records (
    run INTEGER PRIMARY KEY,
    record,
    result
);

CREATE TABLE sessions (
    run INTEGER NOT NULL,
    session INTEGER NOT NULL,
    started REAL NOT NULL,
    seen REAL NOT NULL,
    PRIMARY KEY (run, session)
) WITHOUT ROWID;

CREATE TABLE calls (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    stage TEXT NOT NULL,
    item INTEGER,
    step TEXT NOT NULL,
    digest NOT NULL,
    role TEXT NOT NULL,
    asked TEXT NOT NULL,
    state TEXT NOT NULL,
    started REAL NOT NULL,
    ended REAL NOT NULL,
    text_digest NOT NULL,
    failure,
    reused TEXT,
    finish TEXT,
    replied TEXT,
    served TEXT,
    writer TEXT,
    source TEXT,
    input INTEGER,
    cached_read INTEGER,
    cache_write INTEGER,
    output INTEGER,
    reasoning INTEGER,
    usd TEXT,
    latency REAL,
    first_token REAL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX calls_by_key ON calls (run, stage, step, ifnull(item, -1), digest) WHERE state = 'finished';

CREATE TABLE bodies (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    request,
    text,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;

CREATE TABLE texts (
    run INTEGER NOT NULL,
    digest BLOB NOT NULL,
    body NOT NULL,
    PRIMARY KEY (run, digest)
) WITHOUT ROWID;

CREATE TABLE files (
    run INTEGER NOT NULL,
    digest BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (run, digest)
) WITHOUT ROWID;

CREATE TABLE attempts (
    run INTEGER NOT NULL,
    session INTEGER NOT NULL,
    number INTEGER NOT NULL,
    stage TEXT NOT NULL,
    item INTEGER,
    step TEXT NOT NULL,
    role TEXT NOT NULL,
    model TEXT NOT NULL,
    opened REAL NOT NULL,
    worst_usd TEXT,
    worst_tokens INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open',
    closed REAL,
    usd TEXT,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (run, session, number)
) WITHOUT ROWID;

CREATE TABLE decisions (
    decision INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stage TEXT NOT NULL,
    item INTEGER,
    name TEXT NOT NULL,
    value NOT NULL
);
CREATE UNIQUE INDEX decisions_by_name ON decisions (run, stage, name, ifnull(item, -1));

CREATE TABLE events (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    body NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;

CREATE TABLE cache (
    key TEXT PRIMARY KEY,
    reply NOT NULL,
    size INTEGER NOT NULL,
    at REAL NOT NULL,
    used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX cache_by_use ON cache (used);
CREATE TABLE cache_total (bytes INTEGER NOT NULL);
INSERT INTO cache_total VALUES (0);
CREATE TRIGGER cache_grows AFTER INSERT ON cache BEGIN
    UPDATE cache_total SET bytes = bytes + new.size;
END;
CREATE TRIGGER cache_changes AFTER UPDATE OF size ON cache BEGIN
    UPDATE cache_total SET bytes = bytes + new.size - old.size;
END;
CREATE TRIGGER cache_shrinks AFTER DELETE ON cache BEGIN
    UPDATE cache_total SET bytes = bytes - old.size;
END;

CREATE TABLE removed (run INTEGER PRIMARY KEY);
"""

_WAITS: Final = "ALTER TABLE calls ADD COLUMN waited;\n"

_MAPS: Final = """
CREATE TABLE maps (
    map INTEGER PRIMARY KEY AUTOINCREMENT,
    map_id TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    profile TEXT NOT NULL,
    started REAL NOT NULL,
    tags TEXT NOT NULL,
    source TEXT NOT NULL,
    output TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'running',
    pass INTEGER NOT NULL DEFAULT 0,
    resumed REAL,
    ended REAL,
    expected INTEGER,
    fingerprint TEXT NOT NULL DEFAULT '',
    failure
);
CREATE INDEX maps_by_start ON maps (started);

CREATE TABLE map_records (
    map INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    record NOT NULL,
    PRIMARY KEY (map, fingerprint)
) WITHOUT ROWID;

CREATE TABLE map_rows (
    map INTEGER NOT NULL,
    number INTEGER NOT NULL,
    key TEXT NOT NULL,
    run INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (map, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX map_rows_by_key ON map_rows (map, key);

CREATE TABLE map_lines (
    map INTEGER NOT NULL,
    key TEXT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (map, key)
) WITHOUT ROWID;

ALTER TABLE runs ADD COLUMN map INTEGER;
ALTER TABLE runs ADD COLUMN row INTEGER;
ALTER TABLE runs ADD COLUMN shared TEXT;
CREATE INDEX runs_by_row ON runs (map, row) WHERE map IS NOT NULL;
"""

_BATCHES: Final = "ALTER TABLE calls ADD COLUMN batch_saved TEXT;\n"

_ACCOUNTS: Final = """
CREATE TABLE accounts (
    account INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    period TEXT NOT NULL,
    begins REAL,
    ends REAL,
    cap_usd TEXT,
    cap_tokens INTEGER,
    cap_calls INTEGER,
    spent_usd TEXT NOT NULL DEFAULT '0',
    spent_tokens INTEGER NOT NULL DEFAULT 0,
    spent_calls INTEGER NOT NULL DEFAULT 0,
    open_usd TEXT NOT NULL DEFAULT '0',
    open_tokens INTEGER NOT NULL DEFAULT 0,
    open_calls INTEGER NOT NULL DEFAULT 0,
    UNIQUE (name, period)
);

CREATE TABLE leases (
    account INTEGER NOT NULL,
    holder TEXT NOT NULL,
    spent_usd TEXT NOT NULL,
    spent_tokens INTEGER NOT NULL,
    spent_calls INTEGER NOT NULL,
    open_usd TEXT NOT NULL,
    open_tokens INTEGER NOT NULL,
    open_calls INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (account, holder)
) WITHOUT ROWID;
CREATE INDEX leases_by_holder ON leases (holder);

CREATE TABLE drawings (
    account TEXT NOT NULL,
    holder TEXT NOT NULL,
    run_id TEXT NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (account, holder, run_id, session)
) WITHOUT ROWID;

CREATE TABLE rates (name TEXT PRIMARY KEY, next REAL NOT NULL) WITHOUT ROWID;
"""

MIGRATIONS: Final = (_FIRST, _WAITS, _MAPS, _BATCHES, _ACCOUNTS)
"""Entry n migrates a store from version n to n + 1."""
NEWEST: Final = len(MIGRATIONS)


def version(connection: sqlite3.Connection) -> int:
    """Return the version of a store; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, *, to: int = NEWEST) -> None:
    """Migrate a store up to version `to`, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(version(connection), to):
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """Split a script into statements; `executescript` would end the transaction."""
    found: list[str] = []
    rest = ""
    for line in script.splitlines():
        rest += line + "\n"
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return found
