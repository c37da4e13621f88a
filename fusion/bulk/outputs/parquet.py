"""Parquet: rows are kept as lines beside the file, and become Parquet at the end."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fusion.bulk.outputs.base import OutputRow, Present, Replacing, RowOutput
from fusion.bulk.outputs.files import LineOutput, beside_of, sync_folder
from fusion.bulk.outputs.flat import KEY, RUN, STATUS, USD, FlatRows
from fusion.bulk.outputs.lines import ANOTHER, JsonLines
from fusion.core.errors import UsageError
from fusion.core.types import as_text
from fusion.pipeline.rows import json_line
from fusion.pipeline.rows.arrow import parquet

if TYPE_CHECKING:
    import pyarrow

_GROUP_ROWS: Final = 10_000
_GROUP_BYTES: Final = 32_000_000
_BATCH: Final = 1_000
_INTEGERS: Final = range(-(2**63), 2**63)


class ParquetOutput(RowOutput):
    """A Parquet file, written anew when it is closed.

    Until then its rows are lines of `NAME.parquet.rows`, which a later start goes on with: a kill loses none.
    """

    def __init__(self, path: Path, rows: FlatRows) -> None:
        parquet()
        self.name = str(path)
        self._path = Path(os.path.realpath(path))
        self._columns = rows.columns
        self._beside = self._path.with_name(f"{self._path.name}.rows")
        self._new = self._path.with_name(f".{self._path.name}.new")
        self._unpacked = self._path.with_name(f".{self._beside.name}.new")
        self._lines = LineOutput(self._beside, FlatLines(rows))
        for new in (self._new, self._unpacked):
            new.unlink(missing_ok=True)  # of a start that was killed
        if self._path.exists():
            self._check_columns()

    def present(self) -> Iterator[Present]:
        if self._beside.exists():
            yield from self._lines.present()
        elif self._path.exists():
            for row in self._read([KEY, RUN, STATUS, USD]):
                yield Present(row[KEY], row[RUN], row[STATUS], "" if row[USD] is None else str(row[USD]))

    def append(self, rows: Sequence[OutputRow]) -> None:
        if not rows and self._path.exists():
            return
        self._unpack()
        self._lines.append(rows)

    def replace(self, rows: Replacing) -> None:
        self._unpack()
        self._lines.replace(rows)

    def close(self) -> None:
        if self._beside.exists():
            try:
                self._write(self._new)
                self._new.replace(self._path)
                sync_folder(self._path.parent)
                self._beside.unlink()
            except OSError as error:
                self._new.unlink(missing_ok=True)
                raise UsageError(
                    f"cannot write {self.name!r}: {error.strerror or error}; its rows are kept in "
                    f"{str(self._beside)!r}: make room, and give the same command again"
                ) from error
            finally:
                self._lines.close()
        self._lines.close()

    def _unpack(self) -> None:
        """Write the rows of the file as lines, before any is added or replaced."""
        if self._beside.exists() or not self._path.exists():
            return
        try:
            with self._path.open("rb") as old, beside_of(old.fileno(), self._unpacked) as file:
                for row in self._read(list(self._columns)):
                    file.write(json_line(row).encode())
                file.flush()
                os.fsync(file.fileno())
            self._unpacked.replace(self._beside)
        except OSError as error:
            self._unpacked.unlink(missing_ok=True)
            raise UsageError(
                f"cannot write {str(self._beside)!r}: {error.strerror or error}; {self.name!r} is as before"
            ) from error

    def _read(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _opened(self._path, self.name) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
                yield from batch.to_pylist()

    def _check_columns(self) -> None:
        with _opened(self._path, self.name) as file:
            found = tuple(file.schema_arrow.names)
        if found != self._columns:
            raise UsageError(
                f"{self.name!r} has the columns {', '.join(found)}; this map writes {', '.join(self._columns)}. "
                f"{ANOTHER[0].upper()}{ANOTHER[1:]}"
            )

    def _write(self, path: Path) -> None:
        schema = _schema(self._kept(), self._columns)
        with self._created(path) as file:
            with parquet().ParquetWriter(file, schema, compression="zstd") as writer:
                for group in _groups(self._kept()):
                    writer.write_table(_table(group, schema))
            file.flush()
            os.fsync(file.fileno())

    def _created(self, path: Path) -> BinaryIO:
        """Create a file with the mode of the one that it replaces, or else of the lines."""
        with (self._path if self._path.exists() else self._beside).open("rb") as old:
            return beside_of(old.fileno(), path)

    def _kept(self) -> Iterator[dict[str, Any]]:
        with self._beside.open("rb") as file:
            for raw in file:
                yield json.loads(raw)


class FlatLines(JsonLines):
    """The values of a row by column as JSON, on one line each."""

    def __init__(self, rows: FlatRows) -> None:
        self._rows = rows

    def line(self, row: OutputRow) -> bytes:
        values = self._rows.values(row)
        at = self._rows.columns.index(USD)
        values[at] = None if values[at] is None else float(values[at])
        return json_line(dict(zip(self._rows.columns, values, strict=True))).encode()


def _opened(path: Path, name: str) -> Any:
    try:
        return parquet().ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name!r} is no Parquet file: {error}; {ANOTHER}") from error


def _schema(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> "pyarrow.Schema":
    """Return the narrowest type for each column: truth values, integers, numbers, else text."""
    import pyarrow

    seen: dict[str, set[type]] = {column: set() for column in columns}
    for row in rows:
        for column, value in row.items():
            seen[column].add(_kind(value))
    types = {frozenset({bool}): pyarrow.bool_(), frozenset({int}): pyarrow.int64()}
    numbers = dict.fromkeys((frozenset({float}), frozenset({int, float})), pyarrow.float64())
    found = {column: {**types, **numbers}.get(frozenset(kinds - {type(None)})) for column, kinds in seen.items()}
    found[USD] = pyarrow.float64()
    return pyarrow.schema([(column, found[column] or pyarrow.string()) for column in columns])


def _kind(value: Any) -> type:
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INTEGERS:
        return str
    return type(value)


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of one row group after the other, each of a bounded size."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum([len(value) for value in row.values() if isinstance(value, str)])
        if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(rows: Sequence[Mapping[str, Any]], schema: "pyarrow.Schema") -> "pyarrow.Table":
    import pyarrow

    texts = {field.name for field in schema if field.type == pyarrow.string()}
    columns = {
        name: [row[name] if row[name] is None or name not in texts else as_text(row[name]) for row in rows]
        for name in schema.names
    }
    return pyarrow.table(columns, schema=schema)
