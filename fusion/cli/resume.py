"""`fusion resume`: takes up a run that ended before its answer, or runs an edited pipeline on what a run has."""

from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names, run_ids
from fusion.cli.exits import Ending

__all__ = ["resume"]


def resume(
    ctx: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="The run's id, or the beginning of it, or: latest.", autocompletion=run_ids
        ),
    ],
    pipeline: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE",
            help="An edited pipeline: a new run on the same inputs, which asks only what is not the same.",
            autocompletion=pipeline_names,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="What may be spent in all, before included: 0.50, or usd=0.5,calls=…."),
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="PATH", help="The file in which the run is kept.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole result as JSON, also of a run that failed.")
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Print every event as a line of JSON, instead of the answer.")
    ] = False,
    events_to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every event to a file, as a line of JSON.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write the answer to a file.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Nothing on standard error but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the calls one by one.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Go on with a run that was killed, stopped or failed; what is finished is not paid again.

    A run that has its answer gives it again.
    """
    from fusion.cli.session import ResumeOptions, resume_session

    ending: Ending = ctx.obj
    ending.debug = ending.debug or debug
    options = ResumeOptions(
        run=run,
        pipeline=pipeline,
        budget=budget,
        store=store,
        json=as_json,
        events=events,
        events_to=events_to,
        output=output,
        quiet=quiet,
        verbose=verbose,
    )
    raise typer.Exit(resume_session(options, ending).exit_code)
