"""Lines: a row of a map as JSONL, and back."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from fusion.bulk.outputs.base import OutputRow, Present
from fusion.bulk.outputs.flat import known_usd
from fusion.core.errors import UsageError
from fusion.pipeline.rows import json_line

ANOTHER: Final = "name another file with -o, or move this one away"
_BEGIN: Final = b'{"key": "'


class Line(NamedTuple):
    """The bytes of one line of a file, with its row; None for the line that names the columns."""

    raw: bytes
    row: Present | None


class LineFormat(ABC):
    """The form of an output that is written line by line."""

    head: bytes = b""
    """The line above all rows, if there is one."""

    @abstractmethod
    def line(self, row: OutputRow) -> bytes:
        """Return the line of a row, with the line feed that ends it."""

    @abstractmethod
    def lines(self, file: BinaryIO, name: str) -> Iterator[Line]:
        """Yield the lines of a file whose last one is whole. Raises UsageError for one that no map wrote."""

    def check(self, file: BinaryIO, name: str) -> None:
        """Raise UsageError if the first line is not one of this map."""
        next(self.lines(file, name), None)

    @abstractmethod
    def whole(self, file: BinaryIO) -> int:
        """Return the number of bytes up to the end of the last whole line."""

    @abstractmethod
    def may_begin_with(self, torn: bytes, *, first: bool) -> bool:
        """Return True for bytes that a line may begin with; the `first` line may be the head."""


class JsonLines(LineFormat):
    """One JSON object on each line, its keys in a fixed order."""

    def line(self, row: OutputRow) -> bytes:
        return json_line(json_row(row)).encode()

    def lines(self, file: BinaryIO, name: str) -> Iterator[Line]:
        for number, raw in enumerate(file, start=1):
            yield Line(raw, _present(raw, f"{name} line {number}"))

    def whole(self, file: BinaryIO) -> int:
        return end_of_last_line(file)

    def may_begin_with(self, torn: bytes, *, first: bool) -> bool:
        return torn.startswith(_BEGIN[: len(torn)])


def json_row(row: OutputRow) -> dict[str, Any]:
    """Return a row as JSON data."""
    answer = row.text if row.data is None else row.data
    usd = known_usd(row)
    return {
        "key": row.key,
        "status": row.status,
        "answer": None if row.status == "failed" else answer,
        "usd": None if usd is None else float(usd),
        "unknown_calls": row.unknown_calls,
        "run": row.run_id,
        "failure": None if row.failure is None else row.failure.model_dump(),
    }


def end_of_last_line(file: BinaryIO, *, step: int = 65_536) -> int:
    """Return the number of bytes up to and with the last line feed."""
    end = file.seek(0, 2)
    while end > 0:
        begin = max(end - step, 0)
        file.seek(begin)
        at = file.read(end - begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0


def _present(raw: bytes, where: str) -> Present:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}; {ANOTHER}") from error
    match row:
        case {"key": str(key), "status": str(status), "run": str(run)}:
            usd = row.get("usd")
            return Present(key, run, status, "" if usd is None else str(usd))
    raise UsageError(f"{where} is no row of a map: it lacks `key`, `status` or `run`; {ANOTHER}")
