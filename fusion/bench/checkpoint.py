"""Kept: the answers of a benchmark in a file, a line each as they come, so that none is asked for twice."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fusion.bench.arms.base import Answered, digest_of
from fusion.core.errors import UsageError
from fusion.core.types import Value

ANSWERS: Final = "answers.jsonl"
CALLS: Final = "calls.db"
CANDIDATES: Final = "candidates"
_OURS: Final = (ANSWERS, CALLS, f"{CALLS}-wal", f"{CALLS}-shm", f"{CALLS}.locks", CANDIDATES)
"""What stands in a folder before the first answer."""

_SYNC_SECONDS: Final = 0.5


class Line(Value):
    """One answer, or with `given_up` what was spent on one that never came, or came second.

    `key` is of all that makes it.
    """

    key: str
    arm: str
    item: str
    epoch: int
    given_up: bool = False
    answered: Answered


class Kept:
    """The file of answers. Each line is handed to the system at once, and is on the disk half a second later.

    A kill costs the answers that were under way. A last line that was torn is cut off; whoever else writes to the
    file keeps this one out. With two answers under one key the first counts, and of the other what it drew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = str(path.resolve())
        self._file = _locked(path)
        self._synced = time.monotonic()
        self._dirty = False
        try:
            lines = list(self._read())
        except UsageError:
            os.close(self._file)
            raise
        self.answers: dict[str, Answered] = {}
        for line in lines:
            if not line.given_up:
                self.answers.setdefault(line.key, line.answered)
        self.given_up = tuple(line for line in lines if line.given_up)

    def add(self, line: Line) -> None:
        """Keep an answer. Raises UsageError where the disk does not take it."""
        if not line.given_up and self.answers.setdefault(line.key, line.answered) is not line.answered:
            if not line.answered.amount.calls:
                return
            line = line.model_copy(update={"given_up": True})
        raw = line.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            while raw:
                raw = raw[os.write(self._file, raw) :]
            self._dirty = True
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise UsageError(f"cannot write to {str(self._path)!r}: {error.strerror}") from error

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        if self._dirty:
            os.fsync(self._file)
        self._dirty, self._synced = False, time.monotonic()

    def mark(self, key: str) -> str:
        """What tells the answer of this key from those in other files."""
        return digest_of(self._place, key)[:32]

    @property
    def is_empty(self) -> bool:
        """True before the first answer, of this start and of every one before."""
        return os.fstat(self._file).st_size == 0

    def close(self) -> None:
        """Let others have the file."""
        self.sync()
        os.close(self._file)

    def _read(self) -> Iterator[Line]:
        raw = self._path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            os.ftruncate(self._file, whole)
        for number, text in enumerate(raw[:whole].split(b"\n")[:-1], start=1):
            try:
                yield Line.model_validate_json(text)
            except ValidationError as error:
                raise UsageError(
                    f"{self._path}:{number}: this line is no answer of a benchmark; give another folder with -o, or "
                    "remove the file"
                ) from error


def _locked(path: Path) -> int:
    """The file, made where it is not there, and nobody else's. Whoever had it may have removed it meanwhile."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot write the answers to {str(path)!r}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise UsageError(
                f"another benchmark is writing to {str(path)!r}; wait for it, or give another folder with -o"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


@contextmanager
def kept_in(folder: Path) -> Iterator[Kept]:
    """The answers of a folder, which is made where it is not there.

    Where an error ends the block before there is any answer, what was made for it is removed again.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    new = [name for name in _OURS if not (folder / name).exists()]
    kept = Kept(folder / ANSWERS)
    try:
        yield kept
    except BaseException:
        if kept.is_empty:
            _remove([folder / name for name in new], made)
        raise
    finally:
        kept.close()


def _remove(files: Sequence[Path], folders: Sequence[Path]) -> None:
    for path in files:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for folder in folders:
        if any(folder.iterdir()):
            return
        folder.rmdir()
