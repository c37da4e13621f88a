"""Open the store at a path, or create it."""

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from fusion.core.errors import StoreError
from fusion.core.paths import user_path
from fusion.store.base import CACHE_BYTES, Store, Synchronous
from fusion.store.sqlite.connections import Connections, explained
from fusion.store.sqlite.migrations import APPLICATION, NEWEST, migrate, version
from fusion.store.sqlite.store import SqliteStore

MOUNTS: Final = Path("/proc/self/mounts")
_REMOTE: Final = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|davfs|fuse\.(ceph|gcsfuse|glusterfs|rclone|s3fs|sshfs)|gfs2|glusterfs|gpfs|lustre"
    r"|ncpfs|nfs\d?|ocfs2|orangefs|smb\d|smbfs"
)


def open_file(path: str | Path, *, synchronous: Synchronous = "NORMAL", cache_bytes: int = CACHE_BYTES) -> Store:
    """Open the store in a file, creating the file if needed. Raises StoreError.

    `synchronous` FULL syncs the disk at every commit; `cache_bytes` bounds the cached replies.
    """
    place = Path(os.path.abspath(user_path(str(path))))  # noqa: PTH100 - keeps links, since the WAL is beside the link
    _refuse_remote(place)
    try:
        _make(place)
        with _opened(place, synchronous) as connection:
            if not _is_ready(place, connection):
                with _alone(place):
                    _prepare(place, connection)
            return SqliteStore(place, synchronous=synchronous, cache_bytes=cache_bytes)
    except OSError as error:
        why = f"{error.strerror}: {error.filename}"
        raise StoreError(
            f"the store {place} cannot be made or written ({why}): allow writing there, or choose another place"
        ) from error
    except sqlite3.Error as error:
        raise explained(str(place), error) from error


class StoreState(NamedTuple):
    """A store's size in bytes, its version, and the newest one."""

    size: int
    version: int
    newest: int


def state_of(path: Path) -> StoreState | None:
    """Return the state of a store that can be written; None if it does not exist and can be made.

    Raises StoreError. It changes nothing.
    """
    place = Path(os.path.abspath(path))  # noqa: PTH100 - as in `open_file`
    _refuse_remote(place)
    if not place.exists():
        above = next(folder for folder in place.parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise StoreError(f"the store {place} cannot be made: {above} is no folder that you can write to")
        return None
    if not place.is_file():
        raise StoreError(f"the store {place} is no file: give the path of a file")
    try:
        with _opened(place, "NORMAL") as connection:
            _is_ready(place, connection)
            return StoreState(place.stat().st_size, version(connection), NEWEST)
    except sqlite3.Error as error:
        raise explained(str(place), error) from error


@contextmanager
def _opened(place: Path, synchronous: Synchronous) -> Iterator[sqlite3.Connection]:
    connection = Connections(place, synchronous=synchronous).open()
    try:
        yield connection
    finally:
        connection.close()


def _make(place: Path) -> None:
    """Create the file and its folders, accessible to their owner only."""
    if place.is_dir():
        raise StoreError(f"the store {place} is a folder: give the path of a file in it, such as {place / 'runs.db'}")
    for folder in reversed([folder for folder in place.parents if not folder.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _is_ready(place: Path, connection: sqlite3.Connection) -> bool:
    """Return True for a writable store of the newest version. Raises StoreError for an unusable file."""
    found = version(connection)
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION and (found or connection.execute("SELECT 1 FROM sqlite_master").fetchone()):
        raise StoreError(f"the store {place} is a SQLite file of another program: choose another place")
    if found > NEWEST:
        raise StoreError(
            f"the store {place} has version {found}, and this Fusion knows versions up to {NEWEST}:"
            " update Fusion, or choose another place"
        )
    if found:  # in an empty file this would fix the settings made by `_prepare`
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    return found == NEWEST


def _prepare(place: Path, connection: sqlite3.Connection) -> None:
    """Create or migrate the tables."""
    if version(connection) == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"the store {place}: the file system supports no write-ahead log: choose another place")
    migrate(connection)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until no other process prepares this store."""
    folder = place.with_name(place.name + ".locks")
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / "-opening", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _refuse_remote(place: Path) -> None:
    """Refuse network file systems, which lack the shared memory that a write-ahead log needs."""
    kind = _file_system(place)
    if _REMOTE.fullmatch(kind):
        raise StoreError(
            f"the store {place} is on a network file system ({kind}), which cannot store runs safely:"
            " choose a place on a disk of this machine, or run with --no-store"
        )


def _file_system(place: Path) -> str:
    """Return the type of the file system of a path; empty if unknown."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = place.resolve()
    kind, depth = "", -1
    for line in lines:
        _, mounted, found, *_ = line.split(" ")
        point = Path(mounted.replace("\\040", " "))
        if len(point.parts) >= depth and real.is_relative_to(point):
            kind, depth = found, len(point.parts)
    return kind
