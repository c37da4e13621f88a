"""Commands on pipeline files: new, validate, graph, schema, explain and render."""

import sys
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import kind_names, pipeline_names
from fusion.cli.exits import OK, USAGE
from fusion.cli.options.base import Config, PipelineGiven, with_options
from fusion.cli.options.runs import RenderOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fusion.core.config import Settings
    from fusion.pipeline.loader import Checked
    from fusion.pipeline.reference.explain import Explanation, Parameter
    from fusion.stages.base import Stage

_SCHEMA = "pipeline.schema.json"


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new pipeline and its file.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PIPELINE",
            help="Pipeline to copy: name or file.",
            autocompletion=pipeline_names,
        ),
    ] = "plan-execute-review",
) -> None:
    """Copy a pipeline with its templates, each key explained.

    Prints the names of the new files. No file is overwritten.
    """
    from fusion.cli.arguments import library
    from fusion.cli.terminal import write
    from fusion.pipeline.reference.scaffold import draft

    shelf = library()
    files = draft(name, shelf.pipeline(source), library=shelf)
    if not Path(_SCHEMA).exists():
        files[_SCHEMA] = schema_text()
    _write({Path(file): text for file, text in files.items()})
    write("".join(f"{file}\n" for file in files))


def _write(files: dict[Path, str]) -> None:
    """Write all files, or none if one exists."""
    from fusion.core.errors import UsageError

    for path in files:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{str(path)!r} exists and is not overwritten; choose another name or remove it")
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
        typer.Argument(metavar="FILE...", help="Names or files of pipelines.", autocompletion=pipeline_names),
    ],
    config: Config = None,
) -> None:
    """Check pipelines without running them.

    Valid files are named on standard output, the mistakes of the others on standard error.
    """
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import complain, write
    from fusion.core.errors import UsageError

    code, settings = OK, read_settings(config)
    for file in files:
        try:
            checked = _checked(file, settings)
            problems = [str(problem) for problem in checked.problems]
        except UsageError as error:
            problems = [f"fusion: {error}"]
        if problems:
            code = USAGE
            complain("\n".join(problems))
        else:
            write(f"{file}: ok\n")
            for note in (*checked.usable.dataflow.notes, *_batch_notes(checked.usable.stages)):
                complain(f"{file}: note: {note}")
    raise typer.Exit(code)


def _batch_notes(stages: "Mapping[str, Stage]") -> "Iterator[str]":
    """Tell which stages go their own way with batches."""
    from fusion.stages.base import ModelStage

    for path, stage in stages.items():
        own = stage.resilience() if isinstance(stage, ModelStage) else {}
        late = f", and after {own['deadline']:g} s live" if "deadline" in own else ""
        match own.get("batch", "auto"):
            case "always":
                yield f"stages.{path}: its calls go in batches in every run{late}"
            case "off":
                yield f"stages.{path}: its calls never go in batches"
            case _ if late:
                yield f"stages.{path}: its calls go in batches with --batch{late}"


def _checked(file: str, settings: "Settings") -> "Checked":
    """Read and check a pipeline. Raises UsageError if there is none of this name."""
    from fusion.cli.arguments import library
    from fusion.models.profiles import load_profiles
    from fusion.pipeline.loader import check_file
    from fusion.tools.declared import Declared

    roles = {role for profile in load_profiles().values() for role in profile.roles}
    shelf = library()
    known = roles | settings.roles.keys()
    return check_file(shelf.pipeline(file), shelf, roles=known, toolbox=Declared(settings))


class Format(StrEnum):
    """Output format of `fusion graph`."""

    text = "text"
    mermaid = "mermaid"
    dot = "dot"
    json = "json"


def graph(
    file: PipelineGiven,
    form: Annotated[
        Format, typer.Option("--format", help="Text for terminals, Mermaid for pages, DOT for Graphviz, or JSON.")
    ] = Format.text,
) -> None:
    """Draw a pipeline."""
    from fusion.cli.arguments import library
    from fusion.cli.terminal import write
    from fusion.pipeline.diagram import draw
    from fusion.pipeline.loader import load_file

    shelf = library()
    loaded = load_file(shelf.pipeline(file), shelf)
    write(draw(loaded.pipeline, loaded.prompts, form.value))


def schema() -> None:
    """Print the JSON Schema of pipeline files."""
    from fusion.cli.terminal import write

    write(schema_text())


def schema_text() -> str:
    """Return the JSON Schema of pipeline files as text."""
    import json

    from fusion.pipeline.json_schema import json_schema

    return f"{json.dumps(json_schema(), indent=2, ensure_ascii=False)}\n"


def explain(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="Kind of stage; lists all without it.", autocompletion=kind_names),
    ] = None,
) -> None:
    """Explain a kind of stage, or list all kinds.

    Prints its keys, output fields, templates, cost and an example. `shapes` explains the short types of a `schema`.
    """
    from fusion.cli.terminal import table, width_of, write
    from fusion.pipeline.reference import explain as kinds

    width = width_of(sys.stdout)
    if kind is None:
        lines = table([[*one] for one in (*kinds.summary().items(), (kinds.SHAPES, _SHAPES))])
    elif kind == kinds.SHAPES:
        lines = _shape_lines(below=width is not None)
    else:
        lines = _lines(kinds.explain(kind), below=width is not None)
    write("\n".join(part for line in lines for part in _wrapped(line, width)) + "\n")


_SHAPES = "Short types of a `schema`: texts, numbers, choices, nested fields, optional fields."


def _shape_lines(*, below: bool) -> list[str]:
    """Format the short types; `below` puts their meaning on lines of their own."""
    import json

    from fusion.cli.terminal import table
    from fusion.pipeline.reference.explain import formats, shapes

    rows = [[form.written, form.meaning, json.dumps(form.json_schema)] for form in shapes()]
    forms = [part for row in rows for part in (f"  {row[0]}", f"    {row[1]}")] if below else table(rows)
    return [
        _SHAPES,
        "",
        "Fields of `schema: {…}`",
        *(forms if below else (f"  {line}" for line in forms)),
        "",
        "Every field without `?` is required, and no other field is allowed.",
        "A mapping of JSON Schema keywords, such as type and properties, is a JSON Schema; a text names a file.",
        f"Formats of a JSON Schema that are checked: {', '.join(formats())}.",
        "",
        "Example",
        "  schema:",
        *(f"    {row[0]}" for row in rows if row[0] not in _SAID_TWICE),
    ]


_SAID_TWICE = ("note: string", "state: [open, closed]")


def _wrapped(line: str, width: int | None) -> list[str]:
    """Wrap a line at the width of the terminal, continued with a hanging indent."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return [line] if width is None else textwrap.wrap(line, width, subsequent_indent=indent) or [""]


def _lines(of: "Explanation", *, below: bool) -> list[str]:
    """Format an explanation; `below` puts the description of a key on a line of its own."""
    from fusion.cli.terminal import table

    keys = [_row(parameter) for parameter in of.parameters]
    lines = [of.kind, "", *of.purpose.splitlines(), "", "Keys"]
    if below:
        heads = table([key[:-1] for key in keys])
        lines += [line for head, key in zip(heads, keys, strict=True) for line in (f"  {head}", f"    {key[-1]}")]
    else:
        lines += [f"  {line}" for line in table(keys)]
    lines += ["", f"Output fields (the stage's bare name is the first): {', '.join(of.fields)}"]
    if of.templates:
        lines += ["", "Templates"]
        lines += [f"  {use.key}: {use.default or 'none'}, sees {', '.join(use.sees)}" for use in of.templates]
    if of.cost or of.calls:
        lines += ["", "Cost", *([f"  {of.cost}"] if of.cost else []), *_calls(of)]
    if of.supposed:
        lines += ["", "Assumed in a quote", *(f"  {line}" for line in of.supposed)]
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


@with_options
def render(options: RenderOptions) -> None:
    """Show the messages of a stage's first call; make no call.

    The messages go to standard output; the model and the count of tokens go to standard error.
    """
    from fusion.cli.session import call_of
    from fusion.cli.terminal import complain, write
    from fusion.cli.views.preview import call_words, message_lines

    call = call_of(options)
    if options.json:
        write(f"{call.model_dump_json(indent=2)}\n")
        return
    complain(call_words(call))
    write("\n".join(message_lines(call.messages)) + "\n")
