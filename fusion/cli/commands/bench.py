"""`fusion bench`: measures pipelines against single models, the figures on standard output, progress beside them."""

from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names, profile_names
from fusion.cli.exits import Ending
from fusion.cli.options import Debug, Quiet


def bench(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="SUITE|DATA", help="A suite (.yaml), or a file of items (.jsonl, .csv, .json).")
    ],
    pipelines: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--pipeline",
            metavar="PIPELINE",
            help="An arm: a pipeline; repeatable.",
            autocompletion=pipeline_names,
        ),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("-m", "--model", metavar="MODEL", help="An arm: a single model; repeatable.")
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:FUNCTION", help="An arm: a function of prompts; repeatable."),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="An arm: somebody's answers, id and text; repeatable.")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(metavar="SCORER", help="A scorer's name, an expression of answer and gold, or module:function."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of prompts, or a template over columns.")
    ] = None,
    gold: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of gold answers.")] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="The pipelines' set of models.", autocompletion=profile_names)
    ] = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE=MODEL", help="The pipelines' model of a role.")
    ] = None,
    sample: Annotated[int | None, typer.Option(metavar="N", help="At most so many items, drawn by hash.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="How often each item is asked.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The seed of order and resampling.")] = None,
    margin: Annotated[
        float | None, typer.Option(metavar="SHARE", help="How much worse still counts as not worse; 0.01.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="What all of it may spend: 0.50 (dollars), or usd=…,tokens=…,calls=…."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="What has to hold, else exit code 5."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="How many answers at once; 16.")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where answers and report go.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure pipelines against single models on the same items, at their cost, with intervals.

    The same command again goes on where it was stopped: no answer is paid for twice.
    """
    from fusion.cli.bench_session import Options, run_contest

    ending: Ending = ctx.obj
    ending.debug = ending.debug or debug
    options = Options(
        what=what,
        pipelines=tuple(pipelines or ()),
        models=tuple(models or ()),
        python=tuple(python or ()),
        outputs=tuple(outputs or ()),
        scorer=scorer,
        prompt=prompt,
        gold=gold,
        profile=profile,
        roles=tuple(roles or ()),
        sample=sample,
        epochs=epochs,
        seed=seed,
        margin=margin,
        budget=budget,
        gate=gate,
        concurrency=concurrency,
        output=output,
        quiet=quiet,
    )
    raise typer.Exit(run_contest(options, ending.command))
