"""Redaction: removes the keys of the environment from texts of providers, whole or streamed, plain or quoted."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final, NamedTuple

from fusion.core.config import Watch

LEAST: Final = 8
"""Length of the shortest masked key: shorter ones are placeholders, and would mangle any text."""
_UNNAMED: Final = "key"
_TELLING: Final = 4
"""Characters that start the search for a key; fewer would match too often."""


class Redactor:
    """Returns the mask of each call, with the current keys of the environment.

    `named` are variables that hold keys, whatever their names; `given` is a key outside the environment.
    """

    def __init__(self, named: Collection[str] = (), given: str | None = None) -> None:
        self._watch = Watch(named)
        self._given = {} if given is None else {given: _UNNAMED}
        self._from: Mapping[str, str] | None = None
        self._last = Mask({})

    def mask(self) -> "Mask":
        """Return the mask of the current keys."""
        found = self._watch.current()
        if found is not self._from:
            keys = {**self._given, **{value.strip(): name for name, value in found.items()}}
            self._from, self._last = found, Mask(keys)
        return self._last


class Mask:
    """Replaces every key in a text with `[NAME]`; `keys` maps each key to its name.

    A key is also found if any of its characters are URL-quoted or JSON-escaped. A key truncated by the end of the
    text is masked from half its length on.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.keys = dict(keys)
        long = sorted((key for key in keys if len(key) >= LEAST), key=len, reverse=True)
        self._keys = [_Key(key, keys[key]) for key in long]
        self._starts = re.compile("|".join(dict.fromkeys(map(_start, long))) or r"(?!)")

    def also(self, sent: Iterable[str]) -> "Mask":
        """Return this mask, extended by keys that are in no variable."""
        unknown = {key: _UNNAMED for key in sent if len(key) >= LEAST and key not in self.keys}
        return Mask({**self.keys, **unknown}) if unknown else self

    def text(self, text: str) -> str:
        """Return the text with its keys masked."""
        return self.split(text, more=False)[0]

    def split(self, text: str, *, more: bool) -> tuple[str, str]:
        """Return the masked text and, if `more` follows, the unmasked end that may be the start of a key."""
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


class StreamMask:
    """Masks a streamed text, holding back chunks that may be the start of a key."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._kept = ""

    def add(self, piece: str) -> str:
        """Add a chunk; return the masked text that is safe to pass on."""
        text, self._kept = self._mask.split(self._kept + piece, more=True)
        return text

    def end(self) -> str:
        """Return the rest of the masked text at the end of the stream."""
        kept, self._kept = self._kept, ""
        return self._mask.text(kept)


class _Found(NamedTuple):
    """A key in a text and its end; an incomplete one may turn out to be something else."""

    name: str
    end: int
    whole: bool = True


class _Key:
    """One key, with the forms of each of its characters."""

    def __init__(self, key: str, name: str) -> None:
        self.name = name
        self._key = key

    @cached_property
    def forms(self) -> list[tuple[str, ...]]:
        return [_forms(char) for char in self._key]

    def read(self, text: str, at: int) -> tuple[int, int]:
        """Return the number of the key's characters found in the text from `at` on, and their end.

        The end is 0 if other text follows, and the end of the text if that comes before the end of the key.
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
    """Return a character plain, URL-quoted and JSON-escaped."""
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
    """Return a pattern for the start of the key, also if truncated by the end of the text."""
    pattern = re.escape(key[_TELLING - 1])  # each branch begins with a letter, which `re` finds fast
    for char in reversed(key[: _TELLING - 1]):
        pattern = f"{re.escape(char)}(?:{pattern}|[%\\\\]|\\Z)"
    return "|".join((pattern, *map(_quoted_start, _forms(key[0])[1:])))


def _quoted_start(form: str) -> str:
    return rf"{re.escape(form[0])}(?:{re.escape(form[1:])}|[\w%\\]{{0,{len(form) - 2}}}\Z)"
