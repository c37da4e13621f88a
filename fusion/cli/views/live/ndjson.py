"""Events as NDJSON: one JSON object a line, the last one `run_finished`."""

from collections.abc import Callable
from typing import BinaryIO

from fusion.cli.terminal import write
from fusion.cli.views.live.follow import Viewer
from fusion.core.errors import UsageError
from fusion.core.events import EventBase
from fusion.core.paths import foreign, user_path


class Records(Viewer):
    """Writes every event to standard output; `gone` is called if its reader closes the pipe."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone
        self._open = True

    def show(self, event: EventBase) -> None:
        if not self._open:
            return
        try:
            write(f"{event.model_dump_json()}\n")
        except BrokenPipeError:
            self._open = False
            self._gone()


class RecordFile(Viewer):
    """Writes every event to a file at once; with `append`, behind those that are there."""

    def __init__(self, given: str, *, append: bool = False) -> None:
        self._given = given
        reason = foreign(user_path(given))
        if reason is not None:
            raise UsageError(f"--events-to {given!r} is not written: {reason}")
        try:
            self._file: BinaryIO = user_path(given).open("ab" if append else "wb", buffering=0)
        except OSError as error:
            raise UsageError(f"--events-to {given!r}: {error.strerror}") from error

    def show(self, event: EventBase) -> None:
        try:
            self._file.write(f"{event.model_dump_json()}\n".encode(errors="replace"))
        except OSError as error:
            self._file.close()
            raise UsageError(f"--events-to {self._given!r}: {error.strerror}; the events are incomplete") from error

    def close(self) -> None:
        self._file.close()
