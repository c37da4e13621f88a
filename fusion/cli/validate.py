"""`fusion validate`: every mistake of every file at once."""

from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import pipeline_names
from fusion.cli.exits import OK, USAGE

if TYPE_CHECKING:
    from fusion.core.errors import Problem


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
    from fusion import graph
    from fusion.core.config import Settings
    from fusion.models.profiles import load_profiles
    from fusion.prompts.library import Library

    settings = Settings.from_environment()
    library = Library.standard(user=settings.library_dir)
    roles = {role for profile in load_profiles().values() for role in profile.roles} | settings.roles.keys()
    return graph.check_file(library.pipeline(file), library, roles=roles)
