"""Live sources: standard input, pipes, and rows that Python hands over."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, Final

from fusion.bulk.sources.base import RowSource, SourceFormat, SourceRow
from fusion.bulk.sources.tables import columns_of, first_columns, hint_of, parsed_rows
from fusion.core.errors import InputError
from fusion.pipeline.rows.parsing import BadRowError, lines_of

_FIRST_ROWS: Final = 100
_PARQUET: Final = "PAR1"


class StreamTable(RowSource):
    """CSV or JSONL from a stream, told apart by the first line that is not blank."""

    rewindable = False

    def __init__(self, file: BinaryIO, *, name: str, form: SourceFormat | None = None, close: bool = False) -> None:
        self.name = name
        self._file = file if close else None
        self._done = 0.0
        self._lines = self._counted(lines_of(file))
        try:
            above, first = self._beginning()
            self._form: SourceFormat = form or _form_of(first, name)
            self.columns = first_columns([*above, first], self._form)
            self.columns_vary = self._form == "jsonl"
        except BadRowError as error:
            raise InputError(f"{name} line {error.line}: {error}") from error
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from error
        self._rest: Iterator[str] = chain(above, [first], self._lines)

    def rows(self) -> Iterator[SourceRow]:
        try:
            for number, row in parsed_rows(self._rest, self._form):
                yield SourceRow(row, f"{self.name} line {number}")
        except BadRowError as error:
            raise InputError(f"{self.name} line {error.line}: {error}") from error
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {error.strerror or error}") from error
        finally:
            if self._file is not None:
                self._file.close()

    def progress(self) -> tuple[float, float | None]:
        return self._done, None

    def _beginning(self) -> tuple[list[str], str]:
        """Return the blank lines at the beginning, and the first line after them that names columns or is a row."""
        above: list[str] = []
        for line in self._lines:
            if line.strip() and not line.lower().startswith(("sep=", '"sep=')):
                return above, line
            above.append(line)
        raise InputError(f"{self.name} is empty; {hint_of('jsonl')}, or CSV")

    def _counted(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self._done += len(line)
            yield line


class PythonRows(RowSource):
    """Mappings or texts that Python hands over; a text is a row with the column `text`."""

    columns_vary = True

    def __init__(self, given: Iterable[Mapping[str, Any] | str], *, name: str = "the inputs") -> None:
        self.name = name
        self.rewindable = isinstance(given, Sequence)
        self._given = given
        self._total = float(len(given)) if isinstance(given, Sequence) else None
        self._done = 0.0
        if isinstance(given, Sequence):
            self.columns = columns_of(_values(row) for row in islice(given, _FIRST_ROWS))

    def rows(self) -> Iterator[SourceRow]:
        self._done = 0.0
        for number, row in enumerate(self._given, start=1):
            if not isinstance(row, (Mapping, str)):
                raise InputError(
                    f"row {number} of {self.name} is {type(row).__name__}; give a mapping of inputs, or a text"
                )
            self._done = float(number)
            yield SourceRow(_values(row), f"row {number} of {self.name}")

    def progress(self) -> tuple[float, float | None]:
        return self._done, self._total


def _values(row: Any) -> Mapping[str, Any]:
    if isinstance(row, str):
        return {"text": row}
    return row if isinstance(row, Mapping) else {}


def _form_of(first: str, name: str) -> SourceFormat:
    begin = first.lstrip()
    if begin.startswith("{"):
        return "jsonl"
    if begin.startswith("["):
        raise InputError(f"{name} begins with a JSON list; give one object on each line, as `jq -c '.[]'` writes it")
    if begin.startswith(_PARQUET):
        raise InputError(f"{name} is Parquet, which is not read from a stream; give its file")
    return "csv"
