"""Checkpoint: a file of answers, one line each, so that a benchmark asks for none twice."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fusion.bench.arms.base import ArmResponse, digest_of
from fusion.bench.report.results import AnswerKey
from fusion.core.errors import UsageError

ANSWERS: Final = "answers.jsonl"
CALLS: Final = "calls.db"
CANDIDATES: Final = "candidates"
_FILES: Final = (ANSWERS, CALLS, f"{CALLS}-wal", f"{CALLS}-shm", f"{CALLS}.locks", CANDIDATES)
"""Files that may be in a folder before the first answer."""

_SYNC_SECONDS: Final = 0.5


class Line(AnswerKey):
    """One response. `key` is the digest of everything that determines it.

    With `given_up` it holds only a cost: of a response that never came, or of a second one under the same key.
    """

    key: str
    given_up: bool = False
    answered: ArmResponse


class Checkpoint:
    """The file of answers. Each line is written at once and synced to disk within half a second.

    A kill loses only the answers in flight: a torn last line is cut off. A lock keeps other processes out. Of two
    answers under one key the first counts, and the second adds its cost.
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
        self.answers: dict[str, ArmResponse] = {}
        for line in lines:
            if not line.given_up:
                self.answers.setdefault(line.key, line.answered)
        self.given_up = tuple(line for line in lines if line.given_up)

    def add(self, line: Line) -> None:
        """Append a line. Raises UsageError if the write fails."""
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
        """Wait until every line is on disk."""
        if self._dirty:
            os.fsync(self._file)
        self._dirty, self._synced = False, time.monotonic()

    def mark(self, key: str) -> str:
        """Return an id of the answer of this key that no other file has."""
        return digest_of(self._place, key)[:32]

    @property
    def is_empty(self) -> bool:
        """True if no start has written an answer yet."""
        return os.fstat(self._file).st_size == 0

    def close(self) -> None:
        """Sync the file and release its lock."""
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
                    f"{self._path}:{number}: this line is not an answer of a benchmark; give another folder with -o, "
                    "or remove the file"
                ) from error


def _locked(path: Path) -> int:
    """Open or create the file and lock it. Repeats if its last owner has removed it meanwhile."""
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
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Open the answers of a folder, which is created if missing.

    An error before the first answer removes everything that this call and its block created.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    new = [name for name in _FILES if not (folder / name).exists()]
    checkpoint = Checkpoint(folder / ANSWERS)
    try:
        yield checkpoint
    except BaseException:
        if checkpoint.is_empty:
            _remove([folder / name for name in new], made)
        raise
    finally:
        checkpoint.close()


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
