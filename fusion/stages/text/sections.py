"""Sections: material cut into numbered parts by code, their outline, and the parts that a subtask reads."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, groupby
from typing import Final, NamedTuple

from fusion.core.types import Attached, File
from fusion.models.base import estimate_tokens
from fusion.prompts.filters import fenced
from fusion.stages.text.chunks import Cutting, chunks
from fusion.stages.text.ranking import ranked

VERSION: Final = 1
"""Version of the cut. A recorded run is resumed with the version that it began with."""

MOST_NAMED: Final = 8
"""Most sections of a subtask."""

_FEWEST: Final = 3
_FEWEST_TOKENS: Final = 800
_FEWEST_HEADINGS: Final = 3
_MOST: Final = 300
_LEAST_ROOM: Final = 75  # tokens of packed sections, doubled until there are few enough
_PACKED: Final = 600  # tokens of packed paragraphs
_LONGEST: Final = 1500  # tokens of a section
_OUTLINE_TOKENS: Final = 1500
_OUTLINE_SHARE: Final = 0.06
_WORDS: Final = (12, 8, 5, 3, 0)  # of the beginning of a section, in ever shorter outlines
_TITLES: Final = (200, 60, 30, 0)  # characters of a title, in ever shorter outlines
_MOST_JOINED: Final = 3
_WORD = re.compile(r"\w+")
_NUMBERED = re.compile(r"\s*(\d{1,3})(?!\d)[\s.:)]*(.*)", re.DOTALL)


class Document(NamedTuple):
    """A document of the material: a text, or the turns of a conversation, or a file."""

    name: str
    content: str | File
    turns: tuple[str, ...] = ()


class Outline(Attached):
    """The sections of the material as a planner reads them; `sections` is their number."""

    __slots__ = ("sections",)
    sections: int


class Section(NamedTuple):
    """A part of a document. `title` is its path of headings, empty without any."""

    number: int
    document: str
    title: str
    text: str
    tokens: int
    file: File | None = None


class Sections:
    """Numbered sections of all documents of a run."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self.all = tuple(sections)
        self.tokens = sum(one.tokens for one in sections)
        self._documents = len({one.document for one in sections})

    def __len__(self) -> int:
        return len(self.all)

    @property
    def pay(self) -> bool:
        """True for material that is long enough to be read in sections, by its counts alone."""
        return len(self) >= _FEWEST and self.tokens >= _FEWEST_TOKENS

    @property
    def largest(self) -> tuple[int, ...]:
        """The numbers of the largest sections: as many as a subtask may read in two tries."""
        by_size = sorted(self.all, key=lambda one: -one.tokens)
        return tuple(one.number for one in by_size[: 2 * MOST_NAMED])

    @property
    def _most(self) -> int:
        """The most tokens of an outline."""
        return max(_OUTLINE_TOKENS, int(self.tokens * _OUTLINE_SHARE))

    def __str__(self) -> str:
        return f"{len(self)} sections, {self.tokens:,} tokens"

    def outline(self) -> Outline:
        """Return numbers, headings, sizes and first words of all sections, within the limit of an outline."""
        return self._as_outline(f"{_OF_OUTLINE.format(self)}\n\n{fenced(self._lines(), 'outline')}", ())

    def numbered(self) -> Outline:
        """Return the text of all sections under their numbers."""
        shown = self.shown(one.number for one in self.all)
        return self._as_outline(f"{_OF_NUMBERED.format(self)}\n\n{shown}", shown.files)

    def _as_outline(self, text: str, files: tuple[File, ...]) -> Outline:
        made = Outline(text, files)
        made.sections = len(self)
        return made

    def shown(self, numbers: Iterable[int]) -> Attached:
        """Return the sections of these numbers under their headings, in the order of the material."""
        chosen = [self.all[number - 1] for number in sorted(set(numbers))]
        texts = [fenced(one.text, f"section {self._label(one)}") for one in chosen if one.file is None]
        return Attached("\n\n".join(texts), tuple(one.file for one in chosen if one.file is not None))

    def headings(self) -> Outline:
        """Return the headings of all sections; with numbers, and first words, where they do not tell them apart."""
        titles = [one.title for one in self.all]
        alone = self._documents == 1 and all(titles) and len({*titles}) == len(titles)
        text = "\n".join(titles) if alone else ""
        short = alone and estimate_tokens(text) <= self._most
        return self._as_outline(fenced(text if short else self._lines(sizes=False), "headings"), ())

    def called(self, name: str) -> list[int]:
        """Return the sections that a name means: a number, a heading, or both as in an outline.

        A heading means its sections and those below it. The number tells sections of one heading
        apart, and counts alone if the words belong to no heading.
        """
        words, numbered = _words(name), _NUMBERED.match(name)
        number = int(numbered[1]) if numbered and int(numbered[1]) <= len(self) else 0
        found = self._headed(words) or (self._headed(_words(numbered[2])) if numbered else [])
        if number and (number in found or not found):
            return [number]
        return found

    def headed(self, name: str) -> list[int]:
        """Return the sections at or below a heading, or a path of headings, of this name."""
        return self._headed(_words(name))

    def _headed(self, words: list[str]) -> list[int]:
        """Return the sections at or below a path of headings, else those at or below a heading."""
        if not words:
            return []
        found = [at for at, (_, beginnings) in enumerate(self._paths, start=1) if words in beginnings]
        return found or [at for at, (path, _) in enumerate(self._paths, start=1) if words in path]

    @cached_property
    def _paths(self) -> list[tuple[list[list[str]], list[list[str]]]]:
        """The headings above each section as words, each alone, and each with those before it."""
        paths = [[_words(part) for part in one.title.split(" > ")] for one in self.all]
        return [(path, list(accumulate(path))) for path in paths]

    def title_of(self, numbers: Sequence[int]) -> str:
        """Return the heading that sections share, with the number of one that is not the only one of it."""
        first = self.all[numbers[0] - 1]
        paths = [self.all[number - 1].title.split(" > ") for number in numbers]
        shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
        heading = shared[-1] if shared and shared[-1] else ""
        if not heading:
            return f"section {first.number}"
        alike = [one for one in self.all if one.title == first.title]
        return f"{heading} (section {first.number})" if len(numbers) == 1 and len(alike) > 1 else heading

    def named_in(self, texts: Iterable[str]) -> list[int]:
        """Return the first sections whose own heading is in one of these texts."""
        words = [f" {' '.join(_words(text))} " for text in texts]
        named = [
            one.number
            for one in self.all
            if (title := " ".join(_words(one.title.rpartition(" > ")[2])))
            and any(f" {title} " in text for text in words)
        ]
        return named[:_MOST_JOINED]

    def found(self, query: str, *, seen: Iterable[int], count: int) -> list[int]:
        """Return the best sections for a query that are not among those `seen`."""
        order = ranked(query, [f"{one.title}\n{one.text}" for one in self.all])
        unseen = set(seen)
        return [at + 1 for at in order if at + 1 not in unseen][:count]

    def _label(self, section: Section) -> str:
        return f"{section.number} of {section.document}" if self._documents > 1 else str(section.number)

    def _lines(self, *, sizes: bool = True) -> str:
        """Return the longest outline within the limit; the shortest has numbers and sizes only."""
        titles = Counter((one.document, one.title) for one in self.all)
        text = ""
        for title, words in ((title, words) for title in _TITLES for words in _WORDS):
            text = "\n".join(self._line(one, titles, title, words, sizes=sizes) for one in self.all)
            if estimate_tokens(text) <= self._most:
                break
        return text

    def _line(self, one: Section, titles: Counter[tuple[str, str]], most: int, words: int, *, sizes: bool) -> str:
        name = f"{one.document}: {one.title}" if self._documents > 1 and one.title else one.title or one.document
        told = one.title != "" and titles[one.document, one.title] == 1
        begin = "" if told or one.file is not None else _beginning(one.text, words)
        heading = f" {_shortened(name, most)}" if most else ""
        size = f" ({one.tokens} tokens)" if sizes else ""
        return f"{one.number}{heading}{size}{f': {begin}' if begin else ''}"


_OF_OUTLINE: Final = (
    "The material has {}. You read its outline only. Each subtask names the sections that its work needs under "
    f"`sections`: their numbers, at most {MOST_NAMED}; [] if it needs none. Who does a subtask reads these sections "
    "and the results that it needs, and nothing else of the material. A subtask that joins results needs no sections."
)
_OF_NUMBERED: Final = (
    "The material has {}, each under its number. Each subtask names the sections that its work needs under "
    f"`sections`: their numbers, at most {MOST_NAMED}; [] if it needs none. Who does a subtask reads these sections "
    "and the results that it needs, and nothing else of the material."
)


def cut(documents: Sequence[Document]) -> Sections:
    """Cut documents into at most 300 sections, numbered over all of them; a file is one section."""
    room = 0
    while True:
        parts = [part for document in documents for part in _parts(document, room)]
        texts = sum(part.file is None for part in parts)
        if texts <= _MOST:
            return Sections([part._replace(number=at) for at, part in enumerate(parts, start=1)])
        room = 2 * room or _LEAST_ROOM


def _parts(document: Document, room: int) -> Iterator[Section]:
    """Yield the sections of a document, without numbers; neighbours are packed to `room` tokens."""
    name, content = document.name, document.content
    if isinstance(content, File):
        yield Section(0, name, content.name or content.kind, "", content.size, content)
    elif document.turns:
        for turn in document.turns:  # few, and each one is a section
            yield Section(0, name, "", turn, estimate_tokens(turn))
    else:
        longest = max(_LONGEST, 2 * room)
        pieces = chunks(content, Cutting(by="headings", size=longest)) if content.strip() else []
        headed = len({tuple(piece["headings"]) for piece in pieces if piece["headings"]}) >= _FEWEST_HEADINGS
        if not headed:
            pieces = chunks(content, Cutting(by="paragraphs", size=longest)) if content.strip() else []
        spans = [(piece["start"], piece["end"], " > ".join(piece["headings"])) for piece in pieces]
        for start, end, title in _packed(content, spans, room if headed else max(room, _PACKED)):
            yield Section(0, name, title, content[start:end], estimate_tokens(content[start:end]))


def _packed(text: str, spans: Sequence[tuple[int, int, str]], room: int) -> Iterator[tuple[int, int, str]]:
    """Join neighbours while they have at most `room` tokens; their title goes from the first to the last one."""
    held: tuple[int, int, str] | None = None
    used, last = 0, ""
    for start, end, title in spans:
        size = estimate_tokens(text[start:end])
        if held is not None and used + size <= room:
            held, used, last = (held[0], end, held[2]), used + size, title or last
            continue
        if held is not None:
            yield _titled(held, last)
        held, used, last = (start, end, title), size, title
    if held is not None:
        yield _titled(held, last)


def _titled(span: tuple[int, int, str], last: str) -> tuple[int, int, str]:
    """Return the span with a title that names its first heading and its last one."""
    start, end, first = span
    return start, end, first if first == last else f"{first} … {last}" if first else f"… {last}"


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _beginning(text: str, count: int) -> str:
    """Return the first words of a text in one line, of at most 120 characters."""
    words = text[:2000].replace("#", " ").split(maxsplit=count)[:count] if count else []
    return _shortened(" ".join(words), 120) + (" …" if words else "")


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges in words: 1, 3 to 5."""
    found = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        ends = [number for _, number in run]
        found.append(str(ends[0]) if len(ends) == 1 else f"{ends[0]} to {ends[-1]}")
    return ", ".join(found)
