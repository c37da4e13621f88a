"""Standings of a benchmark on standard error: a live table, or plain lines."""

import time
from typing import TYPE_CHECKING, Final, Protocol

from fusion.bench.progress import ArmProgress, Progress
from fusion.cli.terminal import complain, one_line
from fusion.cli.views.lines import dollars, seconds

if TYPE_CHECKING:
    from rich.console import RenderableType


_HEAD: Final = ("arm", "answers", "accuracy", "cost", "")
_REFRESH: Final = 0.2
_LINES: Final = 10
"""Most plain lines of a benchmark, plus those after half a minute without one."""
_SILENCE: Final = 30.0


class Standings(Protocol):
    """Shows the progress of a benchmark."""

    def show(self, progress: Progress) -> None:
        """Show the current progress."""

    def close(self) -> None:
        """End the view."""


class LiveStandings:
    """Draws a table of the arms: answers, accuracy and cost; below it the time and the projected cost."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False)
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._due = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._due and progress.done < progress.planned:
            return
        self._due = now + _REFRESH
        self._live.start()
        self._live.update(_frame(progress), refresh=True)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()


def _frame(progress: Progress) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="ellipsis", no_wrap=True)
    for _ in range(4):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row(*(Text(word, style="dim") for word in _HEAD))
    for arm in progress.arms.values():
        grid.add_row(Text(one_line(arm.name)), *_cells(arm))
    return Group(grid, Text(_total(progress), style="bold", no_wrap=True, overflow="ellipsis"))


def _cells(arm: ArmProgress) -> list[str]:
    return [
        f"{arm.done:,} of {arm.planned:,}",
        "" if arm.accuracy is None else f"{100 * arm.accuracy:.1f}%",
        _cost(arm),
        f"{arm.failed:,} failed" if arm.failed else "",
    ]


def _cost(arm: ArmProgress) -> str:
    return "cost unknown" if arm.unknown == arm.done > 0 else dollars(arm.usd) + (" + unknown" if arm.unknown else "")


def _total(progress: Progress) -> str:
    left = progress.seconds_left
    end = progress.paid_at_end
    parts = [
        f"{progress.done:,} of {progress.planned:,} answers",
        f"{progress.kept:,} of them kept from before" if progress.kept else "",
        f"{seconds(progress.seconds)} so far",
        "" if left is None or progress.done == progress.planned else f"about {seconds(left)} left",
        f"{dollars(progress.paid)} paid",
        "" if end is None or progress.done == progress.planned else f"about {dollars(end)} at the end",
    ]
    return ", ".join(part for part in parts if part)


class PlainStandings:
    """Prints a line for each tenth of the answers, and after half a minute without one."""

    def __init__(self) -> None:
        self._said = 0.0
        self._tenth = -1

    def show(self, progress: Progress) -> None:
        tenth = _LINES * progress.done // max(1, progress.planned)
        now = time.monotonic()
        if tenth == self._tenth and now - self._said < _SILENCE:
            return
        self._said, self._tenth = now, tenth
        arms = [
            f"{one_line(arm.name)} {100 * arm.accuracy:.1f}%"
            for arm in progress.arms.values()
            if arm.accuracy is not None
        ]
        complain(f"{progress.name}: {_total(progress)}{': ' if arms else ''}{', '.join(arms)}")

    def close(self) -> None:
        return None
