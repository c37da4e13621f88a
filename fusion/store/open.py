"""Open the store at a place: a file of SQLite, or the URL of a PostgreSQL database."""

import importlib.util
from pathlib import Path

from fusion.core.errors import StoreError
from fusion.core.paths import is_url
from fusion.store.base import CACHE_BYTES, Store, Synchronous


def open_store(place: str | Path, *, synchronous: Synchronous = "NORMAL", cache_bytes: int = CACHE_BYTES) -> Store:
    """Open the store at a path, or in the database of a `postgresql://` URL; create it if needed. Raises StoreError.

    `synchronous` FULL syncs a file at every commit; a database does so always. `cache_bytes` bounds the cached
    replies.
    """
    if is_url(place):
        check_driver()
        from fusion.store.postgres.open import open_database

        return open_database(str(place), cache_bytes=cache_bytes)
    from fusion.store.sqlite.open import open_file

    return open_file(place, synchronous=synchronous, cache_bytes=cache_bytes)


def check_driver() -> None:
    """Raise StoreError if the driver of PostgreSQL is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("psycopg", "psycopg_pool")):
        raise StoreError("a store in PostgreSQL needs the extra postgres: pip install 'compound-fusion[postgres]'")
