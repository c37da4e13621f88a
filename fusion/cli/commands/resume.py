"""`fusion resume`: resume a run, or run an edited pipeline on the calls of an earlier run."""

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.runs import ResumeOptions


@with_options
def resume(ctx: typer.Context, options: ResumeOptions) -> None:
    """Resume a run that ended early, or that lost a part.

    Finished calls are not paid again. A run that has its whole answer prints it again; of a partial one, the lost
    parts are asked for again.
    """
    from fusion.cli.session import resume_session

    raise typer.Exit(options.exit_code(resume_session(options, ctx.obj)))
