"""One benchmark on the command line: from the options to the exit code."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fusion.bench.arms.base import short_name
from fusion.bench.benchmark import CONCURRENCY, folder_of, run
from fusion.bench.report.figures import Analysis, Figures
from fusion.bench.report.gate import Gate
from fusion.bench.report.report import Report
from fusion.bench.suite import Suite
from fusion.cli.arguments import limits_of, roles_of
from fusion.cli.exits import BUDGET, GATE, OK, Interrupted
from fusion.cli.interrupts import Interrupts
from fusion.cli.terminal import complain, is_live, one_line, printable, table, write
from fusion.cli.views.standings import LiveStandings, PlainStandings, Standings
from fusion.core.errors import UsageError
from fusion.core.types import Limits

_SUITES: Final = (".yaml", ".yml")
_ALWAYS: Final = frozenset({"what", "budget", "gate", "concurrency", "output", "quiet"})
_OPTIONS: Final = {
    "pipelines": "-p",
    "models": "-m",
    "roles": "--role",
}


@dataclass(frozen=True)
class Options:
    """What the command line says about a benchmark."""

    what: str
    pipelines: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    scorer: str | None = None
    prompt: str | None = None
    gold: str | None = None
    profile: str | None = None
    roles: tuple[str, ...] = ()
    sample: int | None = None
    epochs: int | None = None
    seed: int | None = None
    margin: float | None = None
    budget: str | None = None
    gate: str | None = None
    concurrency: int | None = None
    output: str | None = None
    quiet: bool = False


def run_contest(options: Options, command: str) -> int:
    """Run the benchmark, print its figures, and give the exit code."""
    suite, near = _suite(options)
    folder = folder_of(suite, options.output)
    concurrency = CONCURRENCY if options.concurrency is None else options.concurrency
    if concurrency < 1:
        raise UsageError(f"--concurrency {concurrency}: give 1 or more")
    standings: Standings = LiveStandings() if is_live(sys.stderr) else PlainStandings()
    with Interrupts():
        try:
            report = run(
                suite,
                out=folder,
                near=near,
                concurrency=concurrency,
                watch=None if options.quiet else standings.show,
                command=command,
            )
        except Interrupted:
            if folder.exists():
                complain(f"fusion: what was answered is kept in {str(folder)!r}; the same command goes on from there")
            raise
        finally:
            standings.close()
    write("\n".join(printable(line) for line in _lines(report, folder)) + "\n")
    if not report.passed:
        return GATE
    return BUDGET if report.results.stopped else OK


# The suite.


def _suite(options: Options) -> tuple[Suite, Path]:
    """The suite that is named, or one made of the options; and the folder that its files lie in."""
    own = {"budget": _limits(options.budget), "gate": options.gate}
    changes = {name: value for name, value in own.items() if value is not None}
    if options.gate is not None:
        Gate(options.gate)
    if Path(options.what).suffix in _SUITES:
        _refuse(options)
        return Suite.load(options.what).model_copy(update=changes), Path(options.what).parent
    return _of_options(options).model_copy(update=changes), Path()


def _refuse(options: Options) -> None:
    """Refuse what a suite says by itself."""
    for field in fields(options):
        if field.name not in _ALWAYS and getattr(options, field.name) not in (None, ()):
            name = _OPTIONS.get(field.name, f"--{field.name}")
            raise UsageError(f"{name} is for a file of items; {options.what!r} is a suite: write it there")


def _of_options(options: Options) -> Suite:
    arms = dict(_arms(options))
    if not arms:
        raise UsageError("no arm to measure: give -p PIPELINE, -m MODEL, --python or --outputs; each is repeatable")
    if options.scorer is None:
        raise UsageError("no scorer: give --scorer exact, number, …, an expression, or module:function")
    source = {"file": options.what, "prompt": options.prompt, "gold": options.gold, "sample": options.sample}
    name = Path(options.what).name.partition(".")[0] or "items"
    seeds = None if options.seed is None else (options.seed,)
    given = {"epochs": options.epochs, "seeds": seeds, "margin": options.margin}
    data = {
        "name": name,
        "tasks": {name: {key: value for key, value in source.items() if value is not None}},
        "scorer": options.scorer,
        "arms": arms,
        "on": "all",
        **{key: value for key, value in given.items() if value is not None},
    }
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        place = next(iter(first["loc"]), "suite")
        raise UsageError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def _arms(options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm under a short name that no other has."""
    roles = roles_of(options.roles)
    if (roles or options.profile) and not options.pipelines:
        raise UsageError("--role and --profile are for pipelines, and none is given with -p")
    shared = {key: value for key, value in (("profile", options.profile), ("roles", roles)) if value}
    taken: set[str] = set()
    for kind, given in (
        ("pipeline", options.pipelines),
        ("model", options.models),
        ("python", options.python),
        ("outputs", options.outputs),
    ):
        if len(set(given)) < len(given):
            raise UsageError(f"{max(given, key=given.count)!r} is given twice")
        for word in given:
            name = short_name(word) if kind in ("model", "python") else Path(word).name.partition(".")[0]
            name = name if name not in taken else f"{name} ({word})"
            taken.add(name)
            yield name, {kind: word, **(shared if kind == "pipeline" else {})}


def _limits(word: str | None) -> Limits | None:
    if word is None:
        return None
    try:
        return Limits.model_validate(limits_of(word))
    except ValidationError as error:
        raise UsageError(f"--budget {word!r}: give positive usd, tokens, calls or seconds") from error


# What is printed.


def _lines(report: Report, folder: Path) -> Iterator[str]:
    results, analysis = report.results, report.analysis
    yield f"{results.name}: {len(results.items):,} items, best single model: {analysis.best_single or 'none'}"
    yield ""
    yield from table(_rows(analysis), right=frozenset({2, 3, 4, 5, 6, 7}))
    if analysis.notes:
        yield ""
        yield from (f"- {one_line(note)}" for note in analysis.notes)
    if report.judgements:
        yield ""
    for one in report.judgements:
        yield f"gate {'met' if one.passed else 'not met'} by {one.arm}: {'; '.join(map(str, one.checks))}"
    yield ""
    yield f"report: {folder / 'report.html'}"


def _rows(analysis: Analysis) -> list[list[str]]:
    head = ["arm", "kind", "accuracy", "95%", "cost", "difference", "95%", "cost ratio", "verdict"]
    return [head, *(_row(one, analysis) for one in (*analysis.figures, *analysis.baselines))]


def _row(one: Figures, analysis: Analysis) -> list[str]:
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
