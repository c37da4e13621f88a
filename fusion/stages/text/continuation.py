"""Continuation of truncated texts: joins the pieces so that no word is lost or repeated."""

import re
from collections.abc import Iterator

from fusion.core.types import Deltas

_WORDS = 8
_TAIL = 2_000  # characters at the end of the text that are searched for a repeated piece
_LEAD = 40  # characters before the repeated words that count as an introduction
_WORD = re.compile(r"\S+")


def ending(written: str) -> str:
    """Return the last whole words of a text, with which its continuation should begin."""
    start, end = _cue(written)
    return written[start:end]


def joined(written: str, piece: str) -> str:
    """Return the text with its continuation; the text alone if the piece adds nothing.

    A piece that repeats the last whole words, as the prompt asks, is joined after them: a word that was cut in two is
    restored. Otherwise the overlap of the text's end and the piece's beginning counts once.
    """
    if (taken := _taken_up(written, piece)) is not None:
        return taken
    begin = piece.lstrip()
    if len(begin) >= _LEAD and begin.rstrip() in written:
        return written
    for start in _word_starts(written):
        shared = written[start:].rstrip()
        if begin.startswith(shared) and _is_repeat(shared, begin, piece):
            rest = begin[len(shared) :]
            return written.rstrip() + rest if rest.strip() else written
    gap = " " if written[-1:] in (".", "!", "?", ",", ";") and piece[:1].isupper() else ""
    return written + gap + piece


class Stitches:
    """Stitches: joins the pieces of an answer while they are streamed, and passes the result on.

    A continuation is held back until its joint with the text is found. `written` is the answer so far.
    """

    def __init__(self, to: Deltas | None) -> None:
        self.written = ""
        self._to = to
        self._shown = ""
        self._piece = ""
        self._live = True

    @property
    def committed(self) -> bool:
        return self._to is not None and self._to.committed

    def add(self, text: str) -> None:
        if self._live:
            self._shown += text
            if self._to is not None:
                self._to.add(text)
            return
        self._piece += text
        taken = _taken_up(self.written, self._piece)
        if taken is not None and not self._shown.startswith(taken):
            self._live = True
            self._show(taken)

    def restart(self) -> None:
        self._piece = ""
        if self._shown != self.written:
            self._begin_again(self.written)
        self._live = not self.written

    def take(self, piece: str) -> bool:
        """Take a complete piece. Return True if it adds anything."""
        before, self._piece = self.written, ""
        self.written = joined(before, piece) if before else piece
        self._show(self.written)
        self._live = False
        return self.written != before

    def begin_again(self) -> None:
        """Drop the answer: another model writes it from its beginning."""
        self.written, self._piece, self._live = "", "", True
        if self._shown:
            self._begin_again("")

    def _show(self, text: str) -> None:
        if self._to is None:
            return
        if not text.startswith(self._shown):
            self._begin_again(text)
        elif text != self._shown:
            self._to.add(text[len(self._shown) :])
            self._shown = text

    def _begin_again(self, text: str) -> None:
        if self._to is not None:
            self._to.restart()
            if text:
                self._to.add(text)
        self._shown = text


def _cue(written: str) -> tuple[int, int]:
    """Return start and end of the last whole words; of a text without words those of its last characters."""
    offset = max(len(written) - _TAIL, 0)
    words = [(offset + word.start(), offset + word.end()) for word in _WORD.finditer(written[offset:])]
    if offset and words:
        del words[0]  # it may be cut by the offset
    if words and written[-1:].isalnum():
        del words[-1]  # it may be cut by the limit
    if not words:
        return max(len(written) - 24, 0), len(written)
    return words[-_WORDS:][0][0], words[-1][1]


def _taken_up(written: str, piece: str) -> str | None:
    """Return the text joined after its last whole words if the piece repeats them, else None."""
    start, end = _cue(written)
    cue = written[start:end].split()
    found = re.search(r"\s+".join(map(re.escape, cue)), piece) if len(cue) > 1 or end - start >= 12 else None
    if found is None:
        return None
    lead, rest = piece[: found.start()].strip(), piece[found.end() :]
    if len(lead) > _LEAD and lead not in written:
        return None
    return written[:end] + rest if rest.strip() else written


def _word_starts(written: str) -> Iterator[int]:
    """Return the starts of the words at the end of a text, in their order."""
    offset = max(len(written) - _TAIL, 0)
    return (offset + word.start() for word in _WORD.finditer(written[offset:]))


def _is_repeat(shared: str, begin: str, piece: str) -> bool:
    """Return True if the overlap is a repetition, and not one word that was cut in two."""
    words = shared.count(" ") + shared.count("\n") + 1
    if piece[:1].isspace():
        return words >= 3
    follows = begin[len(shared) : len(shared) + 1]
    if words >= 2 or len(shared) >= 4:
        return True
    return len(shared) >= 2 and shared.isalpha() and not follows.isalnum()  # "3" and "3 of" may well be a 33
