"""One search on the command line: from the options to the exit code."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fusion.bench.benchmark import CONCURRENCY
from fusion.bench.report.report import Report
from fusion.bench.tuner.tune import CONFIRMED, TUNED, Finalist, Tuned, tune
from fusion.cli.arguments import limits_of
from fusion.cli.exits import BUDGET, GATE, OK, Interrupted
from fusion.cli.interrupts import Interrupts
from fusion.cli.terminal import complain, is_live, one_line, printable, table, write
from fusion.cli.views.lines import dollars
from fusion.cli.views.standings import LiveStandings, PlainStandings, Standings
from fusion.core.errors import UsageError
from fusion.core.types import Limits

_NO_FILE: Final = {"python": "no file: a function", "outputs": "no file: answers of somebody else's"}


@dataclass(frozen=True)
class Options:
    """What the command line says about a search, and the command line itself."""

    suite: str
    budget: str | None
    concurrency: int | None
    output: str | None
    quiet: bool
    command: str


def run_tuning(options: Options) -> int:
    """Tune the suite, print what came of it, and give the exit code."""
    suite, budget, concurrency, output = options.suite, options.budget, options.concurrency, options.output
    folder = Path("fusion-tune") / Path(suite).stem if output is None else Path(output)
    at_once = CONCURRENCY if concurrency is None else concurrency
    if at_once < 1:
        raise UsageError(f"--concurrency {at_once}: give 1 or more")
    limits = None if budget is None else _limits(budget)
    standings: Standings = LiveStandings() if is_live(sys.stderr) else PlainStandings()
    with Interrupts():
        try:
            tuned, report = tune(
                suite,
                out=folder,
                budget=limits,
                concurrency=at_once,
                watch=None if options.quiet else standings.show,
                command=options.command,
            )
        except Interrupted:
            if folder.exists():
                complain(f"fusion: what was answered is kept in {str(folder)!r}; the same command goes on from there")
            raise
        finally:
            standings.close()
    write("\n".join(printable(line) for line in _lines(tuned, report, folder)) + "\n")
    if report is not None and not report.passed:
        return GATE
    return BUDGET if tuned.stopped or (report is not None and report.results.stopped) else OK


def _limits(word: str) -> Limits:
    try:
        return Limits.model_validate(limits_of(word))
    except ValidationError as error:
        raise UsageError(f"--budget {word!r}: give positive usd, tokens, calls or seconds") from error


def _lines(tuned: Tuned, report: Report | None, folder: Path) -> Iterator[str]:
    raced = ", ".join(f"{count:,} on {items:,} items" for items, count in tuned.shares)
    yield f"{tuned.suite}: {len(tuned.finalists):,} of {len(tuned.finalists) + len(tuned.dropped):,} left on dev"
    yield f"raced: {raced or 'none'}; spent {dollars(tuned.spent)}; best single model: {tuned.best_single}"
    yield ""
    yield from table(
        [
            ["frontier", "accuracy", "an item", "difference", "95%", "verdict", "file"],
            *(_row(one) for one in tuned.frontier),
        ],
        right=frozenset({1, 2, 3, 4}),
    )
    yield ""
    if tuned.stopped:
        yield f"- Stopped early: {tuned.stopped}; the figures are of the {tuned.items:,} items that all were asked."
    yield from (f"- {one_line(note)}" for note in tuned.left_out)
    yield _named(tuned)
    if report is not None:
        yield from _confirmed(report, folder)


def _row(one: Finalist) -> list[str]:
    low, high = 100 * one.difference.low, 100 * one.difference.high
    return [
        one_line(one.name),
        f"{100 * one.accuracy:.1f}%",
        "unknown" if one.cost is None else f"${one.cost:.6f}",
        f"{100 * one.difference.estimate:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        one.verdict,
        one.file or _NO_FILE[one.kind],
    ]


def _named(tuned: Tuned) -> str:
    margin = f"{100 * tuned.margin:g} points"
    if tuned.named == tuned.best_single:
        return f"the cheapest that is not worse by {margin} on dev: the best single model itself, {tuned.named}"
    choice = tuned.choice
    named = choice.file or f"{choice.name}, {_NO_FILE[choice.kind]}"
    return f"the cheapest that is not worse by {margin} on dev: {named}"


def _confirmed(report: Report, folder: Path) -> Iterator[str]:
    figures = {one.arm: one for one in report.analysis.figures}
    one = figures[TUNED]
    pair = next((pair for pair in report.analysis.pairings if pair.arm == TUNED), None)
    words = f"on test: {100 * one.accuracy.estimate:.1f}% of {one.n:,}"
    if pair is not None:
        low, high = 100 * pair.difference.low, 100 * pair.difference.high
        ratio = "unknown" if pair.cost_ratio is None else f"{pair.cost_ratio.estimate:.3f}"
        words += (
            f", {100 * pair.difference.estimate:+.2f} points ({low:+.2f} to {high:+.2f}) at {ratio} times the cost"
        )
        words += f" of {pair.against}: {pair.verdict}"
    yield words
    yield f"report: {folder / CONFIRMED / 'report.html'}"
