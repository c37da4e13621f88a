"""Open the store at a place: a file of SQLite, or the URL of a PostgreSQL database."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fusion.core.errors import StoreError
from fusion.core.paths import is_url
from fusion.store.base import CACHE_BYTES, Store, Synchronous


def open_store(place: str | Path, *, synchronous: Synchronous = "NORMAL", cache_bytes: int = CACHE_BYTES) -> Store:
    """Open the store at a path, or in the database of a `postgresql://` URL; create it if needed. Raises StoreError.

    `synchronous` FULL syncs a file at every commit; a database does so always. `cache_bytes` bounds the cached
    replies.
    """
    if isinstance(place, Path) and place.parts and place.parts[0] in ("postgresql:", "postgres:"):
        raise StoreError("the store is a Path made of a URL: give the URL as a text")
    if is_url(place):
        check_driver()
        from fusion.store.postgres.open import open_database

        return open_database(str(place), cache_bytes=cache_bytes)
    from fusion.store.sqlite.open import open_file

    return open_file(place, synchronous=synchronous, cache_bytes=cache_bytes)


class DatabaseState(NamedTuple):
    """A store's place, its size in bytes, its version, and the newest one; version 0 is not made yet."""

    where: str
    size: int
    version: int
    newest: int


def state_of_database(url: str) -> DatabaseState:
    """Return the state of a store that can be written. Raises StoreError. It changes nothing."""
    check_driver()
    from fusion.store.postgres.open import state_at

    return DatabaseState(*state_at(url))


def is_same_database(url: str, other: str) -> bool:
    """Return True if two URLs name one database, whatever secrets they hold. Raises StoreError."""
    check_driver()
    from fusion.store.postgres.address import Address

    return Address.of(url).where == Address.of(other).where


def check_driver() -> None:
    """Raise StoreError if the driver of PostgreSQL is not installed."""
    if find_spec("psycopg") is None:
        raise StoreError("a store in PostgreSQL needs the extra postgres: pip install 'compound-fusion[postgres]'")
