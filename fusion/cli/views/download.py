"""Progress of a download: bars on a terminal, lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusion.cli.terminal import complain, is_live

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from fusion.models.providers.local.download import PullProgress


_STEP = 0.2


@contextmanager
def pull_progress() -> "Iterator[Callable[[PullProgress], None]]":
    """Yield a function to call with the progress of downloads."""
    if not is_live(sys.stderr):
        yield _Lines()
        return
    with _bars() as progress:
        yield _Bars(progress)


class _Lines:
    """Prints a line for each source, and one for every fifth of the file."""

    def __init__(self) -> None:
        self._source: tuple[str, str] | None = None
        self._next = 0.0

    def __call__(self, now: "PullProgress") -> None:
        if self._source != (now.tier, now.source):
            self._source, self._next = (now.tier, now.source), now.done / now.total + _STEP
            complain(f"{now.tier}: from {now.source}, {_megabytes(now)}")
        elif now.done / now.total >= self._next:
            self._next = now.done / now.total + _STEP
            complain(f"{now.tier}: {_megabytes(now)}")


class _Bars:
    """Draws a bar for each tier."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, now: "PullProgress") -> None:
        words = f"{now.tier} from {now.source}"
        if now.tier not in self._tasks:
            self._tasks[now.tier] = self._progress.add_task(words, total=now.total, completed=now.done)
        self._progress.update(self._tasks[now.tier], description=words, completed=now.done)


def _bars() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False)


def _megabytes(now: "PullProgress") -> str:
    return f"{now.done / 1e6:,.0f} of {now.total / 1e6:,.0f} MB"
