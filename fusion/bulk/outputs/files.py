"""Files: an output that grows line by line, never left with a part of one."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from fusion.bulk.outputs.base import OutputRow, Present, Replacing, RowOutput
from fusion.bulk.outputs.lines import ANOTHER, LineFormat
from fusion.core.errors import UsageError


class LineOutput(RowOutput):
    """A file of lines. Rows are appended in one write, and replaced by a rewrite beside the file and a rename.

    A lock keeps other processes out. A failed write is taken back.
    """

    def __init__(self, path: Path, form: LineFormat) -> None:
        self.name = str(path)
        self._path = Path(os.path.realpath(path))
        self._new = self._path.with_name(f".{self._path.name}.new")
        self._form = form
        self._file: int | None = None
        if self._path.exists():
            self._open()

    def present(self) -> Iterator[Present]:
        if self._file is None:
            return
        with self._path.open("rb") as file:
            for line in self._form.lines(file, self.name):
                if line.row is not None:
                    yield line.row

    def append(self, rows: Sequence[OutputRow]) -> None:
        file = self._open()
        size = os.fstat(file).st_size
        raw = b"" if size else self._form.head
        raw += b"".join([self._form.line(row) for row in rows])
        try:
            write_all(file, raw)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(file, size)
            raise UsageError(
                f"cannot write to {self.name!r}: {error.strerror}; the lines above are whole, and the finished rows "
                "are kept: make room, and give the same command again"
            ) from error

    def replace(self, rows: Replacing) -> None:
        old = self._open()
        try:
            with beside_of(old, self._new) as file:
                for raw in self._replaced(rows):
                    file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            self._new.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            self._new.unlink(missing_ok=True)
            raise UsageError(
                f"cannot rewrite {self.name!r}: {error.strerror}; it is as before: make room, and give the same "
                "command again"
            ) from error
        self.close()
        self._open()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _replaced(self, rows: Replacing) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for line in self._form.lines(file, self.name):
                now = None if line.row is None else rows(line.row.key)
                if now is None:
                    yield line.raw
                elif now != "drop":
                    yield self._form.line(now)

    def _open(self) -> int:
        """Open or create the file, locked, and cut off a torn last line."""
        if self._file is None:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise UsageError(f"cannot write to {self.name!r}: {error.strerror}") from error
            try:
                self._lock(file)
                self._new.unlink(missing_ok=True)  # of a rewrite that was killed
                self._cut()
            except BaseException:
                os.close(file)
                raise
            self._file = file
        return self._file

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process is writing to {self.name!r}; wait for it, or name another file with -o"
            ) from error
        except OSError:
            return  # a file system without locks

    def _cut(self) -> None:
        with self._path.open("r+b") as file:
            end = self._form.whole(file)
            if end:
                file.seek(0)
                self._form.check(file, self.name)
            file.seek(end)
            torn = file.read().strip(b"\0")
            if torn and not self._form.may_begin_with(torn, first=end == 0):
                raise UsageError(f"the last line of {self.name!r} has no end, and no map wrote it; {ANOTHER}")
            if end < file.tell():
                file.truncate(end)


def write_all(file: int, raw: bytes) -> None:
    """Write all bytes, in one piece if the system takes it."""
    while raw:
        raw = raw[os.write(file, raw) :]


def beside_of(old: int, path: Path) -> BinaryIO:
    """Create a file that has the mode and the owner of another."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    new = os.open(path, flags, 0o600)
    status = os.fstat(old)
    with suppress(PermissionError):
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, status.st_mode & 0o7777)
    return os.fdopen(new, "wb", buffering=1 << 20)


def sync_folder(path: Path) -> None:
    """Wait until a rename in a folder is on disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
