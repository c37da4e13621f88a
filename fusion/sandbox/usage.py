"""Usage: the memory and the files of a sandbox, read from outside while it runs."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from fusion.core.types import ProcessLimits, StoppedBy

_MOST_FILES: Final = 10_000
"""Files, folders and links that a command may have; each takes memory of the kernel."""
FOLDER: Final = "/tmp/work"  # noqa: S108 - within the sandbox, whose /tmp is its own
"""Working directory of commands."""
_OUTSIDE: Final = "/tmp"  # noqa: S108 - that of the machine, in whose place the sandbox has its own
_MB: Final = 1_000_000
_SECONDS: Final = 0.05
_MOST_PROCESSES: Final = 4_096


class First(Protocol):
    """Tells the first process of a sandbox."""

    @property
    def first(self) -> int | None: ...

    def read(self) -> None: ...


class Usage:
    """The use of one sandbox, looked at every 50 ms at most."""

    def __init__(self, status: First, limits: ProcessLimits) -> None:
        self._status = status
        self._limits = limits
        self._next = 0.0

    def passed(self) -> StoppedBy | None:
        """Return the limit that the sandbox has passed, if any."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + _SECONDS
        self._status.read()
        first = self._status.first
        if first is None:
            return None
        if _files(first) > _MOST_FILES:
            return "disk"
        most = self._limits.memory * _MB
        found = list(_tree(first))
        if sum(map(_held, found)) <= most:
            return None
        return "memory" if sum(map(_share, found)) > most else None


def _files(first: int) -> int:
    """Return the files of the sandbox's own file system; 0 before it is made, and once it is gone."""
    folder = f"/proc/{first}/root{FOLDER}"
    with suppress(OSError):
        if Path(folder).stat().st_dev != Path(_OUTSIDE).stat().st_dev:
            state = os.statvfs(folder)
            return state.f_files - state.f_ffree
    return 0


def _tree(first: int) -> Iterator[int]:
    """Yield the processes of a sandbox, which are all below its first one."""
    left, count = [first], 0
    while left and count < _MOST_PROCESSES:
        one, count = left.pop(), count + 1
        yield one
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):  # noqa: PTH208 - names alone
                left += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())


def _held(process: int) -> int:
    """Return the bytes that a process holds in memory, those shared with others included."""
    return _sum(process, "status", ("RssAnon:", "RssShmem:"))


def _share(process: int) -> int:
    """Return the bytes of a process, with its share of those that several hold."""
    return _sum(process, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))


def _sum(process: int, file: str, names: tuple[str, ...]) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
        return sum(int(line.split()[1]) * 1_024 for line in lines if line.startswith(names))
    return 0
