"""Open the store in a database, or create it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from fusion.core.errors import StoreError
from fusion.store.base import Store
from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import connect, explained
from fusion.store.postgres.migrations import NEWEST, is_ready, may_write, migrate, version
from fusion.store.postgres.store import PostgresStore


def open_database(url: str, *, cache_bytes: int) -> Store:
    """Open the store in the database of a URL, creating its tables if needed. Raises StoreError."""
    address = Address.of(url)
    with _connected(address) as connection:
        if not is_ready(connection):
            migrate(connection)
    return PostgresStore(address, cache_bytes=cache_bytes)


def state_at(url: str) -> tuple[str, int, int, int]:
    """Return place, size in bytes, version and newest version of a store that can be written. Raises StoreError."""
    address = Address.of(url)
    with _connected(address) as connection:
        found = version(connection)
        if found and found <= NEWEST and not may_write(connection):
            raise StoreError("the user may only read it: grant it INSERT, UPDATE and DELETE on its tables")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return address.where, 0 if row is None else int(row[0]), found, NEWEST


@contextmanager
def _connected(address: Address) -> "Iterator[psycopg.Connection[Any]]":
    """Open a connection; every error names the store."""
    try:
        with connect(address, "open") as connection:
            yield connection
    except psycopg.Error as error:
        raise explained(address, error) from None
    except StoreError as error:
        raise StoreError(f"the store {address.where}: {error}") from None
