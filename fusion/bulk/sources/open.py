"""Open INPUTS: a table, a folder, a pattern, several paths, standard input, or rows from Python."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from fusion.bulk.sources.base import RowSource, SourceFormat
from fusion.bulk.sources.live import PythonRows, StreamTable
from fusion.bulk.sources.streams import COMPRESSED
from fusion.bulk.sources.tables import TextTable
from fusion.core.errors import InputError, UsageError, close_names
from fusion.core.paths import user_path

_FORMATS: Final[Mapping[str, SourceFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
STANDARD_INPUT: Final = "-"


def open_source(
    given: str | Path | Iterable[Mapping[str, Any] | str],
    *,
    format: SourceFormat | None = None,  # noqa: A002 - the word of the option
    stdin: BinaryIO | None = None,
) -> RowSource:
    """Open INPUTS. Raises InputError, before any row is read, for what is missing or no table.

    A text or a Path names a file, and `-` is standard input. An iterable holds rows: mappings of columns to values,
    or texts. `format` is that of a table whose name does not tell it.
    """
    if not isinstance(given, (str, Path)):
        return PythonRows(given)
    if str(given) == STANDARD_INPUT:
        if stdin is None:
            raise InputError("standard input is closed; give INPUTS as a file")
        return StreamTable(stdin, name="standard input", form=format)
    return _file(user_path(str(given)), format)


def _file(path: Path, form: SourceFormat | None) -> RowSource:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(_missing(path, error)) from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{str(path)!r} is no file")
    return TextTable(path, form or format_of(path))


def format_of(path: Path) -> SourceFormat:
    """Return the format that the name of a table tells. Raises UsageError."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    form = _FORMATS.get(Path(name).suffix)
    if form is None:
        raise UsageError(f"{str(path)!r} is no table by its name; INPUTS end in {', '.join(_FORMATS)}")
    return form


def _missing(path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"cannot read {str(path)!r}: {error.strerror}"
    try:
        beside = [one.name for one in path.parent.iterdir()]
    except OSError:
        beside = []
    near = close_names(path.name, beside) if len(beside) < 1000 else ""
    return f"no file or folder {str(path)!r}{near if 'did you mean' in near else ''}"
