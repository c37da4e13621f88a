"""`fusion graph`: a pipeline's stages and what they read of each other, drawn."""

from enum import StrEnum
from typing import Annotated

import typer

from fusion.cli.declared import PipelineGiven


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
    from fusion import graph as graphs
    from fusion.cli.terminal import write
    from fusion.core.config import Settings
    from fusion.drawing import draw
    from fusion.prompts.library import Library

    library = Library.standard(user=Settings.from_environment().library_dir)
    pipeline, prompts = graphs.load_checked(library.pipeline(file), library=library)
    write(draw(pipeline, prompts, how.value))
