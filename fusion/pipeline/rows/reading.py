"""Reading: the rows of a whole CSV, JSONL or JSON text or file, with errors that name the line."""

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fusion.core.errors import InputError, UsageError
from fusion.pipeline.rows.parsing import MAX_BYTES, BadRowError, Row, RowFormat, csv_rows, jsonl_rows, parsed

MAX_ROWS: Final = 100_000


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
        return list(_parsed_rows(text, form))
    except BadRowError as error:
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
    except BadRowError as error:
        raise UsageError(f"{path}{error.place}: {error}") from error
    if not rows:
        raise UsageError(f"the task set {str(path)!r} holds no items")
    if len(rows) > MAX_ROWS:
        raise UsageError(f"the task set {str(path)!r} holds {len(rows):,} items; the most is {MAX_ROWS:,}")
    return rows, hashlib.sha256(raw).hexdigest()


def _parsed_rows(text: str, form: RowFormat) -> Iterator[Row]:
    lines = io.StringIO(text, newline="\n")
    return (row for _, row in (jsonl_rows(lines) if form == "jsonl" else csv_rows(lines)))


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
        yield from _parsed_rows(text, "csv")
    elif name.endswith((".jsonl", ".ndjson")):
        yield from _parsed_rows(text, "jsonl")
    elif name.endswith(".json"):
        yield from _json(text)
    else:
        raise BadRowError("a task set is a .csv, .jsonl or .json file, plain or as .gz, .xz or .tar.xz")


def _bounded(raw: bytes) -> bytes:
    if len(raw) > MAX_BYTES:
        raise BadRowError(f"more than {MAX_BYTES:,} bytes")
    return raw


def _archive(raw: bytes) -> Iterator[Row]:
    left = MAX_BYTES
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
            left -= member.size
            if left < 0:
                raise BadRowError(f"more than {MAX_BYTES:,} bytes")
            opened = archive.extractfile(member)
            if opened is None or not member.name.endswith((".json", ".jsonl", ".csv")):
                continue
            try:
                yield from ({"file": Path(member.name).stem, **row} for row in _rows(member.name, opened.read()))
            except BadRowError as error:
                raise BadRowError(str(error), error.line, f":{member.name}") from error


def _json(text: str) -> Iterator[Row]:
    """Yield the rows of a list, or of the one key that holds a list (BIG-Bench Hard has `examples`)."""
    data = parsed(text)
    if isinstance(data, dict):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise BadRowError("expected a list of objects")
    yield from data
