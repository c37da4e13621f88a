"""The run as a live view on standard error: its stages, redrawn in place."""

import time
from typing import TYPE_CHECKING, Final

from fusion.cli.terminal import one_line, printable
from fusion.cli.views.lines import call_line, cost_words, first_line, happening, seconds
from fusion.cli.views.progress import Progress, StageProgress
from fusion.core.events import EventBase, RunStarted

if TYPE_CHECKING:
    from rich.console import RenderableType


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


class LiveView:
    """Stages with their state, items, calls, tokens, cost and time; what goes wrong is printed above and stays.

    It is gone when the answer begins or the run ends: answer and receipt take its place.
    """

    refresh: float | None = 0.125

    def __init__(self, *, verbose: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._verbose = verbose
        self._progress = Progress()
        self._console: Console = Console(stderr=True, highlight=False)
        self._live: Live | None = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._held: list[str] = []

    def show(self, event: EventBase) -> None:
        self._progress.take(event)
        if isinstance(event, RunStarted):
            self._say(first_line(event), "bold")
            return
        line = happening(event) or (call_line(event) if self._verbose else None)
        if line is not None:
            self._say(line)

    def tick(self) -> None:
        if self._live is not None:
            self._live.start()  # the first time: until then nothing has to be put back
            self._live.update(self._frame(), refresh=True)

    def hold(self) -> None:
        """Make room for the answer; what is still to be said comes after it."""
        if self._live is not None and self._live.is_started:
            self._live.update("", refresh=True)
            self._live.stop()
        self._live = None

    def close(self) -> None:
        self.hold()

    def release(self) -> None:
        """Say what was kept back."""
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

    def _frame(self) -> "RenderableType":
        from rich.table import Table

        now = time.monotonic()
        rows = [*(self._row(name, stage, now) for name, stage in self._progress.stages.items()), self._total(now)]
        columns = [at for at in range(len(rows[0])) if self._console.width >= _WIDE or at not in _DISPENSABLE]
        table = Table.grid(padding=(0, 2))
        for at in columns:
            table.add_column(no_wrap=True, justify="right" if at >= _NUMBERS else "left")
        for row in rows:
            table.add_row(*(row[at] for at in columns))
        return table

    def _row(self, name: str, stage: StageProgress, now: float) -> list["RenderableType"]:
        from rich.text import Text

        mark, style = _MARKS[stage.state]
        mark = _ASCII.get(mark, mark) if self._console.options.ascii_only else mark
        elapsed = stage.elapsed(now)
        tokens = f"{stage.spent.tokens:,} tokens" if stage.spent.tokens else ""
        return [
            Text(f"{mark} {one_line(name)}", style=style),
            Text(stage.kind, style="dim"),
            _items(stage),
            Text(_calls(stage.calls, stage.reused), style="cyan"),
            tokens,
            cost_words(stage.spent.usd, stage.spent.unknown) if stage.spent.any else "",
            "" if elapsed is None else seconds(elapsed),
        ]

    def _total(self, now: float) -> list["RenderableType"]:
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


def _items(stage: StageProgress) -> str:
    """`3 of 12`, with a plus as long as more may come."""
    if not stage.known:
        return ""
    more = "" if stage.final else "+"
    failed = f", {stage.failed} failed" if stage.failed else ""
    if stage.kind == "plan":
        return f"{stage.known}{more} subtasks"
    return f"{stage.done} of {stage.known}{more}{failed}"


def _calls(count: int, reused: int) -> str:
    return ", ".join([f"{count} in flight"] * bool(count) + [f"{reused} reused"] * bool(reused))
