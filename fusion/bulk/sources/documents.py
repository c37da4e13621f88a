"""Documents: files as INPUTS, each of them one row."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fusion.bulk.sources.base import RowSource, SourceRow
from fusion.bulk.sources.walk import Found, Pattern, key_of
from fusion.core.errors import InputError
from fusion.pipeline.inputs.media import file_at
from fusion.pipeline.rows.parsing import MAX_ROW

Files = Callable[[], Iterator[Found]]


class Documents(RowSource):
    """Files, each a row with its `path` and its `text`, or its `file` if it is a picture or a document.

    A file that cannot be read is a row with a problem. The names are listed at every pass, one folder at a time.
    """

    is_files = True

    def __init__(self, files: Files, *, name: str, identity: str, holds: Callable[[Path], bool], media: bool) -> None:
        self.name = name
        self.identity = identity
        self.columns = ("path", "file" if media else "text")
        self._files = files
        self._holds = holds
        self._media = media
        self._done = 0
        self._total = sum(1 for _ in files())
        if not self._total:
            raise InputError(f"no files match {name!r}; hidden ones do not count")

    def rows(self) -> Iterator[SourceRow]:
        self._done = 0
        for found in self._files():
            yield self._row(found)
            self._done += 1

    def paths_if(self, table: Callable[[Path], bool]) -> list[Path] | None:
        """Return the files if all of them are tables, else None."""
        paths = []
        for found in self._files():
            if not table(found.path):
                return None
            paths.append(found.path)
        return paths

    def progress(self) -> tuple[float, float | None]:
        return float(self._done), float(max(self._total, self._done))

    def holds(self, path: Path) -> bool:
        return self._holds(path)

    def _row(self, found: Found) -> SourceRow:
        values: dict[str, Any] = {"path": found.key}
        try:
            values |= {"file": file_at(found.path, where="the file")} if self._media else {"text": _text(found.path)}
        except InputError as error:
            return SourceRow(values, str(found.path), found.key, str(error))
        return SourceRow(values, str(found.path), found.key)


def of_pattern(path: Path, *, media: bool) -> Documents:
    """Return the files of a folder or a pattern."""
    pattern = Pattern.of(path)
    return Documents(pattern.files, name=str(path), identity=pattern.text, holds=pattern.holds, media=media)


def of_paths(paths: Sequence[Path], *, media: bool) -> Documents:
    """Return files given one by one, as a shell expands a pattern, with the keys and the identity of that pattern."""
    near = [path.parent.resolve() / path.name for path in dict.fromkeys(paths)]
    folder = _common(near)
    found = [
        Found(path, key_of(one.relative_to(folder).parts))
        for path, one in zip(dict.fromkeys(paths), near, strict=True)
    ]
    found.sort(key=lambda one: one.path.parts)
    shapes = sorted({_shape(one) for one in near})
    return Documents(
        lambda: iter(found),
        name=str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more",
        identity="\n".join(shapes),
        holds=lambda path: _shape(path.parent.resolve() / path.name) in shapes,
        media=media,
    )


def _shape(path: Path) -> str:
    """Return the pattern of a file and those beside it."""
    return str(path.parent / f"*{path.suffix}")


def _common(paths: Sequence[Path]) -> Path:
    """Return the folder that all these files are in."""
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_ROW + 1)
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}") from error
    if len(raw) > MAX_ROW:
        raise InputError(f"more than {MAX_ROW / 1e6:,.0f} MB, more than any model reads; cut it into parts")
    if b"\0" in raw:
        raise InputError(f"a binary file, not text; select the files with a pattern, such as '{path.parent}/*.md'")
    if not raw.strip():
        raise InputError("an empty file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from error
