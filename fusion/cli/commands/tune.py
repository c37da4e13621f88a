"""`fusion tune`: chooses what a suite leaves open on its dev items, and confirms the choice on its test items."""

from typing import Annotated

import typer

from fusion.cli.exits import Ending
from fusion.cli.options import Debug, Quiet


def tune(
    ctx: typer.Context,
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="A suite (.yaml) with {any: [a, b]} in place of values.")
    ],
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="What the search may spend: 0.50 (dollars), or usd=…,tokens=…,calls=…."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="How many answers at once; 16.")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where answers, files and report go.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Choose models, thresholds and numbers on the dev items, and confirm the choice once on the test items.

    Whatever stands as {any: [a, b, c]} in the suite's arms or in their pipeline files is chosen. What comes out are
    files that `fusion run` takes. The same command again goes on where it was stopped: no answer is paid for twice.
    """
    from fusion.cli.tune_session import Options, run_tuning

    ending: Ending = ctx.obj
    ending.debug = ending.debug or debug
    options = Options(suite, budget, concurrency, output, quiet, ending.command)
    raise typer.Exit(run_tuning(options))
