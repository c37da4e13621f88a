"""Filters of templates and expressions."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from jinja2 import Undefined, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter

from fusion.core.types import File, Item, Value, as_text, whole_text
from fusion.prompts.bounds import check_printed
from fusion.prompts.limits import check_length, check_output, count_step

_LETTERS = bytes(ord("a") + byte % 26 for byte in range(256))
_EXACT = Context(prec=900)  # digits: enough for the sum of two numbers of 300 places


def _json(value: Any, indent: int | None = None) -> str:
    """Return the value as JSON."""
    if isinstance(value, Undefined):
        return str(value)
    check_printed(value)
    try:
        text = json.dumps(
            value, ensure_ascii=False, indent=indent and min(indent, 8), default=_jsonable, allow_nan=False
        )
    except ValueError as error:
        raise SecurityError(f"JSON cannot hold the value: {error}") from error
    return whole_text(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, File):
        return str(value)
    return value.model_dump(mode="json") if isinstance(value, Value) else as_text(value)


def lines_of(text: str, keepends: bool = False) -> list[str]:
    """Return the lines of a text, which end at a line feed or a carriage return with one, and nowhere else."""
    lines = text.split("\n")
    ends = ["\n"] * (len(lines) - 1) + [""]
    if not lines[-1]:
        del lines[-1]
    if keepends:
        return [line + end for line, end in zip(lines, ends, strict=False)]
    return [line.removesuffix("\r") for line in lines]


def _indent(value: Any, width: int = 4, first: bool = False) -> str:
    """Indent every line, except the first unless `first` is True."""
    if not 0 <= width <= 64:
        raise SecurityError("indent takes 0 to 64 spaces")
    lines = lines_of(printed(value))
    pad = " " * width
    return "\n".join(line if (at == 0 and not first) or not line else pad + line for at, line in enumerate(lines))


def _truncate_tokens(value: Any, most: int) -> str:
    """Truncate to about so many tokens, of four bytes each, at a word boundary and with a mark."""
    text = printed(value)
    raw = text.encode()
    if len(raw) <= most * 4:
        return text
    kept = raw[: most * 4].decode(errors="ignore")
    head, _, _ = kept.rpartition(" ")
    return (head or kept).rstrip() + " [cut here]"


def _fence(value: Any, label: str = "text") -> str:
    """Wrap untrusted text in delimiters derived from its SHA-256, which it cannot contain."""
    return fenced(printed(value), label)


@lru_cache(maxsize=256)
def fenced(text: str, label: str) -> str:
    """Return the text between delimiters derived from its SHA-256: letters, since each digit is a token."""
    mark = hashlib.sha256(text.encode()).digest()[:10].translate(_LETTERS).decode()
    return f"<{label} {mark}>\n{text}\n</{label} {mark}>"


def _replace(value: Any, old: str, new: str) -> str:
    """Replace every `old` by `new`."""
    text = printed(value)
    check_output(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def joined(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """Join the values as text."""
    if isinstance(values, Undefined):
        return str(values)
    if attribute is not None:
        raise SecurityError("join takes no attribute; use map(attribute=…) before it")
    texts = [printed(value) for value in values]
    check_output(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _sum(environment: Any, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Return the exact decimal sum of numbers or numeric texts; with a list as `start`, join lists."""
    if isinstance(values, Undefined):
        return str(values)
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    if isinstance(start, list):
        return _all_of(values, start)
    total, whole = Decimal(0), True
    for value in (start, *values):
        count_step(0)
        total = _EXACT.add(total, _decimal(value, "sum"))
        whole = whole and isinstance(value, int)
    return int(total) if whole else float(total)


def _all_of(lists: Iterable[Any], start: list[Any]) -> list[Any]:
    joined = list(start)
    for one in lists:
        if isinstance(one, Undefined) or not isinstance(one, (list, tuple)):
            raise SecurityError(f"sum(start=[]) joins lists, not {_short(one)}")
        joined += one
        count_step(0)
        check_length(len(joined))
    return joined


def _decimal(value: Any, wanted_by: str) -> Decimal:
    """Parse a number. Raises SecurityError for anything else."""
    if isinstance(value, Undefined):
        str(value)
    number = value if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) else None
    try:
        found = Decimal(str(value).strip()) if number is not None or isinstance(value, str) else Decimal("NaN")
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or abs(found.adjusted()) > 300:
        raise SecurityError(f"{wanted_by} takes numbers such as 1180.5, not {_short(value)}")
    return found


def _decimals(value: Any, places: int = 2) -> str:
    """Format a number with so many decimal places, rounded half away from zero: 4634.50."""
    if not 0 <= places <= 20:
        raise SecurityError("decimals takes 0 to 20 places")
    number = _decimal(value, "decimals")
    return str(number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=_EXACT))


def _table(rows: Iterable[Any], columns: Sequence[str] | None = None) -> str:
    """Return rows, which are mappings or items of them, as a Markdown table; all fields are columns by default."""
    if isinstance(rows, Undefined):
        return str(rows)
    records = [row.value if isinstance(row, Item) else row for row in rows]
    for record in records:
        count_step(0)
        if not isinstance(record, Mapping):
            raise SecurityError(f"table takes rows with named fields, not {_short(record)}")
    names = list(columns or dict.fromkeys(name for record in records for name in record))
    cells = [[_cell(record.get(name)) for name in names] for record in records]
    lines = [[_cell(name) for name in names], ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else printed(value)
    return " ".join(text.replace("|", "\\|").split())


def _short(value: Any) -> str:
    text = repr(as_text(value) if isinstance(value, Item) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def printed(value: Any) -> str:
    if isinstance(value, File):
        raise SecurityError(f"{value} must be printed by itself, as in {{{{ inputs.picture }}}}: no filter takes it")
    if isinstance(value, (Undefined, Item)):
        return str(value)
    check_printed(value)
    return as_text(value)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "json": _json,
    "tojson": _json,
    "indent": _indent,
    "truncate_tokens": _truncate_tokens,
    "fence": _fence,
    "replace": _replace,
    "join": joined,
    "sum": pass_environment(_sum),
    "decimals": _decimals,
    "table": _table,
}
"""Filters that extend or replace Jinja's own, by name."""
