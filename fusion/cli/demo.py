"""`fusion demo`: the main job over a report that ships with Fusion, its answer checked against the report."""

from typing import Annotated

import typer

from fusion.cli.completion import profile_names
from fusion.cli.declared import Debug, Quiet, Verbose
from fusion.cli.exits import FAILED, Ending


def demo(
    ctx: typer.Context,
    profile: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The set of models to use; by default the embedded ones, which need no key.",
            autocompletion=profile_names,
        ),
    ] = "local",
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Plan, work in parallel, review and merge over a report that ships with Fusion; check the answer against it."""
    from fusion.cli.session import Options, run_session
    from fusion.cli.terminal import complain
    from fusion.demo import FACTS, PIPELINE, TASK, faults, report

    ending: Ending = ctx.obj
    ending.debug = ending.debug or debug
    if not quiet:
        complain(f"report   {report()}\ntask     {TASK}\n")
    options = Options(
        pipeline=PIPELINE,
        prompt=TASK,
        inputs=(f"context=@{report()}",),
        profile=profile,
        kept=False,
        quiet=quiet,
        verbose=verbose,
    )
    handle = run_session(options, ending)
    if handle.exit_code:
        raise typer.Exit(handle.exit_code)
    wrong = faults(handle.wait().text)
    if wrong:
        complain("\n".join(["\nfusion: the answer is not what the report says:", *wrong]))
        raise typer.Exit(FAILED)
    if not quiet:
        complain(f"\nchecked: what the answer says of all {len(FACTS)} parts of the port is what the report says")
