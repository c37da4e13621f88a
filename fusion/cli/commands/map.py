"""`fusion map`: run a pipeline over many inputs; each row is a run that is made once."""

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.maps import MapOptions


@with_options
def map(ctx: typer.Context, options: MapOptions) -> None:  # noqa: A001 - the name of the command
    """Run a pipeline over many inputs, each of them a row.

    Rows come from a table, a folder, a pattern of files or standard input. Columns go to the pipeline's inputs of
    their names. Started again, it goes on: rows that are done are not asked again, changed and new ones run.
    """
    from fusion.cli.map_session import run_map, show_map

    if options.dry_run:
        show_map(options)
        return
    raise typer.Exit(run_map(options, ctx.obj))
