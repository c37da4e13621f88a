"""`fusion run`: runs a pipeline, the answer on standard output, everything else on standard error."""

from typing import Annotated, Literal

import typer

from fusion.cli.completion import pipeline_names, profile_names
from fusion.cli.exits import Ending

__all__ = ["run"]


def run(
    ctx: typer.Context,
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="A pipeline's file, or its name.", autocompletion=pipeline_names)
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What is to be done: the first required input. - reads standard input."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "-i", "--input", metavar="NAME=VALUE", help="An input: name=value, name=@file, name=- (standard input)."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="The set of models to use.", autocompletion=profile_names)
    ] = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE=MODEL", help="The model of one role; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", metavar="MODEL", help="One model for all roles.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS", help="What may be spent: 0.50 (dollars), or usd=0.5,tokens=…,calls=…,seconds=…."
        ),
    ] = None,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole result as JSON, also of a run that failed.")
    ] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events", help="Print every event as a line of JSON, instead of the answer (-o FILE writes that)."
        ),
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
