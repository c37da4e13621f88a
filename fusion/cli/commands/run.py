"""`fusion run`: run a pipeline; the answer goes to standard output, everything else to standard error."""

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.runs import RunOptions


@with_options
def run(ctx: typer.Context, options: RunOptions) -> None:
    """Run a pipeline. The answer, and nothing else, goes to standard output."""
    from fusion.cli.session import run_session, show_session

    if options.dry_run:
        show_session(options)
        return
    raise typer.Exit(options.exit_code(run_session(options, ctx.obj)))
