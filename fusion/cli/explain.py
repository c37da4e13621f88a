"""`fusion explain`: what a kind of stage is for, what it takes, gives and costs."""

from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import kind_names

if TYPE_CHECKING:
    from fusion.explain import Explanation, Parameter


def explain(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND", help="A kind of stage; without it, all are listed.", autocompletion=kind_names
        ),
    ] = None,
) -> None:
    """Explain a kind of stage: its keys, its output fields, its templates, an example, and what it costs."""
    from fusion import explain as explaining
    from fusion.cli.terminal import table, write

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
