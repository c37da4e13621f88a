"""Reading: the rows of a CSV, JSONL or JSON text or file, with errors that name the line."""

import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from fusion.core.errors import InputError, UsageError
from fusion.core.schema.strict_json import DECODER

Row = dict[str, Any]
RowFormat = Literal["jsonl", "csv"]

MAX_BYTES: Final = 200_000_000
MAX_ROWS: Final = 100_000
_DELIMITERS: Final = ",;\t"
_SEPARATOR: Final = re.compile(r'"?sep=([^"\r\n\w=])"?[ ,;\t]*\r?\n?', re.IGNORECASE)


def rows_of(text: str, form: RowFormat, *, where: str) -> list[Row]:
    """Return the rows of a text; `where` names it in errors. Raises InputError that names the line.

    JSONL has an object on each line, CSV the names of its columns on the first; blank lines are skipped. The
    delimiter of CSV is named by a first line such as `sep=;`, or else the most frequent of comma, semicolon and tab
    in its first line; its values are text.

    >>> rows_of("name,age\\nAda,36\\n", "csv", where="people.csv")
    [{'name': 'Ada', 'age': '36'}]
    """
    text = text.removeprefix("\ufeff")
    try:
        return list(_jsonl(text) if form == "jsonl" else _csv(text))
    except _BadRowError as error:
        raise InputError(f"{where} line {error.line}: {error}") from error


def read_rows(path: Path | str) -> tuple[list[Row], str]:
    """Return the rows of a task set and the SHA-256 of its bytes; rows of an archive have the name of their file.

    Raises UsageError for a file that cannot be read.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the task set {str(path)!r}: {error.strerror}") from error
    try:
        rows = list(_rows(file.name, raw))
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the task set {str(path)!r}: {error or type(error).__name__}") from error
    except _BadRowError as error:
        raise UsageError(f"{path}{error.place}: {error}") from error
    if not rows:
        raise UsageError(f"the task set {str(path)!r} holds no items")
    if len(rows) > MAX_ROWS:
        raise UsageError(f"the task set {str(path)!r} holds {len(rows):,} items; the most is {MAX_ROWS:,}")
    return rows, hashlib.sha256(raw).hexdigest()


class _BadRowError(Exception):
    """A row that cannot be read; `place` is its line, behind the name of its file within an archive."""

    def __init__(self, message: str, line: int | None = None, within: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.place = within + ("" if line is None else f":{line}")


# Formats.


def _jsonl(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _parsed(line, number)
        if not isinstance(row, dict):
            raise _BadRowError(f"{type(row).__name__}, not an object; a row is {{…}}", number)
        yield row


def _parsed(text: str, line: int = 1) -> Any:
    try:
        data = DECODER.decode(text)
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _BadRowError("half of a surrogate pair, which is not text", line) from error
    except json.JSONDecodeError as error:
        raise _BadRowError(f"not JSON: {error.msg}, column {error.colno}", line + error.lineno - 1) from error
    except RecursionError as error:
        raise _BadRowError("nested too deep", line) from error
    except ValueError as error:
        raise _BadRowError(str(error), line) from error
    return data


def _csv(text: str) -> Iterator[Row]:
    if csv.field_size_limit() < MAX_BYTES:  # a limit of the process: it is only ever raised, so that no reader races
        csv.field_size_limit(MAX_BYTES)
    delimiter, above = _named_delimiter(text)
    file = io.StringIO(text, newline="\n")
    for _ in range(above):
        file.readline()
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names:
                _check_width(cells, names, above + reader.line_num)
                yield dict(zip(names, cells, strict=True))
            else:
                names = _names(cells, above + reader.line_num)
    except csv.Error as error:
        raise _BadRowError(f"not CSV: {error}", above + reader.line_num) from error


def _named_delimiter(text: str) -> tuple[str, int]:
    """Return the delimiter, and the number of lines that name it: Excel begins a file with `sep=;`."""
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip(" \r\n"):
            continue
        named = _SEPARATOR.fullmatch(line)
        return (named[1], number) if named else (_delimiter(text), 0)
    return ",", 0


def _delimiter(text: str) -> str:
    first = next((line for line in io.StringIO(text, newline="\n") if line.strip()), "")
    return max(_DELIMITERS, key=first.count)


def _names(cells: list[str], line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    for column, name in enumerate(names, start=1):
        if not name:
            raise _BadRowError(f"column {column} has no name; the first line names the columns", line)
        if names.index(name) != column - 1:
            raise _BadRowError(f"two columns are named {name!r}", line)
    return names


def _check_width(cells: list[str], names: list[str], line: int) -> None:
    if len(cells) != len(names):
        hint = "put values that hold the delimiter between quotes" if len(cells) > len(names) else "fill the row"
        raise _BadRowError(f"{len(cells)} values for {len(names)} columns; {hint}", line)


# Files.


def _rows(name: str, raw: bytes) -> Iterator[Row]:
    if name.endswith((".tar", ".tar.xz", ".tar.gz", ".tgz")):
        yield from _archive(raw)
        return
    for suffix, opened in ((".gz", gzip.open), (".xz", lzma.open)):
        if name.endswith(suffix):
            with opened(io.BytesIO(raw)) as file:
                raw, name = _bounded(file.read(MAX_BYTES + 1)), name.removesuffix(suffix)
    text = _bounded(raw).decode("utf-8-sig")
    if name.endswith(".csv"):
        yield from _csv(text)
    elif name.endswith((".jsonl", ".ndjson")):
        yield from _jsonl(text)
    elif name.endswith(".json"):
        yield from _json(text)
    else:
        raise _BadRowError("a task set is a .csv, .jsonl or .json file, plain or as .gz, .xz or .tar.xz")


def _bounded(raw: bytes) -> bytes:
    if len(raw) > MAX_BYTES:
        raise _BadRowError(f"more than {MAX_BYTES:,} bytes")
    return raw


def _archive(raw: bytes) -> Iterator[Row]:
    left = MAX_BYTES
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
            left -= member.size
            if left < 0:
                raise _BadRowError(f"more than {MAX_BYTES:,} bytes")
            opened = archive.extractfile(member)
            if opened is None or not member.name.endswith((".json", ".jsonl", ".csv")):
                continue
            try:
                yield from ({"file": Path(member.name).stem, **row} for row in _rows(member.name, opened.read()))
            except _BadRowError as error:
                raise _BadRowError(str(error), error.line, f":{member.name}") from error


def _json(text: str) -> Iterator[Row]:
    """Yield the rows of a list, or of the one key that holds a list (BIG-Bench Hard has `examples`)."""
    data = _parsed(text)
    if isinstance(data, dict):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise _BadRowError("expected a list of objects")
    yield from data
