"""Live view of a map on standard error: rows, rate, spending, stages, redrawn in place at intervals."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusion.cli.terminal import one_line, printable
from fusion.cli.views.lines import cost_words, seconds
from fusion.cli.views.live.follow import Viewer
from fusion.cli.views.maps.lines import (
    MapIncidents,
    batch_words,
    done_words,
    first_line,
    in_flight_words,
    slow_words,
    spent_words,
)
from fusion.cli.views.maps.progress import MapProgress, RowsOfStage
from fusion.core.events import EventBase, MapFinished, MapStarted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_HEAD: Final = ("stage", "kind", "rows in it", "done", "failed", "cost")
_NUMBERS: Final = 2  # from this column on
_BAR: Final = 40
_LEAST_BAR: Final = 10


class LiveMap(Viewer):
    """A bar of the rows, their rate, spending and time left, the slowest row, and the rows in each stage."""

    refresh = 0.25

    def __init__(
        self,
        progress: MapProgress,
        *,
        verbose: bool,
        cap: Decimal | None,
        settings: tuple[Path, ...] = (),
        console: "Console | None" = None,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._progress = progress
        self._cap = cap
        self._settings = settings
        self._incidents = MapIncidents(verbose=verbose)
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def show(self, event: EventBase) -> None:
        if isinstance(event, MapStarted):
            self._say(first_line(event, self._settings), "bold")
            return
        for line in self._incidents.counts() if isinstance(event, MapFinished) else self._incidents.lines(event):
            self._say(line)

    def tick(self) -> None:
        self._progress.sample()
        if not self._progress.over:
            self._live.start()  # on the first tick, so that an earlier failure leaves the terminal alone
            self._live.update(self.frame(), refresh=True)

    def close(self) -> None:
        if self._live.is_started:
            self._live.update("", refresh=True)
            self._live.stop()

    def _say(self, line: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(printable(line), style=style))

    def frame(self) -> "RenderableType":
        """Draw the map as of now."""
        from rich.console import Group

        return Group(*self._lines())

    def _lines(self) -> Iterator["Text"]:
        progress = self._progress
        name = "" if progress.map is None else f"{one_line(progress.map.run_id)}  "
        yield self._line(f"  {name}{done_words(progress)}  ", self._bar(len(name) + len(done_words(progress)) + 6))
        parts = [
            *([f"{progress.failed:,} failed"] if progress.failed else []),
            *in_flight_words(progress),
            f"{progress.rate:.1f} rows/s",
            spent_words(progress, self._cap),
            *([] if progress.seconds_left is None else [f"{seconds(progress.seconds_left)} left"]),
            *batch_words(progress),
        ]
        yield self._line(f"  {', '.join(parts)}")
        if progress.slowest is not None:
            yield self._line(f"  slowest: {slow_words(progress.slowest)}")
        yield from self._stages()

    def _bar(self, taken: int) -> str:
        share, room = self._progress.share, min(_BAR, self._console.width - taken)
        if share is None or room < _LEAST_BAR:
            return ""
        full, rest = ("#", "-") if self._console.options.ascii_only else ("━", "╌")
        done = int(share * room)
        return full * done + rest * (room - done)

    def _stages(self) -> Iterator["Text"]:
        stages = self._progress.stages
        if not stages:
            return
        rows = [_HEAD, *(_row(name, stage) for name, stage in stages.items())]
        widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
        for row in rows:
            cells = (
                cell.rjust(width) if at >= _NUMBERS else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            yield self._line(f"  {'  '.join(cells)}", dim=row is _HEAD)

    def _line(self, *parts: str, dim: bool = False) -> "Text":
        from rich.text import Text

        line = Text("".join(parts), style="dim" if dim else "")
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def _row(name: str, stage: RowsOfStage) -> Sequence[str]:
    cost = cost_words(stage.usd, stage.unknown) if stage.usd or stage.unknown else ""
    return one_line(name), stage.kind, f"{stage.working:,}", f"{stage.done:,}", f"{stage.failed:,}", cost
