"""Looks for a key in all that a run leaves behind: what it printed, what it raised, every file under a folder."""

import sqlite3
import traceback
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["leaks"]


def leaks(key: str, **places: Any) -> list[str]:
    """Names of the places in which the key stands, plain or quoted.

    A Path is a folder, of which every byte is read, and what is compressed in the values of SQLite files.

    >>> leaks("sk-1", out=b"it is sk-1", folder=tmp_path, error=caught.value)  # doctest: +SKIP
    ['out']
    """
    forms = {key.encode(), quote(key, safe="").encode(), quote_plus(key).encode(), key.encode("utf-16-le")}
    forms.add(key.replace("/", "\\/").encode())
    return [
        where
        for name, place in places.items()
        for where, content in _contents(name, place)
        if any(form in content for form in forms)
    ]


def _contents(name: str, place: Any) -> Iterator[tuple[str, bytes]]:
    if isinstance(place, Path):
        for file in sorted(path for path in place.rglob("*") if path.is_file()):
            yield f"{name}:{file.relative_to(place)}", b"\n".join((str(file).encode(), *_bytes(file)))
    elif isinstance(place, BaseException):
        for number, link in enumerate(_links(place, set())):
            yield f"{name}:{number}:{type(link).__name__}", _told(link).encode()
    else:
        yield name, place if isinstance(place, bytes) else str(place).encode(errors="surrogatepass")


def _bytes(file: Path) -> Iterator[bytes]:
    content = file.read_bytes()
    yield content
    if not content.startswith(b"SQLite format 3"):
        return
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as base:
        for (table,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in base.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, bytes):
                        with suppress(zlib.error):
                            yield zlib.decompress(value)


def _links(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """The error and everything that can be reached from it by causes, contexts and groups, shown or not."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    for further in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        yield from _links(further, seen)


def _told(error: BaseException) -> str:
    notes = getattr(error, "__notes__", ())
    return "\n".join((str(error), repr(error), repr(vars(error)), *notes, *traceback.format_exception(error)))
