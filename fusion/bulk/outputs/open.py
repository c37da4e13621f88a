"""Open the output of a map by the end of its name."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from fusion.bulk.outputs.base import OutputRow, Present, Replacing, RowOutput
from fusion.bulk.outputs.files import LineOutput
from fusion.bulk.outputs.lines import JsonLines, LineFormat
from fusion.core.errors import UsageError
from fusion.core.paths import foreign, user_path

_ENDINGS: Final = (".jsonl", ".ndjson")


def open_output(
    path: str | Path | None, fields: Sequence[str] | None = None, *, stdout: BinaryIO | None = None
) -> RowOutput:
    """Open the output of a map: a file, or without a path JSONL on standard output.

    `fields` are the fields of an answer, which become columns; None for an answer of unknown form. Raises UsageError
    for a file of another kind or with other columns, and for one that cannot be written.
    """
    if path is None:
        return StreamOutput(stdout, JsonLines(), name="standard output")
    file = user_path(str(path))
    form = _form_of(file)
    if not file.parent.is_dir():
        raise UsageError(f"no folder {str(file.parent)!r} for {str(file)!r}; make it first")
    why = foreign(file)
    if why is not None:
        raise UsageError(f"cannot write to {str(file)!r}: {why}")
    return LineOutput(file, form)


class StreamOutput(RowOutput):
    """Lines on a stream, which holds nothing yet."""

    def __init__(self, stream: BinaryIO | None, form: LineFormat, *, name: str) -> None:
        self.name = name
        self._stream = stream
        self._form = form
        self._head = form.head

    def present(self) -> Iterator[Present]:
        return iter(())

    def append(self, rows: Sequence[OutputRow]) -> None:
        if self._stream is None:
            return
        raw, self._head = self._head + b"".join([self._form.line(row) for row in rows]), b""
        try:
            self._stream.write(raw)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"cannot write to {self.name}: {error.strerror}; `-o FILE` writes to a file") from error

    def replace(self, rows: Replacing) -> None:
        return

    def close(self) -> None:
        return


def _form_of(path: Path) -> LineFormat:
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{str(path)!r}: an output ends in {', '.join(_ENDINGS)}")
    return JsonLines()
