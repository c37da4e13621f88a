"""Base: a command for the sandbox, the sandbox of a run, and the backends that hold a command."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from threading import Event
from typing import Final, NamedTuple, Self

from fusion.core.errors import StageError
from fusion.core.types import Finished, ProcessLimits

MOST_FILES: Final = 200
"""Files beside a command at most; each is handed over in a descriptor of its own."""
MOST_ARGUMENT: Final = 100_000
"""Bytes of one argument at most; Linux takes 131,071."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Command(NamedTuple):
    """A command with the files beside it, its standard input, and its limits.

    `plain` is Python code that does the same without files and input, if there is any.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes]
    stdin: bytes
    limits: ProcessLimits
    plain: str | None = None

    @classmethod
    def of(
        cls,
        argv: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
        limits: ProcessLimits | None = None,
        plain: str | None = None,
    ) -> Self:
        """Return a checked command. Raises StageError for arguments and paths that no process can have."""
        argv = tuple(argv)
        if not argv or not argv[0]:
            raise StageError("the sandbox got no command; give a program and its arguments")
        for one in argv:
            if "\0" in one:
                raise StageError("an argument of a command in the sandbox holds a NUL character")
            if len(_encoded(one)) > MOST_ARGUMENT:
                raise StageError(f"an argument has more than {MOST_ARGUMENT:,} bytes; put it into a file")
        given = {_path(name): _encoded(content) for name, content in (files or {}).items()}
        _check_tree(given)
        return cls(argv, given, _encoded(stdin), limits or ProcessLimits(), plain)

    @property
    def program(self) -> str:
        """The name of the program, without its folder."""
        return PurePosixPath(self.argv[0]).name or self.argv[0]


class Sandbox(ABC):
    """The sandbox of a run: runs commands, several at once."""

    @abstractmethod
    async def run(self, command: Command) -> Finished:
        """Run a command to its end. Raises StageError if there is no sandbox, or it cannot start."""


class Backend(ABC):
    """A way to hold a command. `name` is its name in events, `title` that in reports."""

    name: str

    @property
    def title(self) -> str:
        return self.name

    @abstractmethod
    def run(self, command: Command, stop: Event) -> Finished:
        """Run a command to its end, in the calling thread; kill it once `stop` is set."""


def _encoded(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")


def _path(name: str) -> str:
    """Return the relative path of a file beside a command. Raises StageError for one that leaves its folder."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or str(path) == "." or _CONTROL.search(name):
        raise StageError(f"invalid file name {name!r} in the sandbox; give a relative path without '..'")
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.parts) or len(name) > 1_000:
        raise StageError(f"the file name {name[:40]!r}… in the sandbox is too long")
    return str(path)


def _check_tree(files: Mapping[str, bytes]) -> None:
    """Raise StageError for too many files, and for a file that is also the folder of another."""
    if len(files) > MOST_FILES:
        raise StageError(f"{len(files):,} files are beside a command in the sandbox; give at most {MOST_FILES}")
    for name in files:
        for folder in PurePosixPath(name).parents:
            if str(folder) in files:
                raise StageError(f"{str(folder)!r} is both a file and the folder of {name!r} in the sandbox")
