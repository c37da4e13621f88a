"""Dialect: the SQL of stores in the words of PostgreSQL, and cursors that bind and return values as they are.

A text or bytes go as they are, typed by the column that they meet. Columns of `bytea` hold either: what is compressed
begins with NUL, a text is UTF-8.
"""

import re
from functools import cache
from typing import Any, Final

from psycopg import Connection, RawCursor
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import BytesBinaryDumper, StrBinaryDumper

_MARK: Final = re.compile(r"\?(\d*)")
_SUM: Final = re.compile(r"decimal_sum\(([a-z._]+)\)")
_COMPRESSED: Final = b"\0"


@cache
def in_postgres(sql: str) -> str:
    """Return a statement with the parameters and functions of PostgreSQL."""
    last = 0

    def numbered(mark: "re.Match[str]") -> str:
        nonlocal last
        number = int(mark[1]) if mark[1] else last + 1
        last = max(last, number)
        return f"${number}"

    sql = _SUM.sub(r"sum(CAST(\1 AS numeric))", sql.replace("ifnull(", "coalesce("))
    return _MARK.sub(numbered, sql)


class _TextDumper(StrBinaryDumper):
    oid = 0


class _BytesDumper(BytesBinaryDumper):
    oid = 0

    def dump(self, obj: Any) -> Buffer:
        return _COMPRESSED + bytes(obj)


class _PackedLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> str | bytes:
        kept = bytes(data)
        return kept[1:] if kept.startswith(_COMPRESSED) else kept.decode()


def cursor_of(connection: "Connection[Any]") -> "RawCursor[Any]":
    """Return a cursor for the statements of the dialect."""
    cursor = RawCursor(connection)
    cursor.format = Format.BINARY
    cursor.adapters.register_dumper(str, _TextDumper)
    cursor.adapters.register_dumper(bytes, _BytesDumper)
    cursor.adapters.register_dumper(int, Int8BinaryDumper)
    cursor.adapters.register_loader("bytea", _PackedLoader)
    return cursor
