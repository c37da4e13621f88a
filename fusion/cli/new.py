"""`fusion new`: a pipeline of one's own, copied with its templates, each key explained."""

from pathlib import Path
from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names

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
    from fusion.cli.schema import schema_text
    from fusion.cli.terminal import write
    from fusion.core.config import Settings
    from fusion.draft import draft
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
