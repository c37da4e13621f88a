"""Opens the store at a path, makes it where there is none, and says clearly why that cannot be."""

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fusion.core.errors import StoreError
from fusion.core.paths import user_path
from fusion.store.base import Store
from fusion.store.sqlite.connections import Connections, Synchronous, explained
from fusion.store.sqlite.migrations import APPLICATION, NEWEST, migrate, version
from fusion.store.sqlite.store import CACHE_BYTES, SqliteStore

MOUNTS: Final = Path("/proc/self/mounts")
_REMOTE: Final = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|davfs|fuse\.(ceph|gcsfuse|glusterfs|rclone|s3fs|sshfs)|gfs2|glusterfs|gpfs|lustre"
    r"|ncpfs|nfs\d?|ocfs2|orangefs|smb\d|smbfs"
)


def open_store(path: str | Path, *, synchronous: Synchronous = "NORMAL", cache_bytes: int = CACHE_BYTES) -> Store:
    """The store in a file, made if it does not exist yet. Raises StoreError, which says what to do.

    `synchronous` FULL waits for the disk at every write; `cache_bytes` bounds the replies that are cached.
    """
    place = Path(os.path.abspath(user_path(str(path))))  # noqa: PTH100 - no link is followed: WAL lies beside it
    _refuse_remote(place)
    try:
        _make(place)
        with _opened(place, synchronous) as connection:
            if _is_ready(place, connection):
                return SqliteStore(place, synchronous=synchronous, cache_bytes=cache_bytes)
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


@contextmanager
def _opened(place: Path, synchronous: Synchronous) -> Iterator[sqlite3.Connection]:
    connection = Connections(place, synchronous=synchronous).open()
    try:
        yield connection
    finally:
        connection.close()


def _make(place: Path) -> None:
    """The file and its folder, for nobody but their owner."""
    if place.is_dir():
        raise StoreError(f"the store {place} is a folder: give the path of a file in it, such as {place / 'runs.db'}")
    for folder in reversed([folder for folder in place.parents if not folder.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _is_ready(place: Path, connection: sqlite3.Connection) -> bool:
    """Whether it is a store of the newest version that can be written."""
    found = version(connection)
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION and (found or connection.execute("SELECT 1 FROM sqlite_master").fetchone()):
        raise StoreError(f"the store {place} is a SQLite file of another program: choose another place")
    if found > NEWEST:
        raise StoreError(
            f"the store {place} has version {found}, and this Fusion knows versions up to {NEWEST}:"
            " update Fusion, or choose another place"
        )
    if found:  # an empty file would be begun by this, and take no more settings
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    return found == NEWEST


def _prepare(place: Path, connection: sqlite3.Connection) -> None:
    """Make a store of the newest version of what is there."""
    if version(connection) == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"the store {place}: no write-ahead log can be kept there: choose another place")
    migrate(connection)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Of all processes that open a store, one prepares it; the others wait for it."""
    folder = place.with_name(place.name + ".locks")
    folder.mkdir(mode=0o700, exist_ok=True)
    file = os.open(folder / "-opening", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _refuse_remote(place: Path) -> None:
    """SQLite's write-ahead log needs memory that all processes share: no network file system has it."""
    kind = _file_system(place)
    if _REMOTE.fullmatch(kind):
        raise StoreError(
            f"the store {place} would lie on a network file system ({kind}), where runs cannot be kept safely:"
            " choose a place on a disk of this machine, or run with --no-store"
        )


def _file_system(place: Path) -> str:
    """The type of the file system that a path is on, empty where it cannot be known."""
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
