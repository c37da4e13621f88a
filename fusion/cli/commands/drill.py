"""`fusion drill`: the stages of a pipeline that would die without some models, on paper or in a live run."""

import sys
from typing import TYPE_CHECKING

import typer

from fusion.cli.exits import FAILED, OK
from fusion.cli.options.base import with_options
from fusion.cli.options.runs import DrillOptions, RunOptions

if TYPE_CHECKING:
    from fusion.cli.exits import Ending
    from fusion.core.result import Result


@with_options
def drill(ctx: typer.Context, options: DrillOptions) -> None:
    """Show the stages that would die without a provider.

    On paper, without a call: exit code 0 if every stage goes on, 3 if one would die or lose parts. With --live the
    pipeline runs, calls to these models fail unsent, and the exit code is that of `fusion run`.
    """
    _check(options)
    raise typer.Exit(_live(options, ctx.obj) if options.live else _on_paper(options))


def _on_paper(options: DrillOptions) -> int:
    from fusion.cli.session import drill_of
    from fusion.cli.terminal import printable, width_of, write
    from fusion.cli.views.preview import drill_lines

    found = drill_of(options)
    if options.json:
        write(f"{found.model_dump_json(indent=2)}\n")
    else:
        write("\n".join(map(printable, drill_lines(found, width_of(sys.stdout)))) + "\n")
    return OK if found.survives else FAILED


def _live(options: DrillOptions, ending: "Ending") -> int:
    from fusion.cli.session import run_session
    from fusion.cli.terminal import complain

    shared = {name: getattr(options, name) for name in options.fields() if name in RunOptions.fields()}
    given = RunOptions(**shared, cache="off", tags=[f"drill={','.join(options.without or ())}"])
    handle = run_session(given, ending, outages=tuple(options.without or ()))
    for line in _elsewhere(handle.wait()):
        complain(line)
    return given.exit_code(handle)


def _elsewhere(result: "Result") -> list[str]:
    """Name the stages whose calls were answered by other models."""
    moved = [line for line in result.receipt.lines if line.asked is not None and line.calls]
    lines = [f"{line.stage} ({line.role}) went on with {line.model} in place of {line.asked}" for line in moved]
    return lines or ["no call was answered by another model"]


def _check(options: DrillOptions) -> None:
    """Raise UsageError for options that contradict each other, or an invalid pattern."""
    from fusion.core.config.policy import check_pattern
    from fusion.core.errors import UsageError

    if options.live and not options.without:
        raise UsageError("--live needs --without PATTERN: the models to take away, such as --without openai")
    if options.budget is not None and not options.live:
        raise UsageError("--budget has no effect without --live, since a drill on paper makes no call")
    for pattern in options.without or ():
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise UsageError(f"--without: {error}") from error
