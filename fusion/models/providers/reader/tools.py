"""Calls of tools in a reply, whole or in the pieces of a stream."""

import json
from typing import Any

from fusion.core.types import ToolCall
from fusion.models.providers.reader.events import MalformedError


class _Piece:
    """One call of a tool as far as it has arrived."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class ToolCalls:
    """The calls of one reply. Pieces of a stream belong together by their index, or by their id without one."""

    def __init__(self) -> None:
        self._pieces: dict[str, _Piece] = {}

    def add(self, given: Any) -> int:
        """Add the `tool_calls` of a message or a delta; return the characters of arguments. Raises MalformedError."""
        if not isinstance(given, list):
            return 0
        return sum(self._add(one, at) for at, one in enumerate(given))

    def read(self) -> tuple[ToolCall, ...]:
        """Return the calls. Raises MalformedError for one without a name."""
        return tuple(self._whole(piece, at) for at, piece in enumerate(self._pieces.values()))

    def _add(self, given: Any, at: int) -> int:
        function = given.get("function") if isinstance(given, dict) else None
        if not isinstance(function, dict):
            raise MalformedError(f"a tool call that is {given!r:.80}")
        piece = self._pieces.setdefault(self._place(given, at), _Piece())
        name, arguments = function.get("name"), _text_of(function.get("arguments"))
        piece.id = piece.id or (given.get("id") if isinstance(given.get("id"), str) else "")
        piece.name = piece.name or (name if isinstance(name, str) else "")
        piece.arguments.append(arguments)
        return len(arguments)

    def _place(self, given: dict[str, Any], at: int) -> str:
        index, named = given.get("index"), given.get("id")
        if index is not None:
            return repr(index)
        if named:
            return f"id {named}"
        return next(reversed(self._pieces), repr(at)) if self._pieces else repr(at)

    def _whole(self, piece: _Piece, at: int) -> ToolCall:
        if not piece.name:
            raise MalformedError("a tool call without a name")
        return ToolCall(id=piece.id or f"call_{at}", name=piece.name, arguments="".join(piece.arguments) or "{}")


def _text_of(arguments: Any) -> str:
    """Return arguments as text; some servers send them as an object."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
