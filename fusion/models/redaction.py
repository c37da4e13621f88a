"""Masks: no key of the environment comes out of a provider's text, whole or in pieces, plain or quoted."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final, NamedTuple

from fusion.core.config import secrets

LEAST: Final = 8
"""Characters of the shortest key that is masked: shorter ones are placeholders, and would mangle any text."""
_UNNAMED: Final = "key"
_TELLING: Final = 4
"""Characters by which a key is looked for: of fewer, a text holds many that begin none."""


class Masks:
    """The mask of each call: the environment's keys as they are then.

    `named` are variables that hold keys though their names do not say so; `given` is a key that is in no variable.
    """

    def __init__(self, named: Collection[str] = (), given: str | None = None) -> None:
        self._named = named
        self._given = {} if given is None else {given: _UNNAMED}
        self._last = Mask({})

    def now(self) -> "Mask":
        keys = dict(self._given)
        for name, value in secrets(self._named).items():
            keys[value.strip()] = name
        if keys != self._last.keys:
            self._last = Mask(keys)
        return self._last


class Mask:
    """Puts `[NAME]` in place of every key in a text; `keys` are the names by their keys.

    A key is found as it is, and also where any of its characters are URL-quoted or JSON-escaped. One that the end of
    a text has cut off is taken for a key from half its length on.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.keys = dict(keys)
        long = sorted((key for key in keys if len(key) >= LEAST), key=len, reverse=True)
        self._keys = [_Key(key, keys[key]) for key in long]
        self._starts = re.compile("|".join(dict.fromkeys(map(_start, long))) or r"(?!)")

    def also(self, sent: Iterable[str]) -> "Mask":
        """This mask, and for these keys, of which no variable is known."""
        unknown = {key: _UNNAMED for key in sent if len(key) >= LEAST and key not in self.keys}
        return Mask({**self.keys, **unknown}) if unknown else self

    def text(self, text: str) -> str:
        """The text without its keys."""
        return self.split(text, more=False)[0]

    def split(self, text: str, *, more: bool) -> tuple[str, str]:
        """The text without its keys and, if `more` is to come, its end apart where a key may begin there."""
        found = self._starts.search(text)
        if found is None:
            return text, ""
        parts: list[str] = []
        done = 0
        while found is not None:
            at = found.start()
            key = self._key_at(text, at, more=more)
            if key is not None and not key.whole:
                return "".join((*parts, text[done:at])), text[at:]
            if key is not None:
                parts += text[done:at], f"[{key.name}]"
                done = key.end
            found = self._starts.search(text, at + 1 if key is None else done)
        return "".join((*parts, text[done:])), ""

    def _key_at(self, text: str, at: int, *, more: bool) -> "_Found | None":
        cut: _Found | None = None
        for key in self._keys:
            read, end = key.read(text, at)
            if read == len(key.forms):
                return _Found(key.name, end)
            if end and more:
                return _Found(key.name, end, whole=False)
            if end and cut is None and read >= max(LEAST, len(key.forms) / 2):
                cut = _Found(key.name, end)
        return cut


class MaskedPieces:
    """Masks a text that comes in pieces: what may be the beginning of a key is kept back until that is known."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._kept = ""

    def add(self, piece: str) -> str:
        """What can be given out now that this piece has come."""
        text, self._kept = self._mask.split(self._kept + piece, more=True)
        return text

    def end(self) -> str:
        """What is left when no more comes."""
        kept, self._kept = self._kept, ""
        return self._mask.text(kept)


class _Found(NamedTuple):
    """A key in a text and where it ends; one that is not whole yet may turn out to be none."""

    name: str
    end: int
    whole: bool = True


class _Key:
    """One key, and the forms that each of its characters may have."""

    def __init__(self, key: str, name: str) -> None:
        self.name = name
        self._key = key

    @cached_property
    def forms(self) -> list[tuple[str, ...]]:
        return [_forms(char) for char in self._key]

    def read(self, text: str, at: int) -> tuple[int, int]:
        """How many of the key's characters stand in the text from `at` on, and where they end.

        The end is 0 where something else follows, and the text's own where it ends before the key does.
        """
        ends = {at}
        for number, forms in enumerate(self.forms):
            following = {end + len(form) for end in ends for form in forms if text.startswith(form, end)}
            if not following:
                is_cut = any(form.startswith(text[end : end + len(form)]) for end in ends for form in forms)
                return number, len(text) if is_cut else 0
            ends = following
        return len(self.forms), max(ends)


def _forms(char: str) -> tuple[str, ...]:
    """A character as it is, URL-quoted, and as JSON may have it."""
    quoted = "".join(f"%{byte:02x}" for byte in char.encode(errors="surrogateescape"))
    escaped = "".join(f"\\u{unit:04x}" for unit in _units(char))
    forms = [char, quoted, quoted.upper(), escaped, "\\u".join(escaped.upper().split("\\U"))]
    if char in '"/\\':
        forms.append(f"\\{char}")
    return tuple(dict.fromkeys(forms))


def _units(char: str) -> Iterator[int]:
    raw = char.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2))


def _start(key: str) -> str:
    """A pattern of what may be the start of the key, or of its start at a text's end."""
    pattern = re.escape(key[_TELLING - 1])  # each way begins with a letter, for which the library looks quickly
    for char in reversed(key[: _TELLING - 1]):
        pattern = f"{re.escape(char)}(?:{pattern}|[%\\\\]|\\Z)"
    return "|".join((pattern, *map(_quoted_start, _forms(key[0])[1:])))


def _quoted_start(form: str) -> str:
    return rf"{re.escape(form[0])}(?:{re.escape(form[1:])}|[\w%\\]{{0,{len(form) - 2}}}\Z)"
