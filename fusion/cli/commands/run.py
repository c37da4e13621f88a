"""`fusion run`: runs a pipeline, the answer on standard output, everything else on standard error."""

from typing import Annotated, Literal

import typer

from fusion.cli.exits import Ending
from fusion.cli.options import (
    Budget,
    Debug,
    EventsTo,
    Inputs,
    Model,
    Output,
    PipelineGiven,
    Profile,
    Prompt,
    Quiet,
    ResultAsJson,
    Roles,
    Verbose,
)


def run(
    ctx: typer.Context,
    pipeline: PipelineGiven,
    prompt: Prompt = None,
    inputs: Inputs = None,
    profile: Profile = None,
    roles: Roles = None,
    model: Model = None,
    budget: Budget = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The file that keeps the run; else as FUSION_STORE or fusion.toml say."),
    ] = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Keep nothing of the run, so that it cannot be resumed.")
    ] = False,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A word of yours for the run; repeatable.")
    ] = None,
    cache: Annotated[
        Literal["off", "run", "shared"] | None,
        typer.Option(help="Where replies may come from that were paid before: of nowhere, this run, every run."),
    ] = None,
    resume_or_start: Annotated[
        bool,
        typer.Option(
            "--resume-or-start", help="Go on with the latest run of the same, if it has no answer; else start one."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show stages, models, first prompts and bounds; make no call.")
    ] = False,
    as_json: ResultAsJson = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events", help="Print every event as a line of JSON, instead of the answer (-o FILE writes that)."
        ),
    ] = False,
    events_to: EventsTo = None,
    output: Output = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run a pipeline. The answer, and nothing else, goes to standard output."""
    from fusion.cli.session import Options, run_session, show_session

    ending: Ending = ctx.obj
    ending.debug = ending.debug or debug
    options = Options(
        pipeline=pipeline,
        prompt=prompt,
        inputs=tuple(inputs or ()),
        profile=profile,
        roles=tuple(roles or ()),
        model=model,
        budget=budget,
        store=store,
        kept=not no_store,
        tags=tuple(tags or ()),
        cache=cache,
        resume_or_start=resume_or_start,
        json=as_json,
        events=events,
        events_to=events_to,
        output=output,
        quiet=quiet,
        verbose=verbose,
    )
    if dry_run:
        show_session(options)
        return
    raise typer.Exit(run_session(options, ending).exit_code)
