"""Cells: values as the cells of a CSV file, quoted, and guarded against formulas."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel

from fusion.core.types import as_text, whole_text

_FORMULA: Final = re.compile(r"[\t\r]|\s*[=+\-@＝＋－＠]")
_NUMBER: Final = re.compile(r"[+-]?(?:\d[\d.,]*|\.\d+)(?:[eE][+-]?\d+)?%?")
_QUOTED: Final = re.compile(r'["\r\n]|^\s|\s$')


def cell(value: Any, *, guard: bool = True) -> str:
    """Return a value as the text of a cell: text as it is, None as nothing, and lists and objects as JSON.

    A text that a spreadsheet could take for a formula is guarded: an apostrophe is put before it. Such a text begins
    with `=`, `+`, `-`, `@`, a tab or a carriage return, and is no plain number.

    >>> cell("=1+1"), cell("-12.50"), cell(["a", 1])
    ("'=1+1", '-12.50', '["a", 1]')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Decimal):
        return as_text(value)
    nested = isinstance(value, (Mapping, Sequence, BaseModel)) and not isinstance(value, str)
    text = whole_text(as_text(value) if nested else str(value))
    if guard and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return "'" + text
    return text


def csv_line(values: Iterable[Any], *, guard: bool = True, delimiter: str = ",") -> str:
    r"""Return a line of CSV (RFC 4180) that holds these values, with the line feed that ends it.

    >>> csv_line(["T1", 'He said "no", twice'])
    'T1,"He said ""no"", twice"\n'
    """
    cells = [cell(value, guard=guard) for value in values]
    if cells == [""]:
        return '""\n'  # a line without a letter would be no row
    return delimiter.join([_quoted(text, delimiter) for text in cells]) + "\n"


def json_line(row: Mapping[str, Any]) -> str:
    r"""Return a line of JSONL that holds this row, with the line feed that ends it.

    >>> json_line({"id": "T1", "team": "billing"})
    '{"id": "T1", "team": "billing"}\n'
    """
    return whole_text(as_text(dict(row))) + "\n"


def _quoted(text: str, delimiter: str) -> str:
    return '"' + text.replace('"', '""') + '"' if delimiter in text or _QUOTED.search(text) else text
