"""Lines of CSV and TSV: a row of a map as cells, and back."""

import csv
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

from fusion.bulk.outputs.base import OutputRow, Present
from fusion.bulk.outputs.flat import KEY, RUN, STATUS, USD, FlatRows
from fusion.bulk.outputs.lines import ANOTHER, Line, LineFormat
from fusion.core.errors import UsageError
from fusion.pipeline.rows import cell, csv_line
from fusion.pipeline.rows.parsing import allow_long_cells

_STEP = 1 << 20
_BOM = "\ufeff"


class CsvLines(LineFormat):
    """CSV, or TSV by its delimiter, with the names of the columns on the first line."""

    def __init__(self, rows: FlatRows, *, delimiter: str = ",") -> None:
        self._rows = rows
        self._delimiter = delimiter
        self.head = self._encoded(rows.columns)

    def line(self, row: OutputRow) -> bytes:
        key, *values = self._rows.values(row)
        return self._encoded([_key_cell(key), *map(_plain, values)])

    def lines(self, file: BinaryIO, name: str) -> Iterator[Line]:
        read: list[bytes] = []
        at = [self._rows.columns.index(column) for column in (KEY, RUN, STATUS, USD)]
        named = False
        for number, cells in self._cells(file, name, read):
            raw = b"".join(read)
            read.clear()
            if not named:
                self._check_columns(cells, name)
            elif cells and len(cells) != len(self._rows.columns):
                raise UsageError(
                    f"{name} line {number}: {len(cells)} values for {len(self._rows.columns)} columns; {ANOTHER}"
                )
            row = [cells[column] for column in at] if cells and named else None
            yield Line(raw, None if row is None else Present(_key_of(row[0]), *row[1:]))
            named = True

    def whole(self, file: BinaryIO) -> int:
        """Return the number of bytes up to the last line feed with an even number of quotes before it."""
        end = size = 0
        quoted = False
        while chunk := file.read(_STEP):
            parts = chunk.split(b'"')
            at = len(chunk) + 1
            for number in range(len(parts) - 1, -1, -1):
                at -= len(parts[number]) + 1
                if quoted == (number % 2 == 1) and (found := parts[number].rfind(b"\n")) >= 0:
                    end = size + at + found + 1
                    break
            quoted ^= len(parts) % 2 == 0
            size += len(chunk)
        return end

    def may_begin_with(self, torn: bytes, *, first: bool) -> bool:
        return not first or self.head.startswith(torn)

    def _cells(self, file: BinaryIO, name: str, read: list[bytes]) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, cells) of each row; `read` takes the bytes that were read for it."""

        def texts() -> Iterator[str]:
            for raw in file:
                read.append(raw)
                yield raw.decode()

        allow_long_cells()
        reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{name} line {reader.line_num}: not CSV: {error}; {ANOTHER}") from error

    def _check_columns(self, cells: Sequence[str], name: str) -> None:
        found = [cells[0].removeprefix(_BOM), *cells[1:]] if cells else []
        written = [cell(column) for column in self._rows.columns]
        if found != written:
            raise UsageError(
                f"{name!r} has the columns {_listed(found)}; this map writes {_listed(written)}. "
                f"{ANOTHER[0].upper()}{ANOTHER[1:]}"
            )

    def _encoded(self, values: Sequence[Any]) -> bytes:
        return csv_line(values, delimiter=self._delimiter).encode()


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns)
    return shown if len(shown) <= 300 else f"{shown[:299]}…"


def _plain(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value


def _key_cell(key: str) -> str:
    """Return a key as text that no guard changes, and that `_key_of` turns back into it."""
    return f"'{key}" if key.startswith("'") else cell(key)


def _key_of(text: str) -> str:
    return text.removeprefix("'")
