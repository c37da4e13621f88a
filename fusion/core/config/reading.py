"""Reading: a fusion.toml with the position of each key, and every mistake in it."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from fusion.core.config.tables import SettingsFile
from fusion.core.errors import Problem, UsageError
from fusion.core.paths import read_text
from fusion.core.validation import Mistake, keys_at, misread, mistakes
from fusion.core.yaml import Place

_KEY: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEYS: Final = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_TABLE: Final = re.compile(rf"\s*\[\[?\s*({_KEYS})\s*\]")
_PAIR: Final = re.compile(rf"\s*({_KEYS})\s*=")
_INLINE: Final = re.compile(rf"[{{,]\s*({_KEYS})\s*=")
_PART: Final = re.compile(_KEY)
_WHERE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

Mark = tuple[int, int]
Marks = Mapping[Place, Mark]
T = TypeVar("T", bound=BaseModel)


class Source(NamedTuple):
    """A fusion.toml: its checked content, its plain data, the position of each key, and its text."""

    path: Path
    content: SettingsFile
    data: Mapping[str, Any]
    marks: Marks
    text: str


def load_file(path: Path) -> Source:
    """Read a fusion.toml. Raises UsageError with every mistake in it."""
    text, data = parsed(path)
    content, marks = checked(path, SettingsFile, text, data)
    return Source(path, content, data, marks, text)


def parsed(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text and data of a TOML file. Raises UsageError if it cannot be read."""
    text = read_text(path)
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(str(_unreadable(path, text, str(error)))) from error


def checked(path: Path, kind: type[T], text: str, data: Mapping[str, Any]) -> tuple[T, Marks]:
    """Return a TOML file's data as a value, and the position of each key. Raises UsageError with every mistake."""
    marks = dict(_marks(text))
    found: list[Mistake] = []
    try:
        content = kind.model_validate(data, by_alias=True, by_name=False)
        found += misread(data, content)
    except ValidationError as error:
        found += mistakes(error, data, lambda place: keys_at(kind, place))
    if found:
        problems = sorted(_problem(path, mistake, marks) for mistake in found)
        raise UsageError("\n".join(str(problem) for problem in problems))
    return content, marks


def _unreadable(path: Path, text: str, words: str) -> Problem:
    where = _WHERE.search(words)
    line, column = (int(where[1]), int(where[2])) if where and where[1] else (text.count("\n") + 1, 1)
    said = _WHERE.sub("", words)
    return Problem(str(path), line, column, "", f"invalid TOML: {said[:1].lower()}{said[1:]}")


def _problem(path: Path, mistake: Mistake, marks: Marks) -> Problem:
    place = mistake.place
    while place and place not in marks:
        place = place[:-1]
    line, column = marks.get(place, (1, 1))
    return Problem(str(path), line, column, ".".join(map(str, mistake.place)), mistake.message)


def _marks(text: str) -> Iterator[tuple[Place, Mark]]:
    """Yield every key of a TOML text with its line and column, except inside multi-line strings."""
    table: Place = ()
    ends: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if ends is not None:
            ends = None if ends in line else ends
        elif found := _TABLE.match(line):
            table = _parts(found[1])
            yield table, (number, found.start(1) + 1)
        elif found := _PAIR.match(line):
            place = table + _parts(found[1])
            yield place, (number, found.start(1) + 1)
            for inner in _INLINE.finditer(line, found.end()):
                yield place + _parts(inner[1]), (number, inner.start(1) + 1)
            ends = next((quotes for quotes in ('"""', "'''") if line.count(quotes) % 2), None)


def _parts(keys: str) -> Place:
    return tuple(part.strip("\"'") for part in _PART.findall(keys))
