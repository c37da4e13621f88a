"""Timeline of a run: bars on a terminal, figures elsewhere; failures, notes and receipt."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusion.cli.terminal import is_terminal, one_line, printable, table, width_of, wrapped, write
from fusion.cli.views.history.gates import gate_lines
from fusion.cli.views.history.runs import run_line
from fusion.cli.views.lines import cost_words, folded_lines, folded_texts, reason, seconds, waited_words, way_on
from fusion.cli.views.receipt import receipt_rows
from fusion.client.history.run_types import CallLine, CommandLine, RunDetails, StageLine, ToolLine
from fusion.core.errors import BudgetError
from fusion.core.types import Waited, ended

if TYPE_CHECKING:
    from rich.table import Table

_CALLS_AT_MOST: Final = 24
"""Most calls shown one by one; of more, each stage shows its share."""
_FEWEST: Final = 4
_PARTS_AT_MOST: Final = 20
_PAUSE: Final = 1.0
"""Seconds without a call from which on a pause is cut out of the timeline."""
_WAITING: Final = "·"
"""Stroke of the part of a call's bar that it waited."""
_STYLES: Final = {
    "ok": "green",
    "finished": "cyan",
    "set aside": "yellow",
    "skipped": "dim",
    "failed": "red",
    "open": "yellow",
    "waiting": "yellow",
    "cancelled": "yellow",
}


@dataclass(frozen=True)
class _Row:
    """A line of the timeline: label, state, start and end in seconds, a note, and the end of the waits, if any."""

    label: str
    state: str
    begin: float | None
    end: float | None
    about: str
    sent: float | None = None


def print_run(details: RunDetails, *, everything: bool) -> None:
    """Print a run to standard output."""
    rows = list(_rows(details, everything=everything))
    write("\n".join(wrapped(printable(run_line(details.run)), width_of(sys.stdout))) + "\n")
    if rows:
        write("\n")
        _print_table(rows) if is_terminal(sys.stdout) else write("\n".join(_plain(rows, width_of(sys.stdout))) + "\n")
    width = width_of(sys.stdout)
    parts = [part for line in _parts(details) for part in wrapped(line, width) or [""]]
    write("\n".join(["", *parts, *receipt_of(details, width), *_hint(details)]) + "\n")


def timeline_table(details: RunDetails, width: int) -> "Table":
    """Draw stages and calls as bars in `width` columns."""
    return _table(list(_rows(details, everything=False)), width)


def timeline_lines(details: RunDetails) -> list[str]:
    """List stages and calls with the seconds of their start and end."""
    return _plain(list(_rows(details, everything=False)), None)


def receipt_of(details: RunDetails, width: int | None) -> list[str]:
    """Format the receipt of a run in `width` columns."""
    times = {stage.stage: stage.seconds for stage in details.stages if stage.seconds is not None}
    return receipt_rows(details.receipt, times, width=width)


def _hint(details: RunDetails) -> list[str]:
    run = details.run
    if run.status == "waiting":
        return [f"to answer: fusion approve {run.run_id}"]
    if run.status not in ("died", "failed", "interrupted") or run.content != "full":
        return []
    why = "" if run.failure is None else run.failure.reason
    return [way_on(run.run_id, why, " --budget …" if why == BudgetError.__name__ else "")]


def _parts(details: RunDetails) -> Iterator[str]:
    """List failures and notes."""
    yield from (printable(line) for line in gate_lines(details.gates))
    if details.run.failure is not None:
        yield f"failed: {reason(details.run.failure)}"
    failed = folded_lines(part for part in details.failed if part.failure != details.run.failure)
    yield from _bounded([printable(line) for line in failed])
    yield from _bounded([printable(f"note: {note}") for note in folded_texts(map(one_line, details.notes))])
    if failed or details.notes or details.gates or details.run.failure is not None:
        yield ""


def _bounded(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _PARTS_AT_MOST
    return [*lines[:_PARTS_AT_MOST], *([f"and {more:,} more; `--json` names all"] if more > 0 else [])]


# Rows.


def _rows(details: RunDetails, *, everything: bool) -> Iterator[_Row]:
    clock = _Clock(details.calls, details.stages)
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
        yield from _of_tools(stage, details.tools, clock, share)
        yield from _of_commands(stage, details.commands, clock, share)


def _share(of_stage: dict[str, list[CallLine]], *, everything: bool) -> int:
    """Return the number of calls to show for each stage."""
    total = sum(map(len, of_stage.values()))
    if everything or total <= _CALLS_AT_MOST:
        return total
    return max(_FEWEST, _CALLS_AT_MOST // max(1, len(of_stage)))


def _shown(calls: list[CallLine], share: int) -> list[CallLine]:
    """Choose the calls to show: failed ones and the longest, in order."""
    if len(calls) <= share:
        return calls
    chosen = sorted(calls, key=lambda call: (call.state != "failed", -call.seconds))[:share]
    return sorted(chosen, key=lambda call: call.number)


def _until(details: RunDetails) -> float | None:
    """Return the end of a run of one session: the end of its open stages."""
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
        None if call.reused or call.waited is None else clock.at(begin + _waiting(call, call.waited)),
    )


def _of_tools(stage: StageLine, tools: Sequence[ToolLine], clock: "_Clock", share: int) -> Iterator[_Row]:
    """Yield the calls of tools of a stage, the last ones if there are many."""
    own = [tool for tool in tools if tool.stage == stage.stage]
    if len(own) > max(share, _FEWEST):
        yield _Row(f"  {len(own) - max(share, _FEWEST):,} calls of tools", "skipped", None, None, "`--json` has all")
    for tool in own[-max(share, _FEWEST) :]:
        name = f"{tool.item + 1}/{tool.step}" if tool.item is not None else tool.step
        begin = clock.at(tool.started.timestamp())
        about = f"{tool.tool} {one_line(tool.arguments)[:60]}".rstrip()
        if tool.failure is not None:
            about = f"{tool.tool}: {one_line(tool.failure.message)[:60]}"
        yield _Row(f"  {name}", tool.status, begin, begin + tool.seconds, f"{about}, {seconds(tool.seconds)}")


def _of_commands(stage: StageLine, commands: Sequence[CommandLine], clock: "_Clock", share: int) -> Iterator[_Row]:
    """Yield the commands of a stage in the sandbox, the last ones if there are many."""
    own = [command for command in commands if command.stage == stage.stage]
    if len(own) > max(share, _FEWEST):
        yield _Row(f"  {len(own) - max(share, _FEWEST):,} commands", "skipped", None, None, "`--json` has all")
    for one in own[-max(share, _FEWEST) :]:
        begin = clock.at(one.started.timestamp())
        program = one_line(one.program)[:40]
        about = f"{program} in {one.by}: {ended(one.code, one.stopped_by)}, {seconds(one.seconds)}"
        failed = one.code != 0 or one.stopped_by is not None
        name = "command" if one.item is None else f"{one.item + 1}/command"
        yield _Row(f"  {name}", "failed" if failed else "ok", begin, begin + one.seconds, about)


def _waiting(call: CallLine, waited: Waited) -> float:
    """Return the seconds from the start of a call to its last request."""
    if call.latency is not None:
        return max(0.0, call.seconds - call.latency)
    return min(call.seconds, waited.library + waited.budget + waited.slot + waited.pause + waited.batch)


def _about(call: CallLine) -> str:
    if call.failure is not None:
        return one_line(reason(call.failure))[:60]
    if call.reused is not None:
        return f"reused from {call.reused}"
    cost = (
        "" if call.usage is None else f", {cost_words(call.cost or call.cost.__class__(0), 0)}" if call.cost else ""
    )
    aside = ", set aside" if call.state == "set aside" else ""
    took = call.seconds if call.waited is None or call.latency is None else call.latency
    return f"{call.by or call.asked}, {seconds(took)}{waited_words(call.waited)}{cost}{aside}"


class _Clock:
    """Seconds since the first call or stage of the run, pauses left out."""

    def __init__(self, calls: Iterable[CallLine], stages: Iterable[StageLine]) -> None:
        self._cuts: list[tuple[float, float]] = []
        spans = sorted(
            (call.started.timestamp(), call.started.timestamp() + call.seconds) for call in calls if not call.reused
        )
        starts = [stage.started.timestamp() for stage in stages if stage.started is not None]
        self._begin = min([*(begin for begin, _ in spans[:1]), *starts], default=0.0)
        last = self._begin
        for begin, end in spans:
            if begin - last > _PAUSE:
                self._cuts.append((last, begin))
            last = max(last, end)

    def at(self, moment: float) -> float:
        return moment - self._begin - sum(min(moment, end) - begin for begin, end in self._cuts if moment > begin)


# Text and bars.


def _plain(rows: Sequence[_Row], width: int | None) -> list[str]:
    return table([[row.label, _span(row), row.about] for row in rows], width=width)


def _span(row: _Row) -> str:
    return "" if row.begin is None or row.end is None else f"{row.begin:.1f}-{row.end:.1f} s"


def _print_table(rows: Sequence[_Row]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(rows, console.width))


def _table(rows: Sequence[_Row], columns: int) -> "Table":
    from rich.table import Table
    from rich.text import Text

    longest = max((row.end for row in rows if row.end is not None), default=0.0)
    names = min(max(len(row.label) for row in rows), max(16, columns // 3))
    about = min(max(len(row.about) for row in rows), max(16, columns * 2 // 5))
    width = max(8, columns - names - about - 4)
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(no_wrap=True, overflow="ellipsis", width=names)
    drawn.add_column(no_wrap=True, width=width)
    drawn.add_column(no_wrap=True, overflow="ellipsis", width=about)
    for row in rows:
        style = _STYLES.get(row.state, "")
        is_stage = not row.label.startswith(" ")
        drawn.add_row(
            Text(printable(row.label), style="bold" if is_stage else ""),
            Text(_bar(row, longest, width, "━" if is_stage else "─"), style=style),
            Text(printable(row.about), style="" if is_stage else "dim"),
        )
    return drawn


def _bar(row: _Row, longest: float, width: int, stroke: str) -> str:
    if row.begin is None or row.end is None:
        return ""
    scale = width / longest if longest > 0 else 0.0
    begin = min(int(row.begin * scale), width - 1)
    length = max(1, min(round(row.end * scale), width) - begin)
    waits = 0 if row.sent is None else min(length, max(0, round(row.sent * scale) - begin))
    return " " * begin + _WAITING * waits + stroke * (length - waits)
