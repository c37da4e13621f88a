"""A PostgreSQL server that the tests start and throw away: one a session, and a database of its own for each test.

Files are not synced, but in tests of what outlives a crash.
"""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import pytest

from benchmarks.distributed.cluster import USER as USER
from benchmarks.distributed.cluster import Cluster as Server

GUARDED = "guarded"
"""A user who has to give a password."""
PASSWORD = "s3cret word%40"
_UNSYNCED = "-c fsync=off -c full_page_writes=off"
_SMALL = "-c shared_buffers=16MB -c max_connections=60 -c autovacuum_naptime=1h -c max_wal_size=64MB"


_EMPTIED = """
DO $$ DECLARE one text; BEGIN
    IF to_regclass('fusion.fusion_store') IS NULL THEN
        DROP SCHEMA IF EXISTS fusion CASCADE;
    ELSIF (SELECT version FROM fusion.fusion_store) <> NEWEST THEN
        DROP SCHEMA fusion CASCADE;
    ELSE
        FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'fusion' AND tablename <> 'fusion_store' LOOP
            EXECUTE format('DELETE FROM fusion.%I', one);
        END LOOP;
    END IF;
END $$
"""


class Cluster(Server):
    """A server that runs, with a user who has to give a password."""

    def __init__(self, options: str = _UNSYNCED) -> None:
        super().__init__(options, _SMALL)
        self._numbers = count(1)
        self.spare: list[str] = []
        rules = self.data / "pg_hba.conf"
        rules.write_text(f"local all {GUARDED} scram-sha-256\n{rules.read_text()}")
        self.start()
        self.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")

    def database(self) -> str:
        """A new, empty database; its URL."""
        name = f"test{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, sql: str, database: str = "postgres", *values: Any) -> list[Any]:
        """What a statement of the server's owner finds."""
        return execute(self.url(database), sql, *values)


def execute(url: str, sql: str, *values: Any) -> list[Any]:
    """What a statement finds in a database."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else []


def newest() -> int:
    """The version of stores that this Fusion makes."""
    from fusion.store.postgres.migrations import NEWEST

    return NEWEST


def backends(url: str, purpose: str = "") -> list[int]:
    """The processes of the server for connections of Fusion with this purpose."""
    sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
    return [pid for (pid,) in execute(url, sql, f"fusion {purpose}%")]


def terminate(url: str, purpose: str = "") -> int:
    """End the server's side of those connections; their number."""
    found = backends(url, purpose)
    cut(url, found)
    return len(found)


def cut(url: str, connections: Iterable[int]) -> None:
    """End processes of the server."""
    for pid in connections:
        execute(url, "SELECT pg_terminate_backend(%s, 5000)", pid)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The server of this session; a test that uses it is marked `needs("initdb")`."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The URL of a database whose store, if it has one, is empty; the next test uses it again."""
    url = cluster.spare.pop() if cluster.spare else cluster.database()
    yield url
    execute(
        url, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'fusion %%'"
    )
    execute(url, _EMPTIED.replace("NEWEST", str(newest())))
    cluster.spare.append(url)


@pytest.fixture
def bare(database: str) -> str:
    """The URL of a database without a store."""
    execute(database, "DROP SCHEMA IF EXISTS fusion CASCADE")
    return database
