"""Walk: the regular files of a folder or a pattern, in the order of their paths."""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from fusion.core.errors import InputError

_MAGIC: Final = frozenset("*?[")
_ANY: Final = "**"


class Found(NamedTuple):
    """A file, and its path relative to the folder that was walked."""

    path: Path
    key: str


class Pattern(NamedTuple):
    """A folder, and the pattern of the paths within it by their parts; `**` is any number of folders."""

    folder: Path
    parts: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> "Pattern":
        """Split a pattern such as `docs/*.md` before its first part with a wildcard; a folder holds all its files."""
        plain = 0
        while plain < len(path.parts) and not is_pattern(path.parts[plain]):
            plain += 1
        parts = path.parts[plain:] or (_ANY,)
        return cls(Path(*path.parts[:plain]), (*parts, "*") if parts[-1] == _ANY else parts)

    @property
    def text(self) -> str:
        """The pattern with its absolute folder."""
        return str(self.folder.resolve().joinpath(*self.parts))

    def files(self) -> Iterator[Found]:
        """Yield the files that match. Raises InputError for a folder that cannot be read."""
        return self._files(self.folder, ())

    def holds(self, path: Path) -> bool:
        """Return True if this file matches, or would if it existed."""
        try:
            parts = (path.parent.resolve() / path.name).relative_to(self.folder.resolve()).parts
        except ValueError:
            return False
        return _match(parts, self.parts)

    def _files(self, folder: Path, above: tuple[str, ...]) -> Iterator[Found]:
        for entry in _entries(folder):
            parts = (*above, entry.name)
            if entry.is_dir(follow_symlinks=_ANY not in self.parts):
                if _may_hold(parts, self.parts):
                    yield from self._files(folder / entry.name, parts)
            elif entry.is_file() and _match(parts, self.parts):
                yield Found(folder / entry.name, key_of(parts))


def is_pattern(text: str) -> bool:
    """Return True for a text with a wildcard of shells."""
    return not _MAGIC.isdisjoint(text)


def key_of(parts: tuple[str, ...]) -> str:
    """Return a relative path as text, with escapes for bytes that are not UTF-8."""
    return os.fsencode("/".join(parts)).decode("utf-8", "backslashreplace")


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror}") from error


def _match(names: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Return True if the parts of a path match those of a pattern; hidden ones only where the pattern names them."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == _ANY:
        return _match(names, parts[1:]) or (not names[0].startswith(".") and _match(names[1:], parts))
    return _fits(names[0], parts[0]) and _match(names[1:], parts[1:])


def _may_hold(names: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Return True if a folder may hold files that match."""
    if not names or not parts:
        return bool(parts)
    if parts[0] == _ANY:
        return not names[0].startswith(".") or (len(parts) > 1 and _may_hold(names, parts[1:]))
    return _fits(names[0], parts[0]) and _may_hold(names[1:], parts[1:])


def _fits(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
