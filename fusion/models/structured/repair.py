"""Repair: reads JSON that a model wrote with slips, without changing a value.

Only the structure may be mended: single or typographic quotes, names without quotes, a comma that is missing before a
name or a bracket, one too many before a closing bracket, line breaks within a text, a backslash that begins no escape
of JSON, and objects that are open at the end. A number, text or name is read as it is written, or not at all. A list
that is open at the end may lack elements, and a number that ends the text may lack digits: both are refused.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fusion.core.bounded import clock
from fusion.core.schema.strict_json import number, pairs

MAX_DEPTH: Final = 100
_SPACE: Final = re.compile(r"[ \t\r\n\ufeff]*+")
_END: Final = re.compile(r"[ \t\r\n]*+(?:\Z|(?<=\n)```)")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?(?=[ \t\r\n,}\]])")
_BARE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*+(?=[ \t\r\n]*+:)")
_WORD: Final = re.compile(r"[A-Za-z]++(?=[ \t\r\n,}\]])")
_WORDS: Final = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_QUOTES: Final = {'"': '"', "'": "'", "“": "”"}
_PLAIN: Final = {mark: re.compile(rf"[^\\{mark}]*+") for mark in _QUOTES.values()}
_ESCAPES: Final = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX: Final = re.compile(r"[0-9A-Fa-f]{4}")


class Read(NamedTuple):
    """A value, and the position behind it."""

    data: Any
    end: int


def mended(text: str, start: int) -> Read:
    """Return the object or list that begins at `start`.

    Raises JSONDecodeError where a value would have to be guessed, and ValueError for a value that JSON cannot hold.
    """
    return _Reader(text).value(start, 0)


class _Reader:
    """Recursive descent: a value, the members of an object, the elements of a list."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, at: int, depth: int) -> Read:
        clock.check()
        character = self._text[at : at + 1]
        if character == "{" or character == "[":
            if depth >= MAX_DEPTH:
                raise ValueError("the JSON is nested too deep")
            return self._object(at, depth) if character == "{" else self._list(at, depth)
        if character in _QUOTES and character:
            return self._string(at)
        if found := _NUMBER.match(self._text, at):
            return Read(number(found.group()), found.end())
        if (found := _WORD.match(self._text, at)) and found.group() in _WORDS:
            return Read(_WORDS[found.group()], found.end())
        raise self._fault("expected a value", at)

    def _object(self, start: int, depth: int) -> Read:
        members: list[tuple[str, Any]] = []
        more = False
        at = self._skip(start + 1)
        while not self._text.startswith("}", at):
            if members and not more and self._is_end(at):
                return Read(pairs(members), at)
            name, at = self._name(at)
            at = self._skip(at)
            if self._text[at : at + 1] != ":":
                raise self._fault("expected ':'", at)
            data, at = self.value(self._skip(at + 1), depth + 1)
            members.append((name, data))
            at, more = self._behind(at, "}", self._begins_name)
        return Read(pairs(members), at + 1)

    def _list(self, start: int, depth: int) -> Read:
        elements: list[Any] = []
        at = self._skip(start + 1)
        while not self._text.startswith("]", at):
            data, at = self.value(at, depth + 1)
            elements.append(data)
            at, _ = self._behind(at, "]", self._begins_bracket)
        return Read(elements, at + 1)

    def _behind(self, at: int, closing: str, begins: Callable[[int], bool]) -> tuple[int, bool]:
        """Return the position of what follows a value, and True behind a comma."""
        at = self._skip(at)
        if self._text.startswith(",", at):
            return self._skip(at + 1), True
        if self._text.startswith(closing, at) or self._is_end(at) or begins(at):
            return at, False
        raise self._fault("expected ',' or a closing bracket", at)

    def _begins_name(self, at: int) -> bool:
        """Return True for a name in quotes with its colon; a text alone may belong to the value before it."""
        if self._text[at : at + 1] not in ('"', "'", "“"):
            return False
        return self._text.startswith(":", self._skip(self._string(at).end))

    def _begins_bracket(self, at: int) -> bool:
        return self._text.startswith(("{", "["), at)

    def _name(self, at: int) -> tuple[str, int]:
        if self._text[at : at + 1] in ('"', "'", "“"):
            return self._string(at)
        if found := _BARE_NAME.match(self._text, at):
            return found.group(), found.end()
        raise self._fault("expected a name in quotes", at)

    def _string(self, start: int) -> Read:
        closing = _QUOTES[self._text[start]]
        pieces: list[str] = []
        at = start + 1
        while True:
            plain = _PLAIN[closing].match(self._text, at)
            assert plain is not None  # it matches the empty text too
            pieces.append(plain.group())
            at = plain.end()
            if at >= len(self._text):
                raise self._fault("a text without its closing quote", start)
            if self._text[at] == closing:
                return Read("".join(pieces), at + 1)
            piece, at = self._escape(at)
            pieces.append(piece)

    def _escape(self, at: int) -> tuple[str, int]:
        letter = self._text[at + 1 : at + 2]
        if letter in _ESCAPES and letter:
            return _ESCAPES[letter], at + 2
        digits = _HEX.match(self._text, at + 2) if letter == "u" else None
        if digits is None:  # a backslash of a formula
            return "\\", at + 1
        return chr(int(digits.group(), 16)), digits.end()

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        return at if space is None else space.end()

    def _is_end(self, at: int) -> bool:
        return _END.match(self._text, at) is not None

    def _fault(self, message: str, at: int) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, at)
