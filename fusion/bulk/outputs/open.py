"""Open the output of a map by the end of its name."""

import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from fusion.bulk.outputs.base import OutputRow, Present, Replacing, RowOutput
from fusion.bulk.outputs.cells import CsvLines
from fusion.bulk.outputs.files import LineOutput
from fusion.bulk.outputs.flat import FlatRows
from fusion.bulk.outputs.lines import JsonLines, LineFormat
from fusion.bulk.outputs.parquet import ParquetOutput
from fusion.core.errors import UsageError
from fusion.core.paths import foreign, user_path

_PARQUET: Final = ".parquet"
_FORMS: Final[dict[str, Callable[[FlatRows], LineFormat]]] = {
    ".jsonl": lambda rows: JsonLines(),
    ".ndjson": lambda rows: JsonLines(),
    ".csv": CsvLines,
    ".tsv": lambda rows: CsvLines(rows, delimiter="\t"),
}


def open_output(
    path: str | Path | None,
    fields: Sequence[str] | None = None,
    *,
    stdout: BinaryIO | None = None,
    read: Callable[[Path], bool] | None = None,
) -> RowOutput:
    """Open the output of a map: a file, or without a path JSONL on standard output.

    `fields` are those of an answer, which become columns of CSV and Parquet; None for an answer of unknown form.
    `read` tells if INPUTS hold a file. Raises UsageError for a file that is one of INPUTS, has another form or other
    columns, or cannot be written. A torn last line is cut off.
    """
    if path is None:
        return StreamOutput(stdout, JsonLines(), name="standard output")
    file = user_path(str(path))
    if file.suffix.lower() not in (*_FORMS, _PARQUET) and not _is_stream(file):
        raise UsageError(f"{str(file)!r}: the name of an output ends in {', '.join(_FORMS)} or {_PARQUET}")
    _check_place(file, read)
    if file.suffix.lower() == _PARQUET:
        return ParquetOutput(file, FlatRows(fields))
    form = _FORMS.get(file.suffix.lower(), _FORMS[".jsonl"])(FlatRows(fields))
    if _is_stream(file):
        return StreamOutput(_opened(file), form, name=str(file), close=True)
    return LineOutput(file, form)


class StreamOutput(RowOutput):
    """Lines on a stream, which holds none yet and takes none back."""

    def __init__(self, stream: BinaryIO | None, form: LineFormat, *, name: str, close: bool = False) -> None:
        self.name = name
        self._stream = stream
        self._form = form
        self._head = form.head
        self._close = close

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
            raise UsageError(
                f"cannot write to {self.name}: {error.strerror}; with `-o FILE` a later start goes on"
            ) from error

    def replace(self, rows: Replacing) -> None:
        return

    def close(self) -> None:
        if self._close and self._stream is not None:
            self._stream.close()


def _check_place(file: Path, read: Callable[[Path], bool] | None) -> None:
    """Raise UsageError for a file that a map may not write."""
    if not file.parent.is_dir():
        raise UsageError(f"no folder {str(file.parent)!r} for {str(file)!r}; make it first")
    if file.is_dir():
        raise UsageError(f"{str(file)!r} is a folder; name a file in it, such as {str(file / 'out.jsonl')!r}")
    if read is not None and read(file):
        raise UsageError(f"{str(file)!r} is one of INPUTS, or would be at the next start; name another file with -o")
    why = foreign(file)
    if why is not None:
        raise UsageError(f"cannot write to {str(file)!r}: {why}")


def _is_stream(path: Path) -> bool:
    """Return True for a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:
        raise UsageError(f"cannot write to {str(path)!r}: {error.strerror}") from error
