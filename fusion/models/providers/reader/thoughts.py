"""Separation of a reply's answer from its thoughts, as models write them into the text itself.

Thoughts are a block between marks at the start of the text or of a line, or all text before a closing mark without
an opening one: many chat templates put the opening mark into the prompt. A mark in quotes, in a code fence or in JSON
is part of the answer.
"""

import json
import re
from collections import defaultdict
from typing import Final, Literal, NamedTuple

_MARKS: Final = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/think]",
    "◁think▷": "◁/think▷",
}
_WORDS: Final = (*_MARKS, *_MARKS.values())
_CLOSING: Final = frozenset(_MARKS.values())
_ANY: Final = re.compile(rf"[<\[◁](?:{'|'.join(re.escape(word[1:]) for word in _WORDS)})", re.IGNORECASE)
_BEGUN: Final = re.compile(r"[<\[◁][/a-z:]{0,12}\Z", re.IGNORECASE)
_ANSWER: Final = re.compile(r"\S")
_Q: Final = "[\"'`]"
_LONGEST: Final = max(map(len, _WORDS))
_FENCE: Final = "```"
_QUOTES: Final = "\"'`"
_INDENT: Final = 100
_BLOCKS: Final = 8
"""Blocks of thoughts at the start of a stream that are read as they come; the rest waits for its end."""

_CLOSED: Final = re.compile(rf"(?<!{_Q})(?:{'|'.join(re.escape(word) for word in _MARKS.values())})", re.IGNORECASE)

Hold = Literal["nothing", "unless JSON", "everything"]
"""Text to hold back until a closing mark without an opening one, or until the end of the reply.

"unless JSON" hands a text on if it begins as JSON, as thoughts do not.
"""


class Parted(NamedTuple):
    """The answer of a text; `closed` is True if a closing mark without an opening one was in it."""

    answer: str
    closed: bool = False


def parted(text: str) -> Parted:
    """Return the answer of a complete text."""
    if _ANY.search(text) is None or _is_json(text):
        return Parted(text)
    return _Scan(text).parted()


class _Scan:
    """One pass over the marks of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts: list[str] = []
        self._begin = self._counted = self._fences = self._lines = 0
        self._until = ""
        self._closed = False
        self._inline: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def parted(self) -> Parted:
        for mark in _ANY.finditer(self._text):
            self._read(mark.group().lower(), mark.start(), mark.end())
        if not self._until:
            self._parts.append(self._text[self._begin :])
        return Parted("".join(self._parts), self._closed)

    def _read(self, word: str, start: int, end: int) -> None:
        if self._until:
            if word == self._until:
                self._resume(end)
        elif self._is_quoted(start, end):
            return
        elif word in _CLOSING:
            self._close(word, end)
        elif self._begins_line(start):
            before = self._text[self._begin : start]
            self._parts += [before] if self._parts or before.strip() else []
            self._until = _MARKS[word]
        else:
            self._inline[_MARKS[word]].append((start, self._lines))

    def _begins_line(self, start: int) -> bool:
        indent = self._text[max(self._begin, start - _INDENT) : start]
        return not indent.rpartition("\n")[2].strip() and (len(indent) < _INDENT or "\n" in indent)

    def _close(self, word: str, end: int) -> None:
        """Drop all text before a closing mark, or from its opening one; a pair within one line is of the answer."""
        start, line = self._inline[word].pop() if self._inline[word] else (-1, -1)
        if line == self._lines:
            return
        if start < 0:
            self._closed = True
            self._parts.clear()
        else:
            self._parts.append(self._text[self._begin : start])
        self._inline.clear()
        self._resume(end)

    def _resume(self, end: int) -> None:
        """Continue the answer behind thoughts and the white space that follows them."""
        rest = _ANSWER.search(self._text, end)
        self._begin = self._counted = len(self._text) if rest is None else rest.start()
        self._until, self._fences = "", 0

    def _is_quoted(self, start: int, end: int) -> bool:
        self._fences += self._text.count(_FENCE, self._counted, start)
        self._lines += self._text.count("\n", self._counted, start)
        self._counted = max(start, self._counted)
        around = self._text[max(0, start - 2) : start], self._text[end : end + 1]
        opens = around[0][-1:] in _QUOTES and not around[0][:-1].isalnum()
        return self._fences % 2 == 1 or (bool(around[1]) and opens and around[0][-1:] == around[1])


class AnswerStream:
    """The answer of a text that arrives in pieces, handed on as soon as no mark can change it."""

    def __init__(self, hold: Hold = "nothing") -> None:
        self._hold = hold
        self._all: list[str] = []
        self._given: list[str] = []
        self._rest = ""
        self._state: Literal["start", "thoughts", "waiting", "answer", "held"] = "start"
        self._until = ""
        self._blocks = 0
        self._marked = False

    def add(self, piece: str) -> str:
        """Add a piece; return the part of the answer that is safe to hand on."""
        self._all.append(piece)
        if self._state == "held":
            return ""
        self._rest += piece
        steps = {"start": self._begin, "thoughts": self._skip_thoughts, "waiting": self._wait}
        while self._state in steps:
            if not steps[self._state]():
                return ""
        return self._give() if self._state == "answer" else ""

    def end(self) -> tuple[str, bool, bool]:
        """Return the rest of the answer, True if it replaces all that was handed on, and `Parted.closed`."""
        text = "".join(self._all)
        answer, closed = parted(text) if self._marked else Parted(text)
        given = "".join(self._given)
        return (answer[len(given) :], False, closed) if answer.startswith(given) else (answer, True, closed)

    def _skip_thoughts(self) -> bool:
        at = self._rest.lower().find(self._until)
        if at < 0:
            self._rest = self._rest[1 - len(self._until) :]
            return False
        self._rest, self._state = self._rest[at + len(self._until) :], "start"
        return True

    def _wait(self) -> bool:
        """Wait for the mark that closes thoughts without an opening one."""
        found = _CLOSED.search(self._rest)
        if found is None:
            self._rest = self._rest[-_LONGEST:]
            return False
        self._rest, self._state, self._hold = self._rest[found.end() :], "start", "nothing"
        return True

    def _begin(self) -> bool:
        """Read the beginning of the text, or of the part behind thoughts; return False to wait for more."""
        lead = self._rest.lstrip()
        low = lead[:13].lower()
        if not lead or any(word.startswith(low) and low != word for word in _MARKS):
            return False
        opening = next((word for word in _MARKS if low.startswith(word)), None)
        if opening is not None:
            return self._open(opening, lead)
        if self._marked:
            self._rest = lead
        elif self._holds(lead):
            self._state, self._marked, self._rest = "waiting", True, lead
            return True
        self._state = "answer"
        return True

    def _open(self, opening: str, lead: str) -> bool:
        self._blocks += 1
        self._marked = True
        self._state = "thoughts" if self._blocks <= _BLOCKS else "held"
        self._until, self._rest = _MARKS[opening], lead[len(opening) :]
        return self._state == "thoughts"

    def _holds(self, lead: str) -> bool:
        if self._hold == "unless JSON":
            return not lead.startswith(("{", "[", "`"))
        return self._hold == "everything"

    def _give(self) -> str:
        found = _ANY.search(self._rest)
        begun = _BEGUN.search(self._rest) if found is None else None
        cut = len(self._rest) if found is begun is None else (found or begun).start()  # type: ignore[union-attr]
        given, self._rest = self._rest[:cut], self._rest[cut:]
        if found is not None:
            self._state, self._marked = "held", True
        self._given.append(given)
        return given


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
