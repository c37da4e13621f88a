"""Chunks of a document: their bounds, headings and surrounding text."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from fusion.core.bounded import clock
from fusion.models.base import estimate_tokens

By = Literal["tokens", "paragraphs", "headings", "separator"]

_BYTES = 4  # of a token, as in `estimate_tokens`
_UNDERLINE = re.compile(r" {0,3}(=+|-{3,})[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_BREAKS = ("\n\n", "\r\n\r\n", "\n", ". ", "! ", "? ", "。", " ")
_NO_TITLE = (">", "-", "*", "+", "|")
_LONG = 1000  # characters: a longer line is not a heading


class Cutting(NamedTuple):
    """Settings of a cut. Sizes are in tokens; `pack` joins neighbouring units into one chunk while they fit."""

    by: By
    size: int
    overlap: int = 0
    pack: bool = False
    separator: str = ""
    around: int = 0


class _Heading(NamedTuple):
    start: int
    end: int
    level: int
    title: str


Span = tuple[int, int]


def chunks(text: str, cutting: Cutting) -> list[dict[str, Any]]:
    """Return the chunks of a text in their order; without overlap they add up to the text.

    `start` and `end` count characters. No chunk has more than `size` tokens (four bytes each), its overlap included.
    """
    headings = list(_headings(text))
    room = (cutting.size - cutting.overlap) * _BYTES
    units = _units(text, cutting, headings)
    spans = [span for unit in units for span in _within(text, unit, room)]
    if cutting.pack:
        spans = _packed(text, spans, room)
    return list(_described(text, spans, headings, cutting))


# Bounds of units.


def _units(text: str, cutting: Cutting, headings: Sequence[_Heading]) -> list[Span]:
    match cutting.by:
        case "tokens":
            starts: list[int] = []
        case "paragraphs":
            starts = list(_paragraphs(text))
        case "headings":
            starts = list(_sections(text, headings))
        case "separator":
            starts = list(_behind(text, cutting.separator))
    cuts = sorted({0, *starts, len(text)})
    return _without_blank(text, pairwise(cuts), cutting.separator)


def _without_blank(text: str, spans: Iterable[Span], separator: str) -> list[Span]:
    """Return the spans, blank ones joined to the one before, or at the beginning to the next."""
    joined: list[Span] = []
    begin = 0
    for start, end in spans:
        words = text[start:end].replace(separator, "") if separator else text[start:end]
        if words and not words.isspace():
            joined.append((begin if not joined else start, end))
        elif joined:
            joined[-1] = (joined[-1][0], end)
    return joined or ([(0, len(text))] if text else [])


def _lines(text: str) -> Iterator[Span]:
    """Yield start and end of each line, its line break included."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield start, end
        start = end


def _paragraphs(text: str) -> Iterator[int]:
    """Yield the start of each paragraph; the blank lines after one belong to it."""
    blank = False
    for start, end in _lines(text):
        if text[start:end].isspace():
            blank = True
            continue
        if blank:
            yield start
        blank = False


def _sections(text: str, headings: Sequence[_Heading]) -> Iterator[int]:
    """Yield the start of each section; a heading directly above a deeper one is in the section of that one."""
    above: _Heading | None = None
    for heading in headings:
        if above is None or not _leads_to(text, above, heading):
            yield heading.start
        above = heading


def _leads_to(text: str, above: _Heading, heading: _Heading) -> bool:
    """Return True if a heading is deeper than the one above it, with nothing between them."""
    return heading.level > above.level and not text[above.end : heading.start].strip()


def _cited(text: str, headings: Sequence[_Heading], begun: int, first: int) -> int:
    """Return the number of headings up to the one that a chunk cites: the deepest of those at its beginning."""
    while 0 < begun < len(headings) and headings[begun - 1].start == first:
        if not _leads_to(text, headings[begun - 1], headings[begun]):
            break
        first = headings[begun].start
        begun += 1
    return begun


def _behind(text: str, separator: str) -> Iterator[int]:
    at = text.find(separator)
    while at >= 0:
        at += len(separator)
        yield at
        at = text.find(separator, at)


def _headings(text: str) -> Iterator[_Heading]:
    """Yield the Markdown headings, `# so` or underlined, outside of fenced code."""
    fence = ""
    before: Span | None = None  # the line above if it may be a title
    for start, end in _lines(text):
        clock.check()
        line = text[start:end].rstrip("\r\n") if end - start < _LONG else ""
        if fence:
            fence = "" if _closes(line, fence) else fence
        elif fence := _opened(line):
            before = None
        elif before is not None and (under := _UNDERLINE.fullmatch(line)) and _underlines(text, before[0], line):
            yield _Heading(before[0], end, 1 if under[1][0] == "=" else 2, text[slice(*before)].strip())
            before = None
        elif (level := _level(line)) is not None:
            yield _Heading(start, end, level, _title(line))
            before = None
        else:
            before = (start, end) if _may_be_title(line) else None


def _level(line: str) -> int | None:
    """Return the level of a line that begins with one to six `#`; None if it is not a heading."""
    marked = line.lstrip(" ")
    words = marked.lstrip("#")
    level = len(marked) - len(words)
    return level if len(line) - len(marked) <= 3 and 1 <= level <= 6 and words[:1] in ("", " ", "\t") else None


def _title(line: str) -> str:
    title = line.strip().lstrip("#").strip()
    open_ended = title.rstrip("#")
    return open_ended.rstrip() if not open_ended or open_ended[-1] in " \t" else title


def _may_be_title(line: str) -> bool:
    words = line.strip()
    return bool(words) and not words.startswith(_NO_TITLE)


def _underlines(text: str, start: int, line: str) -> bool:
    """Return True if the line below a title underlines it: `===` always, other marks below a title of one line."""
    return line.strip().startswith("===") or _is_blank_above(text, start)


def _is_blank_above(text: str, start: int) -> bool:
    """Return True if the line above is blank or missing: a title is one line."""
    above = text.rfind("\n", 0, max(start - 1, 0)) + 1
    return start == 0 or text[above:start].isspace()


def _opened(line: str) -> str:
    """Return the fence that a line opens; empty if it opens none."""
    found = _FENCE.fullmatch(line)
    return found[1] if found and not (found[1][0] == "`" and "`" in found[2]) else ""


def _closes(line: str, fence: str) -> bool:
    found = _FENCE.fullmatch(line)
    return bool(found and found[1][0] == fence[0] and len(found[1]) >= len(fence) and not found[2].strip())


# Sizes.


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def _within(text: str, unit: Span, room: int) -> Iterator[Span]:
    """Yield the unit in pieces of at most `room` bytes."""
    start, end = unit
    while start < end:
        at = _reach(text, start, end, room)
        if at < end:
            at = _break(text, start, at)
        yield start, at
        start = at


def _reach(text: str, start: int, end: int, room: int) -> int:
    """Return the end of `room` bytes from `start`, never inside a character or a line break."""
    end = min(end, start + room)
    raw = text[start:end].encode(errors="replace")
    if len(raw) > room:
        end = start + len(raw[:room].decode(errors="ignore"))
    if end < len(text) and end - start > 1 and text[end - 1] == "\r" and text[end] == "\n":
        end -= 1
    return end


def _break(text: str, start: int, end: int) -> int:
    """Return the best cut in the second half: after a paragraph, a line, a sentence, a word; else the end."""
    half = start + (end - start) // 2
    for mark in _BREAKS:
        at = text.rfind(mark, half, end)
        if at >= 0:
            return at + len(mark)
    return end


def _packed(text: str, spans: Sequence[Span], room: int) -> list[Span]:
    packed: list[Span] = []
    used = 0
    for start, end in spans:
        size = _size(text[start:end])
        if packed and used + size <= room:
            packed[-1] = (packed[-1][0], end)
            used += size
        else:
            packed.append((start, end))
            used = size
    return packed


# Descriptions.


def _described(
    text: str, spans: Sequence[Span], headings: Sequence[_Heading], cutting: Cutting
) -> Iterator[dict[str, Any]]:
    paths = _paths(headings)
    starts = [heading.start for heading in headings]
    for number, (core, end) in enumerate(spans, start=1):
        start = _back(text, core, cutting.overlap)
        first = core + len(text[core:end]) - len(text[core:end].lstrip())
        path = paths[_cited(text, headings, bisect_right(starts, first), first)]
        chunk = text[start:end]
        yield {
            "text": chunk,
            "title": " > ".join(path) or f"Part {number} of {len(spans)}",
            "number": number,
            "count": len(spans),
            "start": start,
            "end": end,
            "overlap": core - start,
            "tokens": estimate_tokens(chunk),
            "headings": list(path),
            "before": text[_back(text, start, cutting.around) : start],
            "after": text[end : _on(text, end, cutting.around)],
        }


def _paths(headings: Sequence[_Heading]) -> list[tuple[str, ...]]:
    """Return the path of titles before the first heading, after it, after the second, and so on."""
    paths: list[tuple[str, ...]] = [()]
    above: list[_Heading] = []
    for heading in headings:
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        paths.append(tuple(one.title for one in above if one.title))
    return paths


def _back(text: str, start: int, tokens: int) -> int:
    """Return the start of about so many tokens before `start`, at a word if possible."""
    room = tokens * _BYTES
    window = text[max(start - room, 0) : start]
    raw = window.encode(errors="replace")
    kept = raw[len(raw) - room :].decode(errors="ignore") if len(raw) > room else window
    if len(kept) == start:
        return 0
    space = re.search(r"\s", kept)
    words = kept[space.start() :].lstrip() if space else ""
    return start - len(words or kept)


def _on(text: str, end: int, tokens: int) -> int:
    """Return the end of about so many tokens after `end`, at a word if possible."""
    at = _reach(text, end, len(text), tokens * _BYTES) if tokens else end
    if at == len(text):
        return at
    space = text.rfind(" ", end, at)
    return space if space > end else at
