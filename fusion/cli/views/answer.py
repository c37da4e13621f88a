"""Answer of a run: streamed to a terminal, or written to a file."""

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fusion.cli.terminal import complain, ended, write
from fusion.cli.views.live.follow import Viewer
from fusion.core.errors import UsageError
from fusion.core.events import Delta, EventBase, Restarted
from fusion.core.paths import foreign, user_path


class StreamedAnswer(Viewer):
    """Streams the answer to the terminal; `before` is called ahead of the first piece."""

    def __init__(self, stage: str, before: Callable[[], None]) -> None:
        self._stage = stage
        self._before = before
        self._step: str | None = None
        self._text = ""

    def show(self, event: EventBase) -> None:
        if event.stage != self._stage:
            return
        if isinstance(event, Restarted):
            self._restart()
        elif isinstance(event, Delta) and event.text:
            self._piece(event)

    def finish(self, text: str | None) -> None:
        """Write the rest of the answer; None means that the run has no answer."""
        self._before()
        if text is None:
            self._end_line()
        elif text.startswith(self._text):
            write(ended(text)[len(self._text) :])
        else:
            self._restart()
            write(ended(text))

    def _piece(self, event: Delta) -> None:
        self._before()
        if self._step not in (None, event.step):
            self._restart()
        self._step = event.step
        self._text += event.text
        write(event.text)

    def _restart(self) -> None:
        if not self._text:
            return
        self._end_line()
        complain("fusion: discard the text above; the answer starts again:")
        self._text, self._step = "", None

    def _end_line(self) -> None:
        if self._text and not self._text.endswith("\n"):
            write("\n")


class AnswerFile:
    """A file for the answer, replaced atomically. Raises UsageError at once if it cannot be written.

    `option` is the option that named it, for messages.
    """

    def __init__(self, given: str, *, option: str = "-o") -> None:
        self._given = given
        self._option = option
        self.path = user_path(given)
        self._check()

    def write(self, pieces: Iterable[str]) -> None:
        """Replace the file with the pieces. Raises UsageError on failure."""
        try:
            self._check_owner()
            if self.path.exists() and not self.path.is_file():
                with self.path.open("w", encoding="utf-8", errors="replace") as file:
                    file.writelines(pieces)
            else:
                self._replace(self.path.resolve(), pieces)
        except OSError as error:
            raise UsageError(f"cannot write to {self._given!r}: {error.strerror}") from error

    def _check(self) -> None:
        try:
            self._check_place()
        except OSError as error:  # an invalid file name
            raise UsageError(f"{self._option} {self._given!r}: {error.strerror}; choose another file") from error

    def _check_owner(self) -> None:
        reason = foreign(self.path)
        if reason is not None:
            raise UsageError(f"{self._option} {self._given!r} is not written: {reason}")

    def _check_place(self) -> None:
        self._check_owner()
        folder = self.path.resolve().parent
        if self.path.is_dir() or self._given.endswith("/"):
            raise UsageError(f"{self._option} {self._given!r} is a folder; give the name of a file")
        if not folder.is_dir():
            raise UsageError(f"{self._option} {self._given!r}: there is no folder {str(folder)!r}; make it first")
        if not os.access(self.path if self.path.exists() else folder, os.W_OK):
            raise UsageError(f"{self._option} {self._given!r} cannot be written; choose another file")

    def _replace(self, path: Path, pieces: Iterable[str]) -> None:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "w", encoding="utf-8", errors="replace", newline="") as file:
                file.writelines(pieces)
            Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
