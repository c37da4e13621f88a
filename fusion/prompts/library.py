"""Library: lookup of templates and pipelines by path or by name in a list of folders."""

import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from fusion.core.errors import UsageError, close_names
from fusion.core.paths import read_text, working_directory

TEMPLATE_SUFFIX = ".md.j2"
_FOLDER = "is a folder, not a pipeline file"


def shipped_root() -> Path:
    """Return the folder of the shipped `prompts` and `pipelines`: in the wheel, or in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "_library"
    return inside if inside.is_dir() else package.parent


class Library:
    """An ordered list of folders, each of which may hold `prompts/` and `pipelines/`.

    >>> Library.standard().pipeline("plan-execute-review").name
    'plan-execute-review.yaml'
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(dict.fromkeys(root.resolve() for root in roots))

    @classmethod
    def standard(cls, *, user: Path | None = None, near: Path | None = None) -> "Library":
        """Return the library of the pipeline's folder, the working directory, the user's folder and our own."""
        return cls([root for root in (near, working_directory(), user, shipped_root()) if root is not None])

    def near(self, folder: Path) -> "Library":
        """Return the library with the folder of a pipeline file in front."""
        return Library([folder, *self.roots])

    def pipeline(self, name: str) -> Path:
        """Return the file of a pipeline given by path or name. Raises UsageError if there is none."""
        given = Path(name)
        what = _what_is(given)
        if what == "file":
            return given
        if (
            given.suffix in (".yaml", ".yml")
            or "/" in name
            or (name and what == _FOLDER and name not in self.pipelines)
        ):
            raise UsageError(f"{name!r} {what}; give the path of a YAML file, or a name: {self._names()}")
        for root in self.roots:
            for suffix in (".yaml", ".yml"):
                path = root / "pipelines" / f"{name}{suffix}"
                if _what_is(path) == "file":
                    return path
        raise UsageError(f"no pipeline {name!r}{close_names(name, self.pipelines)}")

    @cached_property
    def pipelines(self) -> dict[str, Path]:
        """All pipelines by name; the first folder with a name wins."""
        found: dict[str, Path] = {}
        for root in self.roots:
            for path in sorted((root / "pipelines").glob("*.y*ml")):
                found.setdefault(path.stem, path)
        return found

    def template(self, name: str) -> tuple[str, Path] | None:
        """Return text and file of a template such as `map/default`; None if there is none.

        A name never resolves outside the library's folders, nor to hidden files: `.env` holds keys.
        """
        parts = PurePosixPath(name).parts
        if not parts or any(part.startswith(".") for part in parts) or name.startswith(("/", "~")) or "\\" in name:
            return None
        for root in self.roots:
            for path in (root / "prompts" / f"{name}{TEMPLATE_SUFFIX}", root / "prompts" / name, root / name):
                if path.is_file() and path.resolve().is_relative_to(root):
                    return read_text(path), path
        return None

    @cached_property
    def templates(self) -> dict[str, Path]:
        """All templates by name; the first folder with a name wins."""
        found: dict[str, Path] = {}
        for root in self.roots:
            base = root / "prompts"
            for path in sorted(base.rglob(f"*{TEMPLATE_SUFFIX}")):
                found.setdefault(path.relative_to(base).as_posix().removesuffix(TEMPLATE_SUFFIX), path)
        return found

    def _names(self) -> str:
        return ", ".join(sorted(self.pipelines)) or "none is shipped"


class PinnedLibrary(Library):
    """A library with pinned texts of templates, for resumed runs."""

    def __init__(self, roots: Sequence[Path], texts: Mapping[str, str]) -> None:
        super().__init__(roots)
        self._texts = dict(texts)

    def template(self, name: str) -> tuple[str, Path] | None:
        pinned = self._texts.get(name)
        return super().template(name) if pinned is None else (pinned, Path(name))


def _what_is(path: Path) -> str:
    """Return "file" for a regular file, else the problem with the path, for messages."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # an impossible name
        return "does not exist"
    if stat.S_ISDIR(mode):
        return _FOLDER
    return "file" if stat.S_ISREG(mode) else "is a pipe or a device, not a file"
