"""Rows out of the text of a JSONL or CSV file, each a mapping; what is wrong is said with file and line."""

import csv
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fusion.core.errors import InputError, UsageError

RowFormat = Literal["jsonl", "csv"]
_DELIMITERS = ",;\t"


def rows_of(text: str, form: RowFormat, *, where: str) -> list[dict[str, Any]]:
    """The rows of a text that stands in `where`. Raises InputError that names the line.

    JSONL has an object on each line, CSV the names of its columns on the first; blank lines are passed over. The
    columns of CSV are divided by that of comma, semicolon and tab which its first line has most; its values are text.

    >>> rows_of("name,age\\nAda,36\\n", "csv", where="people.csv")
    [{'name': 'Ada', 'age': '36'}]
    """
    text = text.removeprefix("\ufeff")
    return list(_jsonl(text, where) if form == "jsonl" else _csv(text, where))


def _jsonl(text: str, where: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object, parse_constant=_refuse)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} line {number}: half of a surrogate pair, which is no text") from error
        except json.JSONDecodeError as error:
            raise InputError(f"{where} line {number}: not JSON: {error.msg}, column {error.colno}") from error
        except RecursionError as error:
            raise InputError(f"{where} line {number}: nested too deep") from error
        except ValueError as error:
            raise InputError(f"{where} line {number}: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where} line {number}: {type(row).__name__}, not an object; a row is {{…}}")
        yield row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return row


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _csv(text: str, where: str) -> Iterator[dict[str, Any]]:
    reader = csv.reader(_csv_lines(text), delimiter=_delimiter(text), strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names:
                _check_width(cells, names, f"{where} line {reader.line_num}")
                yield dict(zip(names, cells, strict=True))
            else:
                names = _names(cells, f"{where} line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num}: not CSV: {error}") from error


def _csv_lines(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _delimiter(text: str) -> str:
    first = next((line for line in _csv_lines(text) if line.strip()), "")
    return max(_DELIMITERS, key=first.count)


def _names(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    for column, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"{place}: column {column} has no name; the first line names the columns")
        if names.index(name) != column - 1:
            raise InputError(f"{place}: two columns are named {name!r}")
    return names


def _check_width(cells: list[str], names: list[str], place: str) -> None:
    if len(cells) != len(names):
        hint = "put values that hold the delimiter between quotes" if len(cells) > len(names) else "fill the row"
        raise InputError(f"{place}: {len(cells)} values for {len(names)} columns; {hint}")


MAX_BYTES = 200_000_000
MAX_ROWS = 100_000

Row = dict[str, Any]


def read_rows(path: Path | str) -> tuple[list[Row], str]:
    """The rows of a file and the SHA-256 of its bytes; of an archive, those of each file in it, with its name."""
    file = Path(path)
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the task set {str(path)!r}: {error.strerror}") from error
    try:
        rows = list(_rows(file.name, raw))
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read the task set {str(path)!r}: {error or type(error).__name__}") from error
    except _BadRowError as error:
        raise UsageError(f"{path}{error}") from error
    if not rows:
        raise UsageError(f"the task set {str(path)!r} holds no items")
    if len(rows) > MAX_ROWS:
        raise UsageError(f"the task set {str(path)!r} holds {len(rows):,} items; the most is {MAX_ROWS:,}")
    return rows, hashlib.sha256(raw).hexdigest()


class _BadRowError(Exception):
    """A row that cannot be read; its words follow the file's name."""


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
        yield from _task_csv(text)
    elif name.endswith((".jsonl", ".ndjson")):
        yield from _task_jsonl(text)
    elif name.endswith(".json"):
        yield from _json(text)
    else:
        raise _BadRowError(": a task set is a .csv, .jsonl or .json file, plain or as .gz, .xz or .tar.xz")


def _bounded(raw: bytes) -> bytes:
    if len(raw) > MAX_BYTES:
        raise _BadRowError(f": more than {MAX_BYTES:,} bytes")
    return raw


def _archive(raw: bytes) -> Iterator[Row]:
    left = MAX_BYTES
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
            left -= member.size
            if left < 0:
                raise _BadRowError(f": more than {MAX_BYTES:,} bytes")
            opened = archive.extractfile(member)
            if opened is None or not member.name.endswith((".json", ".jsonl", ".csv")):
                continue
            stem = Path(member.name).stem
            try:
                yield from ({"file": stem, **row} for row in _rows(member.name, opened.read()))
            except _BadRowError as error:
                raise _BadRowError(f":{member.name}{error}") from error


def _task_csv(text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    for row in reader:
        if None in row or None in row.values():
            raise _BadRowError(f":{reader.line_num}: a row with more or fewer cells than the head has names")
        yield row


def _task_jsonl(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _task_object(line, number)


def _json(text: str) -> Iterator[Row]:
    """The rows of a list, or of the one key that holds a list (BIG-Bench Hard has `examples`)."""
    data = _parsed(text, 1)
    if isinstance(data, Mapping):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise _BadRowError(": expected a list of objects")
    yield from data


def _task_object(line: str, number: int) -> Row:
    row = _parsed(line, number)
    if not isinstance(row, dict):
        raise _BadRowError(f":{number}: expected an object, got {line.strip()[:40]!r}")
    return row


def _parsed(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadRowError(f":{number}: not JSON: {error}") from error
