"""`fusion graph`: a pipeline's stages and what they read of each other, drawn."""

from enum import StrEnum
from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names

__all__ = ["graph"]


class Format(StrEnum):
    """How the graph is drawn."""

    text = "text"
    mermaid = "mermaid"


def graph(
    file: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="A pipeline's file, or its name.", autocompletion=pipeline_names)
    ],
    how: Annotated[
        Format, typer.Option("--format", help="Text for a terminal, or Mermaid for a page.")
    ] = Format.text,
) -> None:
    """Draw a pipeline."""
    from fusion import graph as graphs
    from fusion.cli.terminal import write
    from fusion.config import Settings
    from fusion.library import Library

    library = Library.standard(user=Settings.from_environment().library_dir)
    pipeline, prompts = graphs.load_checked(library.pipeline(file), library=library)
    drawn = graphs.draw(pipeline, prompts, how.value)
    write(drawn if drawn.endswith("\n") else f"{drawn}\n")
