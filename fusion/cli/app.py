"""App: the command `fusion`, its commands and its exit code."""

import os
import sys
import warnings
from functools import cache
from typing import Annotated, Any

import typer

from fusion import __version__
from fusion.cli.commands import models, runs
from fusion.cli.commands.approve import approve
from fusion.cli.commands.bench import bench
from fusion.cli.commands.budgets import budgets
from fusion.cli.commands.calibrate import calibrate
from fusion.cli.commands.demo import demo
from fusion.cli.commands.doctor import doctor
from fusion.cli.commands.drill import drill
from fusion.cli.commands.learned import learned
from fusion.cli.commands.map import map as map_command
from fusion.cli.commands.mcp import mcp
from fusion.cli.commands.pipeline import explain, graph, new, render, schema, validate
from fusion.cli.commands.quote import quote
from fusion.cli.commands.resume import resume
from fusion.cli.commands.run import run
from fusion.cli.commands.serve import serve
from fusion.cli.commands.trust import trust
from fusion.cli.commands.tune import tune
from fusion.cli.commands.worker import worker
from fusion.cli.exits import EPILOG, OK, Ending
from fusion.cli.options.base import Config
from fusion.cli.terminal import complain, write

_HELP = {"help_option_names": ["-h", "--help"]}


def main() -> None:
    """Run the command line and exit; print tracebacks with --debug only."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries are for developers; standard error is the run's
    code = run_command([_utf_8(word) for word in sys.argv[1:]])
    _send_traces()
    sys.exit(code)


def _send_traces() -> None:
    """Send the spans that wait, if runs are traced; a collector that does not answer costs a second."""
    providers = sys.modules.get("fusion.client.telemetry.providers")
    if providers is not None and not providers.send():
        complain(f"fusion: note: not all traces reached {providers.collector()}; the run itself is complete")


def application() -> typer.Typer:
    """Return the typer application. A command imports its modules when it runs, so that help stays fast."""
    # Plain help: Rich would double the time of `fusion --help`.
    app = typer.Typer(
        name="fusion", no_args_is_help=True, rich_markup_mode=None, epilog=EPILOG, context_settings=_HELP
    )
    app.callback()(_options)
    running = (run, map_command, worker, resume, approve, quote, drill, serve, mcp)
    making = (new, validate, graph, render, explain, schema)
    for command in (*running, *making, demo, bench, tune, calibrate, budgets, trust, doctor):
        app.command(context_settings=_HELP)(command)
    app.add_typer(runs.application(), name="runs")
    listed = models.application()
    listed.command(context_settings=_HELP)(learned)
    app.add_typer(listed, name="models")
    return app


def _version(given: bool) -> None:
    if given:
        write(f"fusion {__version__}\n")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    config: Config = None,
) -> None:
    """Run compound models: a frontier model plans, cheaper models work in parallel, a frontier model reviews."""
    ctx.obj.debug = debug
    if config is not None:
        ctx.default_map = _defaults(ctx.command, config)


def _defaults(command: Any, config: str) -> dict[str, Any]:
    """Return the default of `--config` for a command and for all below it, as typer takes them."""
    below = getattr(command, "commands", {})
    return {"config": config, **{name: _defaults(one, config) for name, one in below.items()}}


def _utf_8(word: str) -> str:
    """Decode an argument as UTF-8 in any locale; return other bytes unchanged."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


@cache
def _command() -> Any:
    """Return the click command of the application, made once in a process."""
    return typer.main.get_command(application())


def run_command(arguments: list[str]) -> int:
    """Run a command line and return its exit code. Raises nothing."""
    ending = Ending(words=tuple(arguments))
    try:
        _command().main(args=arguments, prog_name="fusion", obj=ending)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    except BaseException as error:  # noqa: BLE001 - the border of the command line
        return ending.of(error)
    return OK
