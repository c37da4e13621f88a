"""Open INPUTS: a table, a folder, a pattern, several paths, standard input, or rows from Python."""

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from fusion.bulk.sources.base import RowSource, SourceFormat
from fusion.bulk.sources.documents import Documents, of_paths, of_pattern
from fusion.bulk.sources.live import PythonRows, StreamTable
from fusion.bulk.sources.parquet import ParquetTable
from fusion.bulk.sources.several import SeveralTables
from fusion.bulk.sources.streams import COMPRESSED
from fusion.bulk.sources.tables import TextTable
from fusion.bulk.sources.walk import is_pattern
from fusion.core.errors import InputError, close_names
from fusion.core.paths import user_path

STANDARD_INPUT: Final = "-"
_FORMATS: Final[Mapping[str, SourceFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_OTHERS: Final = {
    ".json": "write one object on each line, as `jq -c '.[]'` does, to a file that ends in .jsonl",
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "save the sheet as CSV"),
}

RowsGiven = str | Path | Sequence[Path] | Iterable[Mapping[str, Any] | str]
"""INPUTS: a path, several Paths, or rows."""


def open_source(
    given: RowsGiven,
    *,
    format: SourceFormat | None = None,  # noqa: A002 - the word of the option
    media: bool = False,
    stdin: BinaryIO | None = None,
) -> RowSource:
    """Open INPUTS. Raises InputError, before any row is read, for what is missing or no table.

    A text or a Path names a table, a folder, a pattern such as `docs/**/*.md`, or one document; `-` is standard
    input. A list of Paths holds files, as a shell expands a pattern. Any other iterable holds rows: mappings of
    columns to values, or texts.

    The format of a table is told by its name, or by `format`; with a format of tables, a pattern names tables and not
    documents. With `media` files are pictures and documents, else text.
    """
    if isinstance(given, (str, Path)):
        return _one(str(given), format, media=media, stdin=stdin)
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, Path) for one in given):
        if len(given) == 1:
            return _one(str(given[0]), format, media=media, stdin=stdin)
        return _several([user_path(str(one)) for one in given], format, media=media)
    return PythonRows(given)  # type: ignore[arg-type]  # Paths among rows are refused as they come


def format_of(path: Path) -> SourceFormat | None:
    """Return the format that the name of a table tells; None for any other name."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return _FORMATS.get(Path(name).suffix)


def _one(given: str, form: SourceFormat | None, *, media: bool, stdin: BinaryIO | None) -> RowSource:
    if given == STANDARD_INPUT:
        if stdin is None:
            raise InputError("standard input is closed; give INPUTS as a file")
        return StreamTable(stdin, name="standard input", form=_stream_format(form, "standard input"))
    path = user_path(given)
    mode = _mode(path)
    if mode is None or stat.S_ISDIR(mode):
        return _within(path, form, media=media)
    if not stat.S_ISREG(mode):
        return StreamTable(path.open("rb"), name=given, form=_stream_format(form, given), close=True)
    form = form or format_of(path)
    if form is None and path.suffix.lower() in _OTHERS:
        raise InputError(f"{given!r} is no table that can be read line by line; {_OTHERS[path.suffix.lower()]}")
    return of_paths([path], media=media) if form in (None, "files") else _table(path, form)


def _within(path: Path, form: SourceFormat | None, *, media: bool) -> RowSource:
    """Return the files of a folder or a pattern, or their rows."""
    documents = of_pattern(path, media=media)
    tables = documents.paths_if(lambda one: form not in (None, "files") or format_of(one) == "parquet")
    if tables is None or form == "files":
        return _noted(documents, form)
    return SeveralTables([_table(one, form or "parquet") for one in tables], documents.name, documents.identity)


def _noted(documents: Documents, form: SourceFormat | None) -> Documents:
    """Add a note to files that are all tables, for a user who means their rows."""
    tables = documents.paths_if(lambda one: format_of(one) is not None)
    if form is None and tables is not None:
        named = format_of(tables[0])
        documents.note = f"each table of {documents.name!r} is one row, as text; `--format {named}` reads their rows"
    return documents


def _several(paths: Sequence[Path], form: SourceFormat | None, *, media: bool) -> RowSource:
    for path in paths:
        mode = _mode(path)
        if mode is None or not stat.S_ISREG(mode):
            raise InputError(f"{str(path)!r} is no file; give one folder, one pattern in quotes, or several files")
    documents = of_paths(paths, media=media)
    if form == "files" or (form is None and {format_of(path) for path in paths} != {"parquet"}):
        return _noted(documents, form)
    return SeveralTables([_table(one, form or "parquet") for one in paths], documents.name, documents.identity)


def _table(path: Path, form: SourceFormat) -> RowSource:
    return ParquetTable(path) if form == "parquet" else TextTable(path, form)


def _stream_format(form: SourceFormat | None, name: str) -> SourceFormat | None:
    if form in ("parquet", "files"):
        raise InputError(f"{name} is a stream, which is read as JSONL, CSV or TSV; give a file")
    return form


def _mode(path: Path) -> int | None:
    """Return the mode of a file or folder; None for a pattern that is no file. Raises InputError."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as error:
        if is_pattern(str(path)):
            return None
        raise InputError(_missing(path, error)) from error


def _missing(path: Path, error: OSError | ValueError) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}"
    try:
        beside = [one.name for one in path.parent.iterdir()]
    except OSError:
        beside = []
    near = close_names(path.name, beside) if len(beside) < 1000 else ""
    return f"no file or folder {str(path)!r}{near if 'did you mean' in near else ''}"
