"""`fusion approve`: answer the question of a run that waits for a person, and go on with it."""

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.runs import ApproveOptions


@with_options
def approve(ctx: typer.Context, options: ApproveOptions) -> None:
    """Answer gates of a run or a map, and go on with it.

    Without an answer among the options, the gate is shown and the person at the terminal asked. Of a map, each gate
    in turn. With --all an answer counts for every gate. The first answer counts: a second one is told of it.
    """
    from fusion.cli.session import approve_session

    end = approve_session(options, ctx.obj)
    raise typer.Exit(end if isinstance(end, int) else options.exit_code(end))
