"""Rows: what a file of items holds, as CSV, JSONL or JSON, plain, packed or in an archive."""

import csv
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion.core.errors import UsageError

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
        yield from _csv(text)
    elif name.endswith((".jsonl", ".ndjson")):
        yield from _jsonl(text)
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


def _csv(text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    for row in reader:
        if None in row or None in row.values():
            raise _BadRowError(f":{reader.line_num}: a row with more or fewer cells than the head has names")
        yield row


def _jsonl(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object(line, number)


def _json(text: str) -> Iterator[Row]:
    """The rows of a list, or of the one key that holds a list (BIG-Bench Hard has `examples`)."""
    data = _parsed(text, 1)
    if isinstance(data, Mapping):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise _BadRowError(": expected a list of objects")
    yield from data


def _object(line: str, number: int) -> Row:
    row = _parsed(line, number)
    if not isinstance(row, dict):
        raise _BadRowError(f":{number}: expected an object, got {line.strip()[:40]!r}")
    return row


def _parsed(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadRowError(f":{number}: not JSON: {error}") from error
