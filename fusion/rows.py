"""Rows out of the text of a JSONL or CSV file, each a mapping; what is wrong is said with file and line."""

import csv
import json
from collections.abc import Iterator
from typing import Any, Literal

from fusion.core.errors import InputError

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
