"""`fusion resume`: takes up a run that ended before its answer, or runs an edited pipeline on what a run has."""

from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names
from fusion.cli.exits import Ending
from fusion.cli.options import Debug, EventsTo, KeptIn, Output, Quiet, ResultAsJson, RunGiven, Verbose


def resume(
    ctx: typer.Context,
    run: RunGiven,
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
    store: KeptIn = None,
    as_json: ResultAsJson = False,
    events: Annotated[
        bool, typer.Option("--events", help="Print every event as a line of JSON, instead of the answer.")
    ] = False,
    events_to: EventsTo = None,
    output: Output = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
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
