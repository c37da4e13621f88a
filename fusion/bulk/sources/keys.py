"""Keys: identities of rows and of maps."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_json

from fusion.bulk.sources import SourceRow
from fusion.core.errors import InputError

_DIGITS: Final = 16
MAX_KEY: Final = 500


def key_of(row: SourceRow, column: str | None, inputs: Mapping[str, Any]) -> str:
    """Return the key of a row: its `column`, else the path of its file, else a digest of its inputs.

    Raises InputError for a row without a text or number there.
    """
    if column is not None:
        return _of_column(row, column)
    return digest(inputs) if row.path is None else row.path


def _of_column(row: SourceRow, column: str) -> str:
    value = row.values.get(column)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise InputError(f"{row.where}: no key: the column {column!r} holds {value!r}; give a text or a number")
    key = str(value)
    if len(key) > MAX_KEY:
        raise InputError(f"{row.where}: the key in column {column!r} has {len(key):,} letters; the most is {MAX_KEY}")
    return key


def digest(data: Any) -> str:
    """Return the first digits of the SHA-256 (hex) of JSON data, whatever the order of its keys."""
    raw = to_json(_ordered(data), fallback=_bytes)
    return hashlib.sha256(raw).hexdigest()[:_DIGITS]


def map_id_of(pipeline: str, parts: Sequence[str]) -> str:
    """Return the id of a map that has none: its pipeline's name, and a digest of what it reads and writes."""
    return f"{pipeline[:40]}-{digest(list(parts))[:8]}"


class Repeats:
    """Tells apart rows with equal inputs: the k-th of them, from the second, has `#k` behind its key.

    Only keys that did repeat are remembered.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def named(self, keys: Iterable[str], seen: Collection[str]) -> list[str]:
        """Return the keys of consecutive rows; earlier rows of this pass had those in `seen`."""
        here: dict[str, int] = {}
        named = []
        for key in keys:
            number = here.get(key) or self._last.get(key) or int(key in seen)
            here[key] = number + 1
            named.append(f"{key}#{number + 1}" if number else key)
        self._last.update({key: number for key, number in here.items() if number > 1})
        return named


def _ordered(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _ordered(data[key]) for key in sorted(data, key=str)}
    if isinstance(data, (list, tuple)):
        return [_ordered(one) for one in data]
    return data


def _bytes(value: Any) -> str:
    """Return data that JSON cannot hold, such as a file, as text."""
    return repr(value)
