"""YAML reader: data, every syntax mistake, and the position of every value.

Scalars follow the YAML 1.2 core schema: `on`, `yes` and dates are text. The reader follows the events of the parser
one by one, so that input that is too deep, too large or grows by aliases is refused before it is built.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fusion.core.errors import Problem

MAX_BYTES = 262_144
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_ALIASES = 50
MAX_DIGITS = 100

Event = Any
"""An event of ruamel.yaml, which is imported only when a file is read."""

Mark = tuple[int, int]
"""Line and column, from 1."""

Place = tuple[str | int, ...]
"""Keys and indexes that lead to a value."""

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_OLD_BREAKS = "\x85\u2028\u2029"
_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]|[\ud800-\udfff]|[\ufffe\uffff]")
"""One class of all these would take 7 ms to compile: the compiler draws up a map of the whole plane."""


@dataclass(slots=True)
class _Node:
    """A value of the file, with its position, and its size and height with aliases expanded."""

    mark: Mark
    value: Any = None
    keys: dict[str, Mark] = field(default_factory=dict)
    children: "dict[str | int, _Node]" = field(default_factory=dict)
    size: int = 1
    height: int = 0

    def add(self, key: str | int, child: "_Node") -> None:
        self.children[key] = child
        self.size += child.size
        self.height = max(self.height, child.height + 1)


class Positions:
    """Positions of the keys and values of a file. A missing path has the position of its nearest ancestor."""

    def __init__(self, root: _Node | None = None) -> None:
        self._root = root

    def at(self, path: Place) -> Mark:
        """Return the position of the value at `path`; (0, 0) if the file could not be read."""
        return self._find(path)[0]

    def key(self, path: Place) -> Mark:
        """Return the position of the key of the value at `path`; for a list element, that of the element."""
        return self._find(path)[1]

    def has(self, path: Place) -> bool:
        return self._find(path)[2]

    def _find(self, path: Place) -> tuple[Mark, Mark, bool]:
        node = self._root
        if node is None:
            return (0, 0), (0, 0), False
        value = key = node.mark
        for part in path:
            child = node.children.get(part)
            if child is None:
                return (key, key, False) if node is not self._root else (value, value, False)
            key = node.keys.get(str(part), child.mark)
            value = child.mark
            node = child
        return value, key, True


class _RefusedError(Exception):
    """The file is refused; reading stops."""


def read_yaml(text: str, *, file: str) -> tuple[Any, list[Problem], Positions]:
    """Return the data, the mistakes and the positions of a YAML text.

    All mistakes are found up to one that stops the reader; the data is then None.
    """
    reading = _Reading(file)
    try:
        reading.check_text(text)
        root = reading.read(text)
    except _RefusedError:
        return None, reading.problems, Positions()
    return root.value, reading.problems, Positions(root)


class _Reading:
    """State of the reader of one text: the current path, the anchors and the problems found."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._path: list[str | int] = []
        self._anchors: dict[str, _Node] = {}
        self._aliases = 0
        self._expanded = 0
        self._values = 0

    def check_text(self, text: str) -> None:
        if (size := len(text.encode(errors="replace"))) > MAX_BYTES:
            self._refuse((0, 0), f"a file of {size:,} bytes; the most is {MAX_BYTES:,}")
        if bad := _UNPRINTABLE.search(text):
            before = text[: bad.start()]
            mark = (before.count("\n") + 1, bad.start() - (before.rfind("\n") + 1) + 1)
            self._refuse(mark, f"the character {bad.group()!r} is not allowed in text; is this a binary file?")

    def read(self, text: str) -> _Node:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        breaks = _Breaks(text)
        try:
            return self._document(breaks.restored(YAML(typ="safe", pure=True).parse(breaks.hidden)))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
            raise self._refused(place, f"not YAML: {_syntax(error, text)}") from error
        except (YAMLError, ValueError, RecursionError) as error:
            raise self._refused((0, 0), f"not YAML: {str(error) or type(error).__name__}") from error

    def _document(self, events: Iterator[Event]) -> _Node:
        from ruamel.yaml import events as kinds

        root: _Node | None = None
        for event in events:
            if isinstance(event, kinds.DocumentStartEvent):
                if root is not None:
                    self._refuse(_mark(event), "a second document; a file holds one, without `---` between")
                root = self._node(next(events), events)
        if root is None:
            self._refuse((0, 0), "the file is empty")
        return root

    def _node(self, event: Event, events: Iterator[Event]) -> _Node:
        from ruamel.yaml import events as kinds

        mark = _mark(event)
        self._values += 1
        if self._values > MAX_VALUES:
            self._refuse(mark, f"more than {MAX_VALUES:,} values")
        if isinstance(event, kinds.AliasEvent):
            return self._alias(event.anchor, mark)
        if event.tag is not None:
            self._problem(mark, f"the tag {event.tag!r} is not supported; remove it")
        node = _Node(mark)
        if isinstance(event, kinds.ScalarEvent):
            node.value = self._scalar(event)
        else:
            if len(self._path) >= MAX_DEPTH:
                self._refuse(mark, f"nested deeper than {MAX_DEPTH} levels")
            (self._mapping if isinstance(event, kinds.MappingStartEvent) else self._sequence)(node, events)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _sequence(self, node: _Node, events: Iterator[Event]) -> None:
        from ruamel.yaml import events as kinds

        node.value = []
        while not isinstance(event := next(events), kinds.SequenceEndEvent):
            self._path.append(len(node.value))
            child = self._node(event, events)
            node.add(self._path.pop(), child)
            node.value.append(child.value)

    def _mapping(self, node: _Node, events: Iterator[Event]) -> None:
        from ruamel.yaml import events as kinds

        node.value = {}
        while not isinstance(event := next(events), kinds.MappingEndEvent):
            key, mark = self._key(event, events), _mark(event)
            self._path.append(key)
            child = self._node(next(events), events)
            self._path.pop()
            if key in node.keys:
                first = f"line {node.keys[key][0]}" if node.keys[key][0] != mark[0] else f"column {node.keys[key][1]}"
                self._problem(mark, f"duplicate key {key!r}; first in {first}", key)
                continue
            node.keys[key] = mark
            node.add(key, child)
            node.value[key] = child.value

    def _key(self, event: Event, events: Iterator[Event]) -> str:
        from ruamel.yaml import events as kinds

        if not isinstance(event, kinds.ScalarEvent):
            self._path.append("?")
            self._node(event, events)
            self._path.pop()
            braces = "; text with {{ … }} needs quotes" if isinstance(event, kinds.MappingStartEvent) else ""
            self._problem(_mark(event), f"a key has to be text{braces}")
            return "?"
        if event.tag is not None:
            self._problem(_mark(event), f"the tag {event.tag!r} is not supported; remove it")
        if event.anchor is not None:
            self._anchors[event.anchor] = _Node(_mark(event), event.value)
        if event.implicit[0] and event.value == "<<":
            self._problem(_mark(event), "merge keys (<<) are not part of YAML 1.2; write the keys out")
        elif event.implicit[0] and not isinstance(_plain(event.value), str):
            self._problem(_mark(event), f"a key has to be text, got {event.value or 'nothing'}; put it in quotes")
        return str(event.value)

    def _scalar(self, event: Event) -> Any:
        if _SURROGATE.search(event.value):
            self._problem(_mark(event), "a lone surrogate is not a character; write the character itself")
            return ""
        if not event.implicit[0]:
            return event.value
        if _ENDLESS.fullmatch(event.value):
            self._problem(_mark(event), f"{event.value} is not a finite number")
            return _STAND_IN
        value = _plain(event.value)
        if value is _HUGE:
            self._problem(_mark(event), f"a number of more than {MAX_DIGITS} digits; put it in quotes if it is text")
            return _STAND_IN
        return value

    def _alias(self, name: str, mark: Mark) -> _Node:
        node = self._anchors.get(name)
        if node is None:
            self._problem(mark, f"the alias *{name} has no anchor &{name} that ends before it")
            return _Node(mark)
        self._aliases += 1
        self._expanded += node.size
        if self._aliases > MAX_ALIASES or self._expanded > MAX_VALUES:
            self._refuse(mark, f"more than {MAX_ALIASES} aliases, or more than {MAX_VALUES:,} values by aliases")
        if len(self._path) + node.height > MAX_DEPTH:
            self._refuse(mark, f"nested deeper than {MAX_DEPTH} levels")
        return node

    def _problem(self, mark: Mark, message: str, *last: str) -> None:
        where = ".".join(str(part) for part in (*self._path, *last))
        self.problems.append(Problem(self._file, *mark, where, message))

    def _refused(self, mark: Mark, message: str) -> _RefusedError:
        self.problems.append(Problem(self._file, *mark, "", message))
        return _RefusedError()

    def _refuse(self, mark: Mark, message: str) -> NoReturn:
        raise self._refused(mark, message)


class _Breaks:
    """The line breaks of YAML 1.1 that end no line in YAML 1.2: U+0085, U+2028, U+2029.

    The parser follows 1.1 in this. It sees characters of private use in their place, one for one.
    """

    def __init__(self, text: str) -> None:
        marks = [mark for mark in _OLD_BREAKS if mark in text]
        private = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
        self._stand_ins = dict(zip(marks, private, strict=False))
        self._marks = {ord(stand_in): mark for mark, stand_in in self._stand_ins.items()}
        self.hidden = (
            text.translate({ord(mark): stand_in for mark, stand_in in self._stand_ins.items()}) if marks else text
        )

    def restored(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events with the characters of the text in their scalars."""
        for event in events:
            if self._stand_ins and isinstance(getattr(event, "value", None), str):
                event.value = event.value.translate(self._marks)
            yield event


_HUGE = object()
_STAND_IN = 1  # replaces a refused number; most keys accept it, so that it is reported once


def _plain(text: str) -> Any:
    """Return the value of an unquoted scalar, by the YAML 1.2 core schema."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if not text[-1:].isalnum() and text[-1] != ".":
        return text
    if (_INT.fullmatch(text) or _FLOAT.fullmatch(text) or _HEX.fullmatch(text)) and len(text) > MAX_DIGITS:
        return _HUGE
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return _number(text) if _FLOAT.fullmatch(text) else text


def _number(text: str) -> Any:
    value = float(text)
    return _HUGE if value in (float("inf"), float("-inf")) else value


def _mark(event: Event) -> Mark:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _syntax(error: Any, text: str) -> str:
    """Return the message of the parser, with advice where the cause is known."""
    problem = str(error.problem or error.context)
    mark = error.problem_mark
    if "'\\t'" in problem or (mark is not None and _line(text, mark.line).startswith("\t")):
        return "a tab cannot indent; use spaces"
    if "mapping values are not allowed" in problem:
        return "a second ': ' in this line; put text that holds ': ' in quotes"
    context = f" {error.context}" if error.problem and error.context else ""
    return problem + context


def _line(text: str, number: int) -> str:
    lines = text.split("\n", number + 1)
    return lines[number] if number < len(lines) else ""
