"""Joins the pieces of an answer that was cut off and continued, so that no word is lost or said twice."""

import re
from collections.abc import Iterator

from fusion.core.types import Deltas

_WORDS = 8
_TAIL = 2_000  # characters of what is written in which a repeated piece is looked for
_LEAD = 40  # characters before the repeated words that are taken for an introduction
_WORD = re.compile(r"\S+")


def ending(written: str) -> str:
    """The last whole words of a text, which its continuation is to begin with."""
    start, end = _cue(written)
    return written[start:end]


def joined(written: str, piece: str) -> str:
    """The text and its continuation as one; the text as it was if the piece says nothing new.

    A piece that begins with the last words again, as it was asked to, takes up behind them: a word that was cut in
    two stands there whole. Otherwise what the end of the text and the beginning of the piece share counts once.
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
    """Puts an answer together out of its pieces while they come, and shows it to whoever follows.

    Of a continuation nothing is shown before it is clear where it takes up. `written` is the answer so far.
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
        """A piece is here whole. True if it said anything new."""
        before, self._piece = self.written, ""
        self.written = joined(before, piece) if before else piece
        self._show(self.written)
        self._live = False
        return self.written != before

    def begin_again(self) -> None:
        """Somebody else writes the answer from its beginning."""
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
    """Where the last whole words begin and end; of a text without words its last characters."""
    offset = max(len(written) - _TAIL, 0)
    words = [(offset + word.start(), offset + word.end()) for word in _WORD.finditer(written[offset:])]
    if offset and words:
        del words[0]  # which may have been cut by us
    if words and written[-1:].isalnum():
        del words[-1]  # which may have been cut by the limit
    if not words:
        return max(len(written) - 24, 0), len(written)
    return words[-_WORDS:][0][0], words[-1][1]


def _taken_up(written: str, piece: str) -> str | None:
    """The text as the piece goes on behind the last whole words, if it says them again."""
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
    """Where the words of its end begin, the first of them first."""
    offset = max(len(written) - _TAIL, 0)
    return (offset + word.start() for word in _WORD.finditer(written[offset:]))


def _is_repeat(shared: str, begin: str, piece: str) -> bool:
    """True where what end and beginning share is said twice, rather than one word that was cut in two."""
    words = shared.count(" ") + shared.count("\n") + 1
    if piece[:1].isspace():
        return words >= 3
    follows = begin[len(shared) : len(shared) + 1]
    if words >= 2 or len(shared) >= 4:
        return True
    return len(shared) >= 2 and shared.isalpha() and not follows.isalnum()  # "3" and "3 of" may well be a 33
