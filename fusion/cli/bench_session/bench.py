"""Sessions of `fusion bench` and `fusion tune`: from the options to the exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fusion.bench.arms.base import short_name
from fusion.bench.benchmark import CONCURRENCY, folder_of, run
from fusion.bench.report.columns import MIXING
from fusion.bench.report.figures import Analysis, Figures, ReviewFigures
from fusion.bench.report.gate import Gate
from fusion.bench.report.report import Report, equal_use, review_name
from fusion.bench.report.statistics import Interval
from fusion.bench.report.summary import mixing_sentence
from fusion.bench.runner import Watch
from fusion.bench.suite import Suite
from fusion.cli.arguments import limits_of, roles_of
from fusion.cli.exits import BUDGET, GATE, OK, Interrupted
from fusion.cli.interrupts import Interrupts
from fusion.cli.options.bench import BenchOptions
from fusion.cli.settings import read_settings
from fusion.cli.terminal import complain, is_live, one_line, printable, table, width_of, wrapped, write
from fusion.cli.views.standings import LiveStandings, PlainStandings, Standings
from fusion.core.errors import UsageError
from fusion.core.types import Limits

SUITES: Final = (".yaml", ".yml")
_WITH_SUITE: Final = frozenset(
    {"budget", "config", "gate", "concurrency", "output", "quiet", "debug", "within", "batch", "no_learn"}
)
"""Options that go with a suite; it gives the others itself."""
_MOST_IN_BATCHES: Final = 2_000
_OTHER_FILES: Final = 200
_FILES_OF_A_RUN: Final = 3
_HEAD: Final = ["arm", "kind", "accuracy", "95%", "cost", "points", "95%", "cost ratio", "verdict"]
_SHORT: Final = (0, 2, 5, 6, 7, 8)
"""The columns for a narrow terminal."""
_WIDE: Final = 112
_REVIEWS: Final = [
    "review",
    "of",
    "wrong caught",
    "95%",
    "right refused",
    "95%",
    "repaired",
    "spoiled",
    "cost",
    "calls",
]


def run_bench(options: BenchOptions, command: str) -> int:
    """Run the benchmark, print its figures, and return the exit code."""
    suite, near = _suite(options)
    folder = folder_of(suite, options.output)
    concurrency = concurrency_of(options.concurrency, batch=options.batch)
    settings = read_settings(options.config)
    with standings_of(folder, quiet=options.quiet) as watch:
        report = run(
            suite,
            out=folder,
            near=near,
            settings=settings,
            concurrency=concurrency,
            watch=watch,
            command=command,
            within=options.within,
            batch=options.batch,
            learn=not options.no_learn,
        )
    print_lines(_bench_lines(report, folder))
    return exit_code(report, stopped=False)


@contextmanager
def standings_of(folder: Path, *, quiet: bool) -> Iterator[Watch | None]:
    """Show the standings while arms run; after an interruption, name the folder of the answers so far."""
    standings: Standings = LiveStandings() if is_live(sys.stderr) else PlainStandings()
    with Interrupts():
        try:
            yield None if quiet else standings.show
        except Interrupted:
            if folder.exists():
                complain(f"fusion: answers so far are kept in {str(folder)!r}; run the same command again to go on")
            raise
        finally:
            standings.close()


def concurrency_of(given: int | None, *, batch: bool = False) -> int:
    if given is not None and given < 1:
        raise UsageError(f"--concurrency {given}: give 1 or more")
    return given or (_in_batches() if batch else CONCURRENCY)


def _in_batches() -> int:
    """Return the answers that wait for batches together: as many as the open files of a process allow."""
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(CONCURRENCY, min(_MOST_IN_BATCHES, (files - _OTHER_FILES) // _FILES_OF_A_RUN))


def limits_given(word: str | None) -> Limits | None:
    try:
        return None if word is None else Limits.model_validate(limits_of(word))
    except ValidationError as error:
        raise UsageError(f"--budget {word!r}: give positive usd, tokens, calls or seconds") from error


def print_lines(lines: Iterator[str]) -> None:
    width = width_of(sys.stdout)
    write("\n".join(part for line in lines for part in wrapped(printable(line), width)) + "\n")


def exit_code(report: Report | None, *, stopped: bool) -> int:
    if report is not None and not report.passed:
        return GATE
    return BUDGET if stopped or (report is not None and report.results.stopped) else OK


# The suite.


def _suite(options: BenchOptions) -> tuple[Suite, Path]:
    """Return the suite of a file or of the options, and the folder that its paths are relative to."""
    changes = given({"budget": limits_given(options.budget), "gate": options.gate})
    if options.gate is not None:
        Gate(options.gate)
    if Path(options.what).suffix not in SUITES:
        return _suite_of(options).model_copy(update=changes), Path()
    for field, flag in options.flags().items():
        if field not in _WITH_SUITE:
            raise UsageError(f"{flag} is for a file of items; {options.what!r} is a suite: write it there")
    return Suite.load(options.what).model_copy(update=changes), Path(options.what).parent


def _suite_of(options: BenchOptions) -> Suite:
    arms = dict(_arms(options))
    if not arms:
        raise UsageError("no arm to measure: give -p PIPELINE, -m MODEL, --python or --outputs; each is repeatable")
    if options.scorer is None:
        raise UsageError("no scorer: give --scorer exact, number, …, an expression, or module:function")
    source = {"file": options.what, "prompt": options.prompt, "gold": options.gold, "sample": options.sample}
    name = Path(options.what).name.partition(".")[0] or "items"
    data = {
        "name": name,
        "tasks": {name: given(source)},
        "scorer": options.scorer,
        "arms": arms,
        "on": "all",
        "epochs": options.epochs,
        "seeds": None if options.seed is None else (options.seed,),
        "margin": options.margin,
    }
    try:
        return Suite.model_validate(given(data))
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        place = next(iter(first["loc"]), "suite")
        raise UsageError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _arms(options: BenchOptions) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name each arm, shortly and uniquely."""
    roles = roles_of(options.roles)
    if (roles or options.profile) and not options.pipelines:
        raise UsageError("--role and --profile are for pipelines, and none is given with -p")
    shared = {key: value for key, value in (("profile", options.profile), ("roles", roles)) if value}
    taken: set[str] = set()
    arms = {
        "pipeline": options.pipelines or (),
        "model": options.models or (),
        "python": options.python or (),
        "outputs": options.outputs or (),
    }
    for kind, given in arms.items():
        if len(set(given)) < len(given):
            raise UsageError(f"{max(given, key=given.count)!r} is given twice")
        for word in given:
            name = short_name(word) if kind in ("model", "python") else Path(word).name.partition(".")[0]
            name = name if name not in taken else f"{name} ({word})"
            taken.add(name)
            yield name, {kind: word, **(shared if kind == "pipeline" else {})}


# Figures of a benchmark.


def _bench_lines(report: Report, folder: Path) -> Iterator[str]:
    results, analysis = report.results, report.analysis
    yield from (one_line(sentence) for sentence in analysis.summary)
    none = "" if analysis.best_single is not None else "; no single model"
    yield f"{results.name}: {len(results.items):,} items, {len(results.arms)} arms{none}"
    yield ""
    yield from _arm_lines(analysis, width_of(sys.stdout))
    yield from _review_lines(analysis)
    if analysis.notes:
        yield ""
        yield from (f"- {one_line(note)}" for note in analysis.notes)
    if report.judgements:
        yield ""
    for one in report.judgements:
        yield f"gate {'met' if one.passed else 'not met'} by {one.arm}: {'; '.join(map(str, one.checks))}"
    yield ""
    yield f"report: {folder / 'report.html'}"


def _arm_lines(analysis: Analysis, width: int | None) -> Iterator[str]:
    """Yield the table of the arms, with fewer columns on a narrow terminal, and each arm against random mixing."""
    mixed = {one.arm for one in analysis.baselines if one.arm.startswith(MIXING)}
    shown = [one for one in (*analysis.figures, *analysis.baselines) if one.arm not in mixed]
    rows = [_HEAD, *(_bench_row(one, analysis) for one in shown)]
    kept = range(len(_HEAD)) if width is None or width >= _WIDE else _SHORT
    right = frozenset(at for at, column in enumerate(kept) if column in range(2, 8))
    yield from table([[row[column] for column in kept] for row in rows], right=right, width=width)
    if analysis.mixings:
        yield ""
        yield from (f"- {one_line(mixing_sentence(one))}" for one in analysis.mixings)


def _review_lines(analysis: Analysis) -> Iterator[str]:
    """Yield the figures of the reviews, and each arm against itself without one."""
    measured = [one for one in analysis.reviews if one.unit is not None]
    if measured:
        yield ""
        yield from table(
            [_REVIEWS, *map(_review_row, measured)],
            right=frozenset({2, 3, 4, 5, 6, 7, 8, 9}),
            width=width_of(sys.stdout),
        )
    for one in analysis.reviews:
        if one.plain is not None:
            yield f"- {one_line(one.arm)} {_against_itself(one)}."


def _review_row(one: ReviewFigures) -> list[str]:
    return [
        one_line(review_name(one)),
        f"{one.judged:,} {one.unit}",
        f"{one.caught} of {one.wrong}",
        _percent(one.caught_share),
        f"{one.refused} of {one.right}",
        _percent(one.refused_share),
        f"{one.repaired}",
        f"{one.spoiled}",
        "unknown" if one.cost is None else f"${one.cost:.4f}",
        f"{one.calls:,}",
    ]


def _percent(share: Interval | None) -> str:
    return "" if share is None else f"{100 * share.low:.0f} to {100 * share.high:.0f}%"


def _against_itself(one: ReviewFigures) -> str:
    """Return the comparison of an arm with itself without a review, in words."""
    assert one.plain is not None
    ratio = "an unknown number of" if one.plain.cost_ratio is None else f"{one.plain.cost_ratio.estimate:.3f}"
    words = (
        f"is {_points(one.plain.difference)} from itself without {one.stage}, at {ratio} times the cost: "
        f"{one.plain.verdict}"
    )
    if one.equal is None or not one.equal.share:
        return words
    return f"{words}; {_points(one.equal.difference)} from that money spent otherwise ({equal_use(one.equal)})"


def _points(difference: Interval) -> str:
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.estimate:+.2f} points ({low:+.2f} to {high:+.2f})"


def _bench_row(one: Figures, analysis: Analysis) -> list[str]:
    pair = next((pair for pair in analysis.pairings if pair.arm == one.arm), None)
    known = [
        one_line(one.arm),
        one.kind,
        f"{100 * one.accuracy.estimate:.1f}%",
        f"{100 * one.accuracy.low:.1f} to {100 * one.accuracy.high:.1f}",
        "unknown" if one.cost is None else f"${one.cost:.4f}",
    ]
    if pair is None:
        return [*known, "", "", "", ""]
    return [
        *known,
        f"{100 * pair.difference.estimate:+.2f}",
        f"{100 * pair.difference.low:+.2f} to {100 * pair.difference.high:+.2f}",
        "unknown" if pair.cost_ratio is None else f"{pair.cost_ratio.estimate:.3f}",
        pair.verdict,
    ]
