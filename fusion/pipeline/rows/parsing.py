"""Parsing: the rows of CSV and JSONL out of lines, one at a time, with errors that name the line."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import Any, BinaryIO, Final, Literal, NamedTuple

from fusion.core.schema.strict_json import DECODER

Row = dict[str, Any]
RowFormat = Literal["jsonl", "csv"]

MAX_BYTES: Final = 200_000_000
MAX_ROW: Final = 100_000_000
"""The longest row in bytes: more than any model reads."""
_BOM: Final = "\ufeff".encode()
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS: Final = ",;\t"
_SEPARATOR: Final = re.compile(r'"?sep=([^"\r\n\w=])"?[ ,;\t]*\r?\n?', re.IGNORECASE)


class BadRowError(Exception):
    """A row that cannot be read; `place` is its line, behind the name of its file within an archive."""

    def __init__(self, message: str, line: int | None = None, within: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.place = within + ("" if line is None else f":{line}")


def lines_of(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, each with its line feed. Raises BadRowError for a line that is no text."""
    for number in count(1):
        raw = file.readline(MAX_ROW + 1)
        if not raw:
            return
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if len(raw) > MAX_ROW:
            raise BadRowError(f"a line of more than {MAX_ROW:,} bytes; give one row on each line", number)
        yield _decoded(raw, number)


def jsonl_rows(lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) for each line but blank ones. Raises BadRowError."""
    for number, line in enumerate(lines, start=1):
        if line.isspace() or not line:
            continue
        try:
            row = parsed(line.removesuffix("\n"), number)
        except BadRowError as error:
            if _is_torn(line):
                raise BadRowError(f"{error}; the last line is cut off", error.line) from error
            raise
        if not isinstance(row, dict):
            raise BadRowError(f"{type(row).__name__}, not an object; a row is {{…}}", number)
        yield number, row


def parsed(text: str, line: int = 1) -> Any:
    """Return JSON data. Raises BadRowError for what is not JSON, or no text."""
    try:
        data = DECODER.decode(text)
        if not text.isascii() or "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRowError("half of a surrogate pair, which is not text", line) from error
    except json.JSONDecodeError as error:
        raise BadRowError(f"not JSON: {error.msg}, column {error.colno}", line + error.lineno - 1) from error
    except RecursionError as error:
        raise BadRowError("nested too deep", line) from error
    except ValueError as error:
        raise BadRowError(str(error), line) from error
    return data


def csv_rows(lines: Iterable[str], *, delimiter: str | None = None) -> Iterator[tuple[int, Row]]:
    """Yield (number of its first line, row) for each row below the names of the columns. Raises BadRowError.

    A first line such as `sep=;` names the delimiter; else it is the one given, or the most frequent of comma,
    semicolon and tab in the first line.
    """
    names: list[str] = []
    for row in csv_cells(lines, delimiter=delimiter):
        if names:
            _check_width(row, names)
            yield row.first, dict(zip(names, row.cells, strict=True))
        else:
            names = _names(row.cells, row.last)


def csv_header(lines: Iterable[str], *, delimiter: str | None = None) -> list[str] | None:
    """Return the names of the columns; None if all lines are blank. Raises BadRowError."""
    for row in csv_cells(lines, delimiter=delimiter):
        return _names(row.cells, row.last)
    return None


class CsvRow(NamedTuple):
    """Cells of a row with the numbers of its first and last line; `torn` if that has no end."""

    first: int
    last: int
    cells: list[str]
    torn: bool


def csv_cells(lines: Iterable[str], *, delimiter: str | None = None) -> Iterator[CsvRow]:
    """Yield each row of CSV that is not blank. Raises BadRowError."""
    allow_long_cells()
    delimiter, above, rest = _delimited(iter(lines), delimiter)
    bounded = _BoundedRow(rest)
    reader = csv.reader(bounded, delimiter=delimiter, strict=True)
    try:
        before = above
        for cells in reader:
            last = above + reader.line_num
            if any(cell.strip() for cell in cells):
                yield CsvRow(before + 1, last, cells, not bounded.line.endswith("\n"))
            before, bounded.size = last, 0
    except csv.Error as error:
        if "unexpected end" in str(error):
            why = f"{error}; a quote is not closed, or the last line is cut off"
            raise BadRowError(f"not CSV: {why}", before + 1) from error
        raise BadRowError(f"not CSV: {error}", above + reader.line_num) from error
    except _LongRowError as error:
        hint = "is a quote not closed?" if reader.line_num > before - above + 1 else "give one row on each line"
        raise BadRowError(f"a row of more than {MAX_ROW:,} bytes; {hint}", before + 1) from error


def allow_long_cells() -> None:
    """Raise the limit of the module csv, which is one of the process: it is only ever raised, so no reader races."""
    if csv.field_size_limit() < MAX_BYTES:
        csv.field_size_limit(MAX_BYTES)


class _LongRowError(Exception):
    """A row that is longer than rows may be."""


class _BoundedRow:
    """Lines of CSV, as long as those of one row are no longer than a row may be."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.line = ""
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.line = line = next(self._lines)
        self.size += len(line)
        if self.size > MAX_ROW:
            raise _LongRowError
        return line


def _delimited(lines: Iterator[str], given: str | None) -> tuple[str, int, Iterator[str]]:
    """Return the delimiter, the number of lines above the columns, and the lines from there on.

    Excel begins a file with a line such as `sep=;`.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        named = _SEPARATOR.fullmatch(line)
        if named:
            return named[1], number, lines
        return given or max(_DELIMITERS, key=line.count), number - 1, chain([line], lines)
    return given or ",", 0, iter(())


def _names(cells: list[str], line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    for column, name in enumerate(names, start=1):
        if not name:
            raise BadRowError(f"column {column} has no name; the first line names the columns", line)
        if names.index(name) != column - 1:
            raise BadRowError(f"two columns are named {name!r}", line)
    return names


def _check_width(row: CsvRow, names: list[str]) -> None:
    found = len(row.cells)
    if found != len(names):
        missing = "the last line is cut off" if row.torn else "fill the row"
        hint = "put values that hold the delimiter between quotes" if found > len(names) else missing
        raise BadRowError(f"{found} values for {len(names)} columns; {hint}", row.last)


def _decoded(raw: bytes, number: int) -> str:
    if number == 1 and raw.startswith(_UTF16):
        raise BadRowError("UTF-16 text; save it as UTF-8", number)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        if error.end == len(raw) and "unexpected end" in error.reason:
            raise BadRowError("the last line is cut off within a character", number) from error
        raise BadRowError(f"not UTF-8 text (byte {error.start + 1} of the line); save it as UTF-8", number) from error
    if "\0" in text:
        raise BadRowError("a NUL character, which no text has: is it a binary file?", number)
    return text


def _is_torn(line: str) -> bool:
    """Return True for a line without an end that began as an object: only the last line of a file has no end."""
    return not line.endswith("\n") and line.lstrip().startswith("{")
