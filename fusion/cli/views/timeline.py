"""A run over time: stages and calls as bars in a terminal, as figures elsewhere; what failed, notes, receipt."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fusion.cli.terminal import is_terminal, one_line, printable, table, write
from fusion.cli.views.history import run_line
from fusion.cli.views.lines import cost_words, reason, seconds
from fusion.cli.views.receipt import receipt_rows
from fusion.client.history_types import CallLine, RunDetails, StageLine

_CALLS_AT_MOST: Final = 24
"""Calls that are shown one by one; of more, each stage shows its share."""
_FEWEST: Final = 4
_PARTS_AT_MOST: Final = 20
_PAUSE: Final = 1.0
"""Seconds without any call after which a run is taken to have lain still: that is cut out of the picture."""
_STYLES: Final = {
    "ok": "green",
    "finished": "cyan",
    "set aside": "yellow",
    "skipped": "dim",
    "failed": "red",
    "open": "yellow",
}


@dataclass(frozen=True)
class _Row:
    """A line of the picture: what it is of, from when until when, and what is to be said of it."""

    label: str
    state: str
    begin: float | None
    end: float | None
    about: str


def print_run(details: RunDetails, *, everything: bool) -> None:
    """Print a run to standard output."""
    rows = list(_rows(details, everything=everything))
    write(printable(run_line(details.run)) + "\n")
    if rows:
        write("\n")
        _draw(rows) if is_terminal(sys.stdout) else write("\n".join(_plain(rows)) + "\n")
    write(
        "\n".join(["", *_parts(details), *receipt_rows(details.receipt, _seconds(details)), *_hint(details)]) + "\n"
    )


def _seconds(details: RunDetails) -> dict[str, float]:
    return {stage.stage: stage.seconds for stage in details.stages if stage.seconds is not None}


def _hint(details: RunDetails) -> list[str]:
    run = details.run
    if run.status in ("died", "failed", "interrupted") and run.content == "full":
        return [f"to go on: fusion resume {run.run_id}"]
    return []


def _parts(details: RunDetails) -> Iterator[str]:
    """What failed, and what the run noted."""
    if details.run.failure is not None:
        yield f"failed: {reason(details.run.failure)}"
    failed = [
        f"{part.stage}{'' if part.item is None else f' {part.item + 1}'}: {reason(part.failure)}"
        for part in details.failed
        if part.failure != details.run.failure
    ]
    yield from _bounded([printable(line) for line in failed])
    yield from _bounded([printable(f"note: {one_line(note)}") for note in details.notes])
    if failed or details.notes or details.run.failure is not None:
        yield ""


def _bounded(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _PARTS_AT_MOST
    return [*lines[:_PARTS_AT_MOST], *([f"and {more:,} more; `--json` names all"] if more > 0 else [])]


# Which lines there are.


def _rows(details: RunDetails, *, everything: bool) -> Iterator[_Row]:
    clock = _Clock(details.calls)
    of_stage: dict[str, list[CallLine]] = {}
    for call in details.calls:
        of_stage.setdefault(call.stage, []).append(call)
    share = _share(of_stage, everything=everything)
    for stage in details.stages:
        calls = of_stage.get(stage.stage, [])
        yield _of_stage(stage, calls, clock, _until(details))
        shown = _shown(calls, share)
        yield from (_of_call(call, clock) for call in shown)
        if len(shown) < len(calls):
            rest = f"  and {len(calls) - len(shown):,} more calls"
            yield _Row(rest, "skipped", None, None, "`--all` shows them")


def _share(of_stage: dict[str, list[CallLine]], *, everything: bool) -> int:
    """How many calls of a stage are shown, so that all of them together are not too many."""
    total = sum(map(len, of_stage.values()))
    if everything or total <= _CALLS_AT_MOST:
        return total
    return max(_FEWEST, _CALLS_AT_MOST // max(1, len(of_stage)))


def _shown(calls: list[CallLine], share: int) -> list[CallLine]:
    """Where not all can be: what failed and what took longest, in their order."""
    if len(calls) <= share:
        return calls
    chosen = sorted(calls, key=lambda call: (call.state != "failed", -call.seconds))[:share]
    return sorted(chosen, key=lambda call: call.number)


def _until(details: RunDetails) -> float | None:
    """When the run ended, where that is in the picture: what was open was open until then."""
    run = details.run
    return run.ended.timestamp() if run.ended is not None and run.sessions == 1 else None


def _of_stage(stage: StageLine, calls: list[CallLine], clock: "_Clock", until: float | None) -> _Row:
    made = [call for call in calls if call.reused is None]
    begins = [call.started.timestamp() for call in made]
    ends = [call.started.timestamp() + call.seconds for call in made]
    counts = [
        f"{stage.calls} call{'s' * (stage.calls != 1)}" if stage.calls else "",
        f"{stage.failed} failed" if stage.failed else "",
        f"{stage.reused} reused" if stage.reused else "",
        "" if stage.seconds is None else seconds(stage.seconds),
    ]
    if not begins and stage.started is not None:
        begins = ends = [stage.started.timestamp()]
    if stage.status == "open" and until is not None:
        ends = [*ends, until]
    return _Row(
        f"{stage.stage} ({stage.kind})" if stage.kind else stage.stage,
        stage.status,
        clock.at(min(begins)) if begins else None,
        clock.at(max(ends)) if ends else None,
        ", ".join([*([] if stage.status == "ok" else [stage.status]), *(count for count in counts if count)]),
    )


def _of_call(call: CallLine, clock: "_Clock") -> _Row:
    begin = call.started.timestamp()
    name = f"{call.item + 1}/{call.step}" if call.item is not None else call.step
    return _Row(
        f"  {call.number} {name}",
        call.state,
        None if call.reused else clock.at(begin),
        None if call.reused else clock.at(begin + call.seconds),
        _about(call),
    )


def _about(call: CallLine) -> str:
    if call.failure is not None:
        return one_line(reason(call.failure))[:60]
    if call.reused is not None:
        return f"reused from {call.reused}"
    cost = (
        "" if call.usage is None else f", {cost_words(call.cost or call.cost.__class__(0), 0)}" if call.cost else ""
    )
    aside = ", set aside" if call.state == "set aside" else ""
    return f"{call.by or call.asked}, {seconds(call.seconds)}{cost}{aside}"


class _Clock:
    """Seconds from the run's first call on, without those in which it lay still."""

    def __init__(self, calls: Iterable[CallLine]) -> None:
        self._cuts: list[tuple[float, float]] = []
        spans = sorted(
            (call.started.timestamp(), call.started.timestamp() + call.seconds) for call in calls if not call.reused
        )
        self._begin = spans[0][0] if spans else 0.0
        last = self._begin
        for begin, end in spans:
            if begin - last > _PAUSE:
                self._cuts.append((last, begin))
            last = max(last, end)

    def at(self, moment: float) -> float:
        return moment - self._begin - sum(min(moment, end) - begin for begin, end in self._cuts if moment > begin)


# How they look.


def _plain(rows: Sequence[_Row]) -> list[str]:
    return table([[row.label, _span(row), row.about] for row in rows])


def _span(row: _Row) -> str:
    return "" if row.begin is None or row.end is None else f"{row.begin:.1f}-{row.end:.1f} s"


def _draw(rows: Sequence[_Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    longest = max((row.end for row in rows if row.end is not None), default=0.0)
    names = min(max(len(row.label) for row in rows), max(16, console.width // 3))
    about = min(max(len(row.about) for row in rows), max(16, console.width // 3))
    width = max(8, console.width - names - about - 4)
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(no_wrap=True, overflow="ellipsis", width=names)
    drawn.add_column(no_wrap=True, width=width)
    drawn.add_column(no_wrap=True, overflow="ellipsis")
    for row in rows:
        style = _STYLES.get(row.state, "")
        is_stage = not row.label.startswith(" ")
        drawn.add_row(
            Text(printable(row.label), style="bold" if is_stage else ""),
            Text(_bar(row, longest, width, "━" if is_stage else "─"), style=style),
            Text(printable(row.about), style="" if is_stage else "dim"),
        )
    console.print(drawn)


def _bar(row: _Row, longest: float, width: int, stroke: str) -> str:
    if row.begin is None or row.end is None:
        return ""
    scale = width / longest if longest > 0 else 0.0
    begin = min(int(row.begin * scale), width - 1)
    return " " * begin + stroke * max(1, min(round(row.end * scale), width) - begin)
