"""`fusion render`: the exact messages that a stage would send."""

from typing import Annotated

import typer

from fusion.cli.completion import stage_names
from fusion.cli.declared import Inputs, Model, PipelineGiven, Profile, Prompt, Roles


def render(
    pipeline: PipelineGiven,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage.", autocompletion=stage_names)],
    prompt: Prompt = None,
    inputs: Inputs = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="STAGE=VALUE",
            help="What stands for another stage's result: stage=@file, stage.field=value; items as a JSON list.",
        ),
    ] = None,
    item: Annotated[int, typer.Option(min=1, metavar="N", help="Which item, of a stage of items.")] = 1,
    profile: Profile = None,
    roles: Roles = None,
    model: Model = None,
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
