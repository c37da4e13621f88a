"""`fusion render`: the exact messages that a stage would send."""

from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names, profile_names, stage_names

__all__ = ["render"]


def render(
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="A pipeline's file, or its name.", autocompletion=pipeline_names)
    ],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage.", autocompletion=stage_names)],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The first required input, as for `fusion run`.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "-i", "--input", metavar="NAME=VALUE", help="An input: name=value, name=@file, name=- (standard input)."
        ),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="STAGE=VALUE",
            help="What stands for another stage's result: stage=@file, stage.field=value; items as a JSON list.",
        ),
    ] = None,
    item: Annotated[int, typer.Option(min=1, metavar="N", help="Which item, of a stage of items.")] = 1,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="The set of models to use.", autocompletion=profile_names)
    ] = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE=MODEL", help="The model of one role; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", metavar="MODEL", help="One model for all roles.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the call as JSON.")] = False,
) -> None:
    """Show the exact messages of a stage's first call, and make no call.

    The messages go to standard output; who is asked, and how many tokens that is, to standard error.
    """
    from fusion.cli.preview import call_words, message_lines
    from fusion.cli.session import Options, call_of
    from fusion.cli.terminal import complain, write

    options = Options(
        pipeline=pipeline,
        prompt=prompt,
        inputs=tuple(inputs or ()),
        profile=profile,
        roles=tuple(roles or ()),
        model=model,
    )
    call = call_of(options, stage, item - 1, tuple(results or ()))
    if as_json:
        write(f"{call.model_dump_json(indent=2)}\n")
        return
    complain(call_words(call))
    write("\n".join(message_lines(call.messages)) + "\n")
