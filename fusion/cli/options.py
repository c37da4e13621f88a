"""Arguments and options that several commands take, each declared once."""

from typing import Annotated

import typer

from fusion.cli.completion import pipeline_names, profile_names, run_ids

# What is run, and on which models.

PipelineGiven = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A pipeline's file, or its name.", autocompletion=pipeline_names)
]
Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What is to be done: the first required input. - reads standard input."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "-i", "--input", metavar="NAME=VALUE", help="An input: name=value, name=@file, name=- (standard input)."
    ),
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="The set of models to use.", autocompletion=profile_names),
]
Roles = Annotated[
    list[str] | None, typer.Option("--role", metavar="ROLE=MODEL", help="The model of one role; repeatable.")
]
Model = Annotated[str | None, typer.Option("-m", "--model", metavar="MODEL", help="One model for all roles.")]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="LIMITS", help="What may be spent: 0.50 (dollars), or usd=0.5,tokens=…,calls=…,seconds=…."
    ),
]

# Runs that are kept.

RunGiven = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's id, or the beginning of it, or: latest.", autocompletion=run_ids),
]
KeptIn = Annotated[str | None, typer.Option("--store", metavar="PATH", help="The file in which runs are kept.")]

# What is said of a run.

ResultAsJson = Annotated[
    bool, typer.Option("--json", help="Print the whole result as JSON, also of a run that failed.")
]
EventsTo = Annotated[
    str | None,
    typer.Option("--events-to", metavar="FILE", help="Write every event to a file, as a line of JSON."),
]
Output = Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write the answer to a file.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Nothing on standard error but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show the calls one by one.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
