"""Parquet: the rows of a file, batch by batch, as JSON values."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fusion.bulk.sources.base import RowSource, SourceRow
from fusion.bulk.sources.tables import identity_of, same_file
from fusion.core.errors import InputError
from fusion.pipeline.rows.arrow import parquet

if TYPE_CHECKING:
    import pyarrow

_BATCH: Final = 256
"""Rows that are unpacked together."""


class ParquetTable(RowSource):
    """A Parquet file. Dates and times become ISO 8601 text, decimals numbers, and missing numbers null."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.identity = identity_of(path)
        self._path = path
        self._done = 0
        with _opened(path) as file:
            self.columns = tuple(file.schema_arrow.names)
            self._total = file.metadata.num_rows
        twice = next((name for name in self.columns if self.columns.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{self.name}: two columns are named {twice!r}")

    def rows(self) -> Iterator[SourceRow]:
        self._done = 0
        with _opened(self._path) as file:
            plain = _plain_schema(file.schema_arrow)
            for values in _rows(file, plain, self.name):
                self._done += 1
                yield SourceRow(values, f"{self.name} row {self._done}")

    def progress(self) -> tuple[float, float | None]:
        return float(self._done), float(self._total)

    def holds(self, path: Path) -> bool:
        return same_file(path, self._path)


def _opened(path: Path) -> Any:
    library = parquet()
    try:
        return library.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=1 << 16)
    except OSError as error:  # pyarrow's errors of a file's content are OSErrors or ValueErrors
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no Parquet file: {error}") from error


def _rows(file: Any, plain: "pyarrow.Schema", name: str) -> Iterator[Mapping[str, Any]]:
    try:
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.cast(plain, safe=False).to_pylist():
                yield {column: _json_value(value) for column, value in row.items()}
    except (OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{name}: cannot read its rows: {error}") from error


def _plain_schema(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """Return a schema whose times Python can hold: microseconds in the place of nanoseconds."""
    import pyarrow

    return pyarrow.schema([(one.name, _plain_type(one.type)) for one in schema])


def _plain_type(kind: Any) -> Any:
    import pyarrow

    types = pyarrow.types
    if types.is_timestamp(kind):
        return pyarrow.timestamp("us", kind.tz)
    if types.is_time64(kind):
        return pyarrow.time64("us")
    if types.is_duration(kind):
        return pyarrow.duration("us")
    if types.is_list(kind) or types.is_large_list(kind):
        return pyarrow.list_(_plain_type(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([(one.name, _plain_type(one.type)) for one in kind])
    return kind


def _json_value(value: Any) -> Any:
    """Return a value of Parquet as JSON data."""
    if value is None or isinstance(value, (str, int)):
        return value
    for kind, made in _MADE.items():
        if isinstance(value, kind):
            return made(value)
    return str(value)


def _number(value: Decimal) -> float | str | None:
    """Return a decimal as a number, or as text if a number cannot hold all its digits."""
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)


def _bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _list(value: list[Any]) -> Any:
    if value and all(isinstance(one, tuple) for one in value):  # a map
        return {str(key): _json_value(part) for key, part in value}
    return [_json_value(one) for one in value]


_MADE: Final[Mapping[type, Callable[[Any], Any]]] = {
    float: lambda value: value if math.isfinite(value) else None,
    list: _list,
    dict: lambda value: {name: _json_value(part) for name, part in value.items()},
    Decimal: _number,
    datetime: lambda value: value.isoformat(),
    date: lambda value: value.isoformat(),
    time: lambda value: value.isoformat(),
    timedelta: lambda value: value.total_seconds(),
    bytes: _bytes,
}
