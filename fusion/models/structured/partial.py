"""Partial JSON: the text of one field of an object, as it arrives."""

import json
import re
from typing import Final

from fusion.core.types import Deltas

_TEXT: Final = re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)
_CUT: Final = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
"""An escape that is not complete, or the first half of a pair of them."""


def text_of(field: str, raw: str) -> str:
    r"""Return the text of the first field of an object, as far as it has arrived; empty if it is another field.

    >>> text_of("answer", '{"answer": "Two\\nli')
    'Two\nli'
    """
    start = re.match(rf'\s*\{{\s*"{re.escape(field)}"\s*:\s*"', raw)
    if start is None:
        return ""
    found = _TEXT.match(raw, start.end())
    assert found is not None  # it matches the empty text too
    closed = raw.startswith('"', found.end())
    inside = found.group() if closed else _CUT.sub("", raw[start.end() :], count=1)
    try:
        return str(json.loads(f'"{inside}"', strict=False))
    except json.JSONDecodeError:
        return ""


class FieldDeltas:
    """Receiver of an object in pieces, which passes the text of its first field on if that is `field`."""

    def __init__(self, to: Deltas, field: str) -> None:
        self._to = to
        self._field = field
        self._raw = ""
        self._shown = ""

    @property
    def committed(self) -> bool:
        return self._to.committed

    def add(self, text: str) -> None:
        self._raw += text
        found = text_of(self._field, self._raw)
        if len(found) > len(self._shown):
            self._to.add(found[len(self._shown) :])
            self._shown = found

    def restart(self) -> None:
        self._raw = self._shown = ""
        self._to.restart()
