"""Live view of a run on standard error: its stages, redrawn in place."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusion.cli.terminal import one_line, printable
from fusion.cli.views.lines import Incidents, cost_words, first_line, reply_line, seconds
from fusion.cli.views.live.follow import Viewer
from fusion.cli.views.live.progress import Progress, StageProgress, batch_line
from fusion.core.events import BatchEnded, BatchSubmitted, EventBase, RunStarted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    Row = list[str | Text]


_MARKS: Final = {
    "waiting": ("·", "dim"),
    "working": ("▸", "bold cyan"),
    "ok": ("✓", "green"),
    "skipped": ("-", "dim"),
    "failed": ("✗", "bold red"),
    "stopped": ("■", "yellow"),
}
_ASCII: Final = {"·": ".", "▸": ">", "✓": "+", "✗": "x", "■": "!"}
_WIDE: Final = 80
_NUMBERS: Final = 3  # from this column on
_DISPENSABLE: Final = frozenset({1, 4})  # kind and tokens, on a narrow terminal
_FEWEST_TITLES: Final = 3


class LiveView(Viewer):
    """Stages with their state, items, calls, tokens, cost and time, and a plan's titles; failures are printed above.

    Answer and receipt replace it when the answer starts or the run ends.
    """

    refresh = 0.125

    def __init__(
        self,
        *,
        verbose: bool,
        settings: Sequence[Path] = (),
        clock: Callable[[], float] = time.monotonic,
        console: "Console | None" = None,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._verbose = verbose
        self._settings = settings
        self._clock = clock
        self._progress = Progress(clock)
        self._incidents = Incidents(verbose=verbose)
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._held: list[str] = []

    def show(self, event: EventBase) -> None:
        self._progress.take(event)
        if isinstance(event, RunStarted):
            self._say(first_line(event, self._settings), "bold")
            return
        called = reply_line(event) if self._verbose else None
        if isinstance(event, (BatchSubmitted, BatchEnded)):
            called = batch_line(event)
        for line in [*self._incidents.lines(event), *([called] if called else [])]:
            self._say(line)

    def tick(self) -> None:
        if self._live is not None:
            self._live.start()  # on the first tick, so that an earlier failure leaves the terminal alone
            self._live.update(self.frame(), refresh=True)

    def hold(self) -> None:
        """Remove the view and print an empty line ahead of the answer; hold further lines back until `release`."""
        if self._end():
            self._console.print()

    def close(self) -> None:
        self._end()

    def _end(self) -> bool:
        """Remove the view. Returns True if there was one."""
        live, self._live = self._live, None
        if live is None or not live.is_started:
            return False
        live.update("", refresh=True)
        live.stop()
        return True

    def release(self) -> None:
        """Print the lines held back."""
        for line in self._held:
            self._print(line)
        self._held.clear()

    def _say(self, line: str, style: str = "") -> None:
        if self._live is None:
            self._held.append(line)
        else:
            self._print(line, style)

    def _print(self, line: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(printable(line), style=style))

    def frame(self) -> "RenderableType":
        """Draw a line for each stage, and below a plan the titles of its subtasks."""
        from rich.console import Group

        now = self._clock()
        stages = self._progress.stages
        rows = [*(self._row(name, stage, now) for name, stage in stages.items()), self._total(now)]
        lines = [*self._aligned(rows), *self._outages(now)]
        room = max(_FEWEST_TITLES, self._console.height - len(lines) - 2)
        titles = [_titles(stage.titles, room) for stage in stages.values()]
        below = [*titles, *[[]] * (len(lines) - len(titles))]
        return Group(*(part for line, titles in zip(lines, below, strict=True) for part in (line, *titles)))

    def _outages(self, now: float) -> list["Text"]:
        """Describe the models that are down."""
        from rich.text import Text

        lines = []
        for model, outage in self._progress.outages.items():
            again = "now" if outage.due is None else f"in {seconds(max(0.0, outage.due - now))}"
            down = f"{one_line(model)} is down for {seconds(now - outage.began)}"
            lines.append(Text(f"  {down}, asked again {again}", "yellow"))
        return [_unwrapped(line) for line in lines]

    def _aligned(self, rows: Sequence["Row"]) -> list["Text"]:
        """Align the columns of the rows, and return them as lines."""
        from rich.text import Text

        wide = self._console.width >= _WIDE
        columns = [at for at in range(len(rows[0])) if wide or at not in _DISPENSABLE]
        cells = [[Text.assemble(row[at]) for at in columns] for row in rows]
        widths = [max(row[at].cell_len for row in cells) for at in range(len(columns))]
        for row in cells:
            for at, cell in enumerate(row):
                cell.align("right" if columns[at] >= _NUMBERS else "left", widths[at])
        return [_unwrapped(Text("  ").join(row)) for row in cells]

    def _row(self, name: str, stage: StageProgress, now: float) -> "Row":
        from rich.text import Text

        mark, style = _MARKS[stage.state]
        mark = _ASCII.get(mark, mark) if self._console.options.ascii_only else mark
        elapsed = stage.elapsed(now)
        tokens = f"{stage.spent.tokens:,} tokens" if stage.spent.tokens else ""
        return [
            Text(f"{mark} {one_line(name)}", style=style),
            Text(stage.kind, style="dim"),
            _items(stage),
            Text(_calls(stage.calls, stage.reused, stage.batches.values()), style="cyan"),
            tokens,
            cost_words(stage.spent.usd, stage.spent.unknown) if stage.spent.any else "",
            "" if elapsed is None else seconds(elapsed),
        ]

    def _total(self, now: float) -> "Row":
        spent = self._progress.spent
        return [
            "  run",
            "",
            "",
            _calls(self._progress.calls, sum(stage.reused for stage in self._progress.stages.values())),
            f"{spent.tokens:,} tokens",
            cost_words(spent.usd, spent.unknown),
            seconds(now - self._progress.began),
        ]


def _titles(titles: Sequence[str], room: int) -> list["Text"]:
    """Number the titles of a plan's subtasks; return the newest that fit."""
    from rich.text import Text

    first = max(0, len(titles) - room)
    return [
        _unwrapped(Text.assemble((f"  {number:>3}  ", "dim"), printable(one_line(title))))
        for number, title in enumerate(titles[first:], first + 1)
    ]


def _unwrapped(line: "Text") -> "Text":
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _items(stage: StageProgress) -> str:
    """Format `3 of 12`, with a plus while the count may grow, or `round 2 of 4`."""
    if stage.round is not None:
        return "round {} of {}".format(*stage.round)
    if not stage.known:
        return ""
    more = "" if stage.final else "+"
    failed = f", {stage.failed} failed" if stage.failed else ""
    if stage.kind == "plan":
        return f"{stage.known}{more} subtasks"
    return f"{stage.done} of {stage.known}{more}{failed}"


def _calls(count: int, reused: int, batches: Collection[tuple[int, int]] = ()) -> str:
    """Count calls in flight and reused ones; of calls in batches, tell how far these are."""
    flying = f"{count} in flight"
    if batches:
        done, rows = (sum(part) for part in zip(*batches, strict=True))
        flying = f"in batch, {done:,} of {rows:,} done"
    return ", ".join([flying] * bool(count) + [f"{reused} reused"] * bool(reused))
