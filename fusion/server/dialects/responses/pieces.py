"""Pieces: a streamed text in parts that depend on the text alone, not on the pace of its arrival.

So a stream that is replayed has the same events, with the same numbers, as it had while the answer was written.
"""

import re
from collections.abc import Iterator
from typing import Final

_PIECE: Final = re.compile(r".{15,47}?\s|.{48}", re.DOTALL)


class Pieces:
    """Cuts a text into pieces of 16 to 48 characters, at the end of a word where there is one."""

    def __init__(self) -> None:
        self._given: list[str] = []
        self._rest = ""

    @property
    def text(self) -> str:
        """The text of all pieces so far."""
        return "".join(self._given)

    def add(self, text: str) -> Iterator[str]:
        """Yield the pieces that are whole with this text."""
        self._rest += text
        at = 0
        while found := _PIECE.match(self._rest, at):
            at = found.end()
            self._given.append(found[0])
            yield found[0]
        self._rest = self._rest[at:]

    def end(self) -> Iterator[str]:
        """Yield the last piece, if there is one."""
        if self._rest:
            self._given.append(self._rest)
            yield self._rest
        self._rest = ""

    def restart(self) -> None:
        """Forget what is no whole piece yet."""
        self._rest = ""
