"""Writer: numbers the events of a streamed response, and writes them as server-sent events."""

import json
from typing import Any, Final, NamedTuple

_LEAP: Final = 1_000_000


class Frame(NamedTuple):
    """An event as bytes, with its number in the response."""

    number: int
    data: bytes


class Writer:
    """Writes events in order; their numbers count from 0, those of output items too."""

    def __init__(self) -> None:
        self._next = 0
        self._items = 0

    def event(self, kind: str, **fields: Any) -> Frame:
        """Return the next event, of a type such as `response.created`."""
        number = self._next
        self._next += 1
        body = json.dumps({"type": kind, "sequence_number": number, **fields}, ensure_ascii=False)
        return Frame(number, f"event: {kind}\ndata: {body}\n\n".encode(errors="replace"))

    def leap(self) -> None:
        """Go on with numbers above all that may have been given before."""
        self._next = (self._next // _LEAP + 1) * _LEAP

    def item(self) -> int:
        """Return the place of the next item in the output."""
        self._items += 1
        return self._items - 1
