"""Tables: the rows of a CSV, TSV or JSONL file, line by line."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fusion.bulk.sources.base import RowSource, SourceFormat, SourceRow
from fusion.bulk.sources.streams import Reading
from fusion.core.errors import InputError
from fusion.pipeline.rows.parsing import Row, csv_header, csv_rows, jsonl_rows, lines_of

_FIRST_ROWS: Final = 100
_FIRST_BYTES: Final = 1_000_000


class TextTable(RowSource):
    """A file of CSV, TSV or JSONL."""

    def __init__(self, path: Path, form: SourceFormat) -> None:
        self.name = str(path)
        self.identity = identity_of(path)
        self._path = path
        self._form = form
        self._reading = Reading(path, self.name)
        self.columns = self._columns()
        self.columns_vary = form == "jsonl"

    def rows(self) -> Iterator[SourceRow]:
        self._reading = Reading(self._path, self.name)
        with self._reading.opened() as file:
            for number, row in parsed_rows(lines_of(file), self._form):
                yield SourceRow(row, f"{self.name} line {number}")

    def progress(self) -> tuple[float, float | None]:
        return self._reading.done, self._reading.total

    def holds(self, path: Path) -> bool:
        return same_file(path, self._path)

    def _columns(self) -> tuple[str, ...]:
        with Reading(self._path, self.name).opened() as file:
            columns = first_columns(lines_of(file), self._form)
        if columns is None:
            raise InputError(f"{self.name!r} is empty; {hint_of(self._form)}")
        return columns


def parsed_rows(lines: Iterable[str], form: SourceFormat) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) for each row of lines of this format."""
    if form == "jsonl":
        return jsonl_rows(lines)
    return csv_rows(lines, delimiter="\t" if form == "tsv" else None)


def first_columns(lines: Iterable[str], form: SourceFormat) -> tuple[str, ...] | None:
    """Return the columns of a table: its header, or for JSONL those of its first rows; None if it has no rows."""
    if form == "jsonl":
        return columns_of(row for _, row in islice(jsonl_rows(_first(lines)), _FIRST_ROWS))
    names = csv_header(lines, delimiter="\t" if form == "tsv" else None)
    return None if names is None else tuple(names)


def columns_of(rows: Iterable[Any]) -> tuple[str, ...] | None:
    """Return the keys of all these rows, in the order that they come; None without rows."""
    found: dict[str, None] | None = None
    for row in rows:
        found = (found or {}) | dict.fromkeys(row)
    return None if found is None else tuple(found)


def hint_of(form: SourceFormat) -> str:
    """Return the form of a table in words."""
    if form == "jsonl":
        return "give one JSON object on each line"
    return "give the names of the columns on the first line, and a row on each line below"


def identity_of(path: Path) -> str:
    """Return the absolute path, with links in its folder resolved, but not its own."""
    return str(path.parent.resolve() / path.name)


def same_file(one: Path, other: Path) -> bool:
    """Return True if two paths name the same file, also before it exists."""
    try:
        return one.samefile(other)
    except OSError:
        return identity_of(one) == identity_of(other)


def _first(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines of about a megabyte."""
    size = 0
    for line in lines:
        yield line
        size += len(line)
        if size > _FIRST_BYTES:
            return
