"""Tables of a PostgreSQL store, as numbered migrations: append new ones, never change old ones.

All tables are in the schema `fusion`. Texts compare by code point, so that a prefix is a range.
"""

from typing import Any, Final

from psycopg import Connection

from fusion.core.errors import StoreError

SCHEMA: Final = "fusion"
_GUARD: Final = 0x66757369_6F6E0001
"""Key of the advisory lock under which one process at a time changes tables."""

_FIRST: Final = """
CREATE TABLE runs (
    run bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL UNIQUE,
    parent text COLLATE "C",
    root text COLLATE "C" NOT NULL,
    pipeline text NOT NULL,
    profile text NOT NULL,
    started double precision NOT NULL,
    tags text NOT NULL,
    content text NOT NULL,
    fingerprint text NOT NULL,
    status text NOT NULL DEFAULT 'running',
    session bigint NOT NULL DEFAULT 0,
    ended double precision,
    usd text,
    unknown_calls bigint,
    calls bigint,
    failure bytea,
    map bigint,
    row bigint,
    shared text
);
CREATE INDEX runs_by_start ON runs (started);
CREATE INDEX runs_by_fingerprint ON runs (fingerprint);
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_by_row ON runs (map, row) WHERE map IS NOT NULL;

CREATE TABLE records (
    run bigint PRIMARY KEY,
    record bytea,
    result bytea
);

CREATE TABLE sessions (
    run bigint NOT NULL,
    session bigint NOT NULL,
    started double precision NOT NULL,
    seen double precision NOT NULL,
    PRIMARY KEY (run, session)
);

CREATE TABLE calls (
    run bigint NOT NULL,
    number bigint NOT NULL,
    stage text COLLATE "C" NOT NULL,
    item bigint,
    step text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    role text NOT NULL,
    asked text NOT NULL,
    state text NOT NULL,
    started double precision NOT NULL,
    ended double precision NOT NULL,
    text_digest bytea NOT NULL,
    failure bytea,
    reused text,
    finish text,
    replied text,
    served text,
    writer text,
    source text,
    input bigint,
    cached_read bigint,
    cache_write bigint,
    output bigint,
    reasoning bigint,
    usd text,
    latency double precision,
    first_token double precision,
    batch_saved text,
    waited text,
    PRIMARY KEY (run, number)
);
CREATE UNIQUE INDEX calls_by_key ON calls (run, stage, step, coalesce(item, -1), digest) WHERE state = 'finished';

CREATE TABLE bodies (
    run bigint NOT NULL,
    number bigint NOT NULL,
    request bytea,
    text bytea,
    PRIMARY KEY (run, number)
);

CREATE TABLE texts (
    run bigint NOT NULL,
    digest bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run, digest)
);

CREATE TABLE files (
    run bigint NOT NULL,
    digest bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run, digest)
);

CREATE TABLE attempts (
    run bigint NOT NULL,
    session bigint NOT NULL,
    number bigint NOT NULL,
    stage text COLLATE "C" NOT NULL,
    item bigint,
    step text NOT NULL,
    role text NOT NULL,
    model text NOT NULL,
    opened double precision NOT NULL,
    worst_usd text,
    worst_tokens bigint NOT NULL,
    state text NOT NULL DEFAULT 'open',
    closed double precision,
    usd text,
    tokens bigint NOT NULL,
    PRIMARY KEY (run, session, number)
) WITH (fillfactor = 70);

CREATE TABLE decisions (
    decision bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bigint NOT NULL,
    stage text COLLATE "C" NOT NULL,
    item bigint,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL
);
CREATE UNIQUE INDEX decisions_by_name ON decisions (run, stage, name, coalesce(item, -1));

CREATE TABLE events (
    run bigint NOT NULL,
    number bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run, number)
);

CREATE TABLE cache (
    key text COLLATE "C" PRIMARY KEY,
    reply bytea NOT NULL,
    size bigint NOT NULL,
    at double precision NOT NULL,
    used double precision NOT NULL
);
CREATE INDEX cache_by_use ON cache (used);

CREATE TABLE maps (
    map bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map_id text COLLATE "C" NOT NULL UNIQUE,
    pipeline text NOT NULL,
    profile text NOT NULL,
    started double precision NOT NULL,
    tags text NOT NULL,
    source text NOT NULL,
    output text NOT NULL,
    status text NOT NULL DEFAULT 'running',
    pass bigint NOT NULL DEFAULT 0,
    resumed double precision,
    ended double precision,
    expected bigint,
    fingerprint text NOT NULL DEFAULT '',
    failure bytea
);
CREATE INDEX maps_by_start ON maps (started);

CREATE TABLE map_records (
    map bigint NOT NULL,
    fingerprint text NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (map, fingerprint)
);

CREATE TABLE map_rows (
    map bigint NOT NULL,
    number bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    run bigint NOT NULL,
    seen bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (map, number)
);
CREATE UNIQUE INDEX map_rows_by_key ON map_rows (map, key);

CREATE TABLE map_lines (
    map bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    line text NOT NULL,
    PRIMARY KEY (map, key)
);

CREATE TABLE removed (run bigint PRIMARY KEY);
"""

_ACCOUNTS: Final = """
CREATE TABLE accounts (
    account bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    begins double precision,
    ends double precision,
    cap_usd text,
    cap_tokens bigint,
    cap_calls bigint,
    spent_usd text NOT NULL DEFAULT '0',
    spent_tokens bigint NOT NULL DEFAULT 0,
    spent_calls bigint NOT NULL DEFAULT 0,
    open_usd text NOT NULL DEFAULT '0',
    open_tokens bigint NOT NULL DEFAULT 0,
    open_calls bigint NOT NULL DEFAULT 0,
    UNIQUE (name, period)
) WITH (fillfactor = 50);

CREATE TABLE leases (
    account bigint NOT NULL,
    holder text COLLATE "C" NOT NULL,
    spent_usd text NOT NULL,
    spent_tokens bigint NOT NULL,
    spent_calls bigint NOT NULL,
    open_usd text NOT NULL,
    open_tokens bigint NOT NULL,
    open_calls bigint NOT NULL,
    at double precision NOT NULL,
    PRIMARY KEY (account, holder)
) WITH (fillfactor = 50);
CREATE INDEX leases_by_holder ON leases (holder);

CREATE TABLE drawings (
    account text COLLATE "C" NOT NULL,
    holder text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    session bigint NOT NULL,
    PRIMARY KEY (account, holder, run_id, session)
);

CREATE TABLE rates (name text COLLATE "C" PRIMARY KEY, next double precision NOT NULL);
"""

_SLICES: Final = """
CREATE TABLE workers (
    worker text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    host text NOT NULL,
    pid bigint NOT NULL,
    version text NOT NULL,
    concurrency bigint NOT NULL,
    started double precision NOT NULL,
    beat double precision NOT NULL,
    rows bigint NOT NULL,
    draining boolean NOT NULL
);

CREATE TABLE map_jobs (
    map bigint PRIMARY KEY REFERENCES maps ON DELETE CASCADE,
    terms text NOT NULL
);

CREATE TABLE map_slices (
    slice bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map bigint NOT NULL REFERENCES maps ON DELETE CASCADE,
    numbers bigint[] NOT NULL,
    worker text COLLATE "C",
    deaths bigint NOT NULL DEFAULT 0,
    stop boolean NOT NULL DEFAULT false
);
CREATE INDEX map_slices_waiting ON map_slices (map, slice) WHERE worker IS NULL;
CREATE INDEX map_slices_taken ON map_slices (worker) WHERE worker IS NOT NULL;

CREATE TABLE map_ends (
    at bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map bigint NOT NULL REFERENCES maps ON DELETE CASCADE,
    ends text NOT NULL
);
CREATE INDEX map_ends_by_map ON map_ends (map);

CREATE TABLE map_refusals (
    map bigint NOT NULL REFERENCES maps ON DELETE CASCADE,
    worker text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (map, worker)
);
"""

MIGRATIONS: Final = (_FIRST, _ACCOUNTS, _SLICES)
"""Entry n migrates a store from version n to n + 1, as one script in one transaction."""
NEWEST: Final = len(MIGRATIONS)

_FOUND: Final = f"""
SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    to_regnamespace('{SCHEMA}') IS NOT NULL,
    EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace('{SCHEMA}')),
    to_regclass('{SCHEMA}.fusion_store') IS NOT NULL
"""
_MAY_WRITE: Final = f"""
SELECT has_schema_privilege('{SCHEMA}', 'USAGE') AND has_table_privilege('{SCHEMA}.runs', 'INSERT, UPDATE, DELETE')
"""


def version(connection: "Connection[Any]") -> int:
    """Return the version of the store; 0 for a database without one. Raises StoreError for an unusable one."""
    found = connection.execute(_FOUND).fetchone()
    assert found is not None
    number, encoding, read_only, has_schema, has_tables, is_store = found
    if number < 140000:
        raise StoreError(f"Fusion needs PostgreSQL 14 or newer, and the server has {number // 10000}")
    if encoding != "UTF8":
        raise StoreError(f"its encoding is {encoding}: create a database with createdb --encoding=UTF8")
    if has_tables and not is_store:
        raise StoreError(f"its schema {SCHEMA!r} is that of another program: choose another database")
    if read_only:
        raise StoreError("it may only be read: name a server and a user that may write")
    if not (has_schema and is_store):
        return 0
    row = connection.execute(f"SELECT version FROM {SCHEMA}.fusion_store").fetchone()
    return 0 if row is None else int(row[0])


def is_ready(connection: "Connection[Any]") -> bool:
    """Return True for a store of the newest version that may be written. Raises StoreError for an unusable one."""
    found = version(connection)
    if found > NEWEST:
        raise StoreError(
            f"it has version {found}, and this Fusion knows versions up to {NEWEST}: update Fusion, or choose another"
            " database"
        )
    if found and not may_write(connection):
        raise StoreError("the user may only read it: grant it INSERT, UPDATE and DELETE on its tables")
    return found == NEWEST


def may_write(connection: "Connection[Any]") -> bool:
    """Return True if the user of a connection may write to the tables of a store."""
    row = connection.execute(_MAY_WRITE).fetchone()
    return row is not None and bool(row[0])


def migrate(connection: "Connection[Any]", *, to: int = NEWEST) -> None:
    """Migrate a store up to version `to`, in one transaction, while no other process does."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_GUARD,))
        found = version(connection)
        if found == 0:
            if not _has_schema(connection):
                connection.execute(f"CREATE SCHEMA {SCHEMA}")
            connection.execute(f"CREATE TABLE {SCHEMA}.fusion_store (version integer NOT NULL)")
            connection.execute(f"INSERT INTO {SCHEMA}.fusion_store VALUES (0)")
        connection.execute(f"SET LOCAL search_path = {SCHEMA}")
        for number in range(found, to):
            connection.execute(MIGRATIONS[number].encode())
            connection.execute("UPDATE fusion_store SET version = %s", (number + 1,))


def _has_schema(connection: "Connection[Any]") -> bool:
    """Return True if the schema exists, such as one that an administrator made for a user without further rights."""
    row = connection.execute(f"SELECT to_regnamespace('{SCHEMA}') IS NOT NULL").fetchone()
    return row is not None and bool(row[0])
