"""`fusion tune`: search the open values of a suite on its dev items, and confirm the choice on its test items."""

import typer

from fusion.cli.options import TuneOptions, with_options


@with_options
def tune(ctx: typer.Context, options: TuneOptions) -> None:
    """Choose models, thresholds and numbers on dev items.

    Every {any: [a, b, c]} in the suite's arms or in their pipeline files is chosen. The choice is confirmed once on
    the test items, and written to files that `fusion run` takes. Run the same command again to go on after an
    interruption: no answer is paid twice.
    """
    from fusion.cli.bench_session import run_tune

    raise typer.Exit(run_tune(options, ctx.obj.command))
