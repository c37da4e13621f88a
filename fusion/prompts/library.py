"""Where templates and pipelines are found: a given path, here, in the user's folder, among the shipped ones."""

import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from fusion.core.errors import UsageError, close_names
from fusion.core.paths import read_text, working_directory

TEMPLATE_SUFFIX = ".md.j2"
_FOLDER = "is a folder, not a pipeline file"


def shipped_root() -> Path:
    """The folder that holds the shipped `prompts` and `pipelines`: inside the wheel, or the checkout."""
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
        """The folder of the pipeline at hand, the working directory, the user's folder, the shipped ones."""
        return cls([root for root in (near, working_directory(), user, shipped_root()) if root is not None])

    def near(self, folder: Path) -> "Library":
        """The same library, with a pipeline file's own folder looked at first."""
        return Library([folder, *self.roots])

    def pipeline(self, name: str) -> Path:
        """The file of a pipeline given by path or by name. Raises UsageError where there is none."""
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
        """Every pipeline that can be given by name; the first folder that has a name wins."""
        found: dict[str, Path] = {}
        for root in self.roots:
            for path in sorted((root / "pipelines").glob("*.y*ml")):
                found.setdefault(path.stem, path)
        return found

    def template(self, name: str) -> tuple[str, Path] | None:
        """Text and file of the template `name`, such as `map/default`; None where there is none.

        A name never leads out of the library's folders, nor to what is hidden in them: `.env` holds keys.
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
        """Every template that can be given by name."""
        found: dict[str, Path] = {}
        for root in self.roots:
            base = root / "prompts"
            for path in sorted(base.rglob(f"*{TEMPLATE_SUFFIX}")):
                found.setdefault(path.relative_to(base).as_posix().removesuffix(TEMPLATE_SUFFIX), path)
        return found

    def _names(self) -> str:
        return ", ".join(sorted(self.pipelines)) or "none is shipped"


class PinnedLibrary(Library):
    """A library in which these templates say what they said, whatever their files say now."""

    def __init__(self, roots: Sequence[Path], texts: Mapping[str, str]) -> None:
        super().__init__(roots)
        self._texts = dict(texts)

    def template(self, name: str) -> tuple[str, Path] | None:
        pinned = self._texts.get(name)
        return super().template(name) if pinned is None else (pinned, Path(name))


def _what_is(path: Path) -> str:
    """What stands at a path, in words that follow its name; "file" for what can be read again and again."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name that no file can have
        return "does not exist"
    if stat.S_ISDIR(mode):
        return _FOLDER
    return "file" if stat.S_ISREG(mode) else "is a pipe or a device, not a file"
