"""`fusion new`: a pipeline of one's own, copied with its templates, each key explained."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import kind_names, pipeline_names, stage_names
from fusion.cli.exits import OK, USAGE
from fusion.cli.options import Inputs, Model, PipelineGiven, Profile, Prompt, Roles

if TYPE_CHECKING:
    from fusion.core.errors import Problem
    from fusion.pipeline.explain import Explanation, Parameter

_SCHEMA = "pipeline.schema.json"


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the new pipeline, and of its file.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PIPELINE",
            help="The pipeline to copy: its name or file.",
            autocompletion=pipeline_names,
        ),
    ] = "plan-execute-review",
) -> None:
    """Make a pipeline of your own: a copy with its templates, each key explained. Nothing is overwritten.

    The files that were made are named on standard output.
    """
    from fusion.cli.terminal import write
    from fusion.core.config import Settings
    from fusion.pipeline.scaffold import draft
    from fusion.prompts.library import Library

    library = Library.standard(user=Settings.from_environment().library_dir)
    files = draft(name, library.pipeline(source), library=library)
    if not Path(_SCHEMA).exists():
        files[_SCHEMA] = schema_text()
    _write({Path(file): text for file, text in files.items()})
    write("".join(f"{file}\n" for file in files))


def _write(files: dict[Path, str]) -> None:
    """Write all of the files, or none where one is there already."""
    from fusion.core.errors import UsageError

    for path in files:
        if path.exists() or path.is_symlink():
            raise UsageError(
                f"{str(path)!r} is there already and is not overwritten; choose another name or remove it"
            )
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error


def validate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files of pipelines, or names.", autocompletion=pipeline_names),
    ],
) -> None:
    """Check pipelines without running them.

    Files that can run are named on standard output, all mistakes of the others on standard error.
    """
    from fusion.cli.terminal import complain, write
    from fusion.core.errors import UsageError

    code = OK
    for file in files:
        try:
            problems = [str(problem) for problem in _problems(file)]
        except UsageError as error:
            problems = [f"fusion: {error}"]
        if problems:
            code = USAGE
            complain("\n".join(problems))
        else:
            write(f"{file}: ok\n")
    raise typer.Exit(code)


def _problems(file: str) -> "list[Problem]":
    from fusion.core.config import Settings
    from fusion.models.profiles import load_profiles
    from fusion.pipeline.loader import check_file
    from fusion.prompts.library import Library

    settings = Settings.from_environment()
    library = Library.standard(user=settings.library_dir)
    roles = {role for profile in load_profiles().values() for role in profile.roles} | settings.roles.keys()
    return check_file(library.pipeline(file), library, roles=roles)


class Format(StrEnum):
    """How the graph is drawn."""

    text = "text"
    mermaid = "mermaid"
    dot = "dot"
    json = "json"


def graph(
    file: PipelineGiven,
    how: Annotated[
        Format,
        typer.Option(
            "--format", help="Text for a terminal, Mermaid for a page, DOT for Graphviz, JSON for programs."
        ),
    ] = Format.text,
) -> None:
    """Draw a pipeline."""
    from fusion.cli.terminal import write
    from fusion.core.config import Settings
    from fusion.pipeline.diagram import draw
    from fusion.pipeline.loader import load_file
    from fusion.prompts.library import Library

    library = Library.standard(user=Settings.from_environment().library_dir)
    loaded = load_file(library.pipeline(file), library)
    write(draw(loaded.pipeline, loaded.prompts, how.value))


def schema() -> None:
    """Print the JSON Schema of pipeline files."""
    from fusion.cli.terminal import write

    write(schema_text())


def schema_text() -> str:
    """The JSON Schema of pipeline files as it stands in a file."""
    import json

    from fusion.pipeline.json_schema import json_schema

    return f"{json.dumps(json_schema(), indent=2, ensure_ascii=False)}\n"


def explain(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND", help="A kind of stage; without it, all are listed.", autocompletion=kind_names
        ),
    ] = None,
) -> None:
    """Explain a kind of stage: its keys, its output fields, its templates, an example, and what it costs."""
    from fusion.cli.terminal import table, write
    from fusion.pipeline import explain as explaining

    if kind is None:
        write("\n".join(table([[name, line] for name, line in explaining.summary().items()])) + "\n")
        return
    write("\n".join(_lines(explaining.explain(kind))) + "\n")


def _lines(of: "Explanation") -> list[str]:
    from fusion.cli.terminal import table

    lines = [of.kind, "", *of.purpose.splitlines(), "", "Keys"]
    lines += [f"  {line}" for line in table([_row(parameter) for parameter in of.parameters])]
    lines += ["", f"Output fields, of which the stage's bare name means the first: {', '.join(of.fields)}"]
    if of.templates:
        lines += ["", "Templates"]
        lines += [f"  {use.key}: {use.default}, which sees {', '.join(use.sees)}" for use in of.templates]
    if of.cost or of.calls:
        lines += ["", "Cost", *([f"  {of.cost}"] if of.cost else []), *_calls(of)]
    if of.supposed:
        lines += ["", "Supposed in a quote", *(f"  {line}" for line in of.supposed)]
    if of.example:
        lines += ["", "Example", *(f"  {line}" for line in of.example.splitlines())]
    return lines


def _row(parameter: "Parameter") -> list[str]:
    default = "required" if parameter.required else _default(parameter.default)
    return [parameter.name, parameter.type, default, parameter.description]


def _default(value: object) -> str:
    import json

    if value is None:
        return "-"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _calls(of: "Explanation") -> list[str]:
    most = [f"{calls} call{'s' * (calls != 1)} for {items} item{'s' * (items != 1)}" for items, calls in of.calls]
    return [f"  As in the example, at most: {', '.join(most)}."] if most else []


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
    from fusion.cli.session import Options, call_of
    from fusion.cli.terminal import complain, write
    from fusion.cli.views.preview import call_words, message_lines

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
