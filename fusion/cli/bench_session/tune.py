"""Session of `fusion tune`: from its options to the exit code."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fusion.bench.report.report import Report
from fusion.bench.tuner.over import Over, task_sets
from fusion.bench.tuner.tune import CONFIRMED, TUNED, folder_of, tune
from fusion.bench.tuner.tuned import Finalist, Searched, Tuned
from fusion.cli.bench_session.bench import (
    SUITES,
    concurrency_of,
    exit_code,
    given,
    limits_given,
    print_lines,
    standings_of,
)
from fusion.cli.options.bench import TuneOptions
from fusion.cli.settings import read_settings
from fusion.cli.terminal import one_line, table, width_of
from fusion.cli.views.lines import dollars
from fusion.core.errors import UsageError

_FRONTIER: Final = ["frontier", "accuracy", "an item", "difference", "95%", "verdict", "file"]
_NO_FILE: Final = {"python": "no file: a function", "outputs": "no file: recorded answers"}


_WITH_OPEN_SUITE: Final = frozenset(
    {"at_least", "budget", "confirm", "split", "config", "concurrency", "output", "quiet", "debug", "no_learn"}
)
"""Options of `fusion tune` that go with a suite."""


def run_tune(options: TuneOptions, command: str) -> int:
    """Tune the suite, print the frontier and the choice, and return the exit code."""
    over, folder = _over(options), folder_of(options.what, options.output)
    concurrency, budget = concurrency_of(options.concurrency), limits_given(options.budget)
    settings = read_settings(options.config)
    with standings_of(folder, quiet=options.quiet) as watch:
        tuned, report = tune(
            options.what,
            over=over,
            at_least=options.at_least or 0.0,
            confirm=_by_set(options.confirm or [], options.what, "--confirm"),
            split=options.split,
            out=folder,
            budget=budget,
            settings=settings,
            concurrency=concurrency,
            watch=watch,
            command=command,
            learn=not options.no_learn,
        )
    print_lines(_tune_lines(tuned, report, folder))
    return exit_code(report, stopped=bool(tuned.stopped))


# Items to tune on, without a suite.


def _over(options: TuneOptions) -> Over | None:
    """Return the models to choose from and the reading of the items; None for a suite."""
    suite = next((one for one in options.what if Path(one).suffix in SUITES), None)
    if suite is not None:
        for field, flag in options.flags().items():
            if field not in _WITH_OPEN_SUITE:
                raise UsageError(f"{flag} is for a file of items; {suite!r} is a suite: write it there")
        return None
    scorers = _by_set(options.scorer or [], options.what, "--scorer")
    if scorers is None:
        raise UsageError("no scorer: give --scorer exact, number, …, an expression, or module:function")
    path = {} if options.path is None else {"path": options.path}
    fields = {
        "models": _words(options.over, options.models),
        "scorer": {name: {"by": by, **path} for name, by in scorers.items()}
        if isinstance(scorers, dict)
        else {"by": scorers, **path},
        **{name: getattr(options, name) for name in ("prompt", "gold", "sample", "agree", "max_tiers", "seed")},
        "last": _words(options.last) or None,
        "routes": dict(_pairs(options.routes or [], "--route SET=PATTERN")) or None,
    }
    try:
        return Over.model_validate(given(fields))
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        place = (
            ".".join(map(str, first["loc"][:1])).replace("_", "-").replace("last", "else").replace("routes", "route")
        )
        raise UsageError(f"--{place}: {first['msg'].removeprefix('Value error, ')}") from error


def _words(*given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of several options, each of which may hold some with commas."""
    return tuple(word.strip() for one in given for words in one or () for word in words.split(",") if word.strip())


def _pairs(given: Sequence[str], form: str) -> Iterator[tuple[str, str]]:
    for word in given:
        name, sign, value = word.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{word!r}: write it as {form}")
        yield name, value


def _by_set(values: Sequence[str], what: Sequence[str], flag: str) -> str | dict[str, str] | None:
    """Return the one value for all task sets, or the value of each; None without one."""
    sets = () if not values or any(Path(one).suffix in SUITES for one in what) else tuple(task_sets(what))
    if not values or (len(values) == 1 and values[0].partition("=")[0] not in sets):
        return values[0] if values else None
    return dict(_pairs(values, f"{flag} SET=…, once for each file"))


# Results of a search.


def _tune_lines(tuned: Tuned, report: Report | None, folder: Path) -> Iterator[str]:
    raced = ", ".join(f"{count:,} on {items:,} items" for items, count in tuned.shares)
    yield from (f"on dev: {one_line(sentence)}" for sentence in tuned.summary)
    yield from (line for one in tuned.searched for line in _searched(one))
    yield f"{tuned.suite}: {len(tuned.finalists):,} of {len(tuned.finalists) + len(tuned.dropped):,} left on dev"
    yield f"{f'raced: {raced}; ' if raced else ''}spent {dollars(tuned.spent)}"
    yield ""
    yield from table(
        [_FRONTIER, *map(_finalist, tuned.frontier)], right=frozenset({1, 2, 3, 4}), width=width_of(sys.stdout)
    )
    yield ""
    if tuned.stopped:
        items = f"the {tuned.items:,} items that every finalist answered"
        yield f"- Stopped early: {tuned.stopped}; the figures are of {items}."
    yield from (f"- {one_line(note)}" for note in tuned.left_out)
    yield _choice(tuned)
    if report is not None:
        yield from _confirmed(report, folder)


def _finalist(one: Finalist) -> list[str]:
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


def _searched(one: Searched) -> Iterator[str]:
    yield f"searched {one.considered:,} ways; single models level with the best: {', '.join(one.level)}"
    for route, way in one.ways.items():
        yield f"- {route}: {one_line(str(way))}"
    points = f"{100 * one.difference:+.2f} points to the best single model"
    yield f"cross-validated on dev: {points}, at {one.cost_ratio:.3f} times the cost of {one.level[0]}"


def _choice(tuned: Tuned) -> str:
    words = f"the cheapest that is not worse by {100 * tuned.margin:g} points on dev"
    if any(one.name == tuned.named or not one.fit for one in tuned.searched):
        words = "the cheapest that is as good on dev"
    if tuned.named == tuned.best_single:
        return f"{words}: the best single model itself, {tuned.named}"
    choice = tuned.choice
    named = choice.file or f"{choice.name}, {_NO_FILE[choice.kind]}"
    return f"{words}: {named}"


def _confirmed(report: Report, folder: Path) -> Iterator[str]:
    one = next(one for one in report.analysis.figures if one.arm == TUNED)
    pair = next((pair for pair in report.analysis.pairings if pair.arm == TUNED), None)
    words = f"on test: {100 * one.accuracy.estimate:.1f}% of {one.n:,}"
    if pair is not None:
        low, high = 100 * pair.difference.low, 100 * pair.difference.high
        ratio = "unknown" if pair.cost_ratio is None else f"{pair.cost_ratio.estimate:.3f}"
        points = f"{100 * pair.difference.estimate:+.2f} points ({low:+.2f} to {high:+.2f})"
        words += f", {points} at {ratio} times the cost of {pair.against}: {pair.verdict}"
    yield words
    yield from (f"on test: {one_line(sentence)}" for sentence in report.analysis.summary)
    yield f"report: {folder / CONFIRMED / 'report.html'}"
