"""Options of `fusion map`."""

from typing import Annotated, Literal

from typer import Argument, Option

from fusion.cli.options.base import Batch, Config, Debug, Options, PipelineGiven, Profile, Quiet, StoreFile, Within


class MapOptions(Options):
    """Options of `fusion map`."""

    pipeline: PipelineGiven
    sources: Annotated[
        list[str],
        Argument(
            metavar="INPUTS...",
            help="Rows: a table (.jsonl, .csv, .tsv, .parquet), a folder, a pattern in quotes, files, or - (standard"
            " input).",
        ),
    ]
    output: Annotated[
        str | None,
        Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File of answers: .jsonl, .csv, .tsv or .parquet; else JSONL printed.",
        ),
    ] = None
    key: Annotated[str | None, Option("--key", metavar="COLUMN", help="Column that identifies a row.")] = None
    id: Annotated[
        str | None, Option("--id", metavar="NAME", help="Name of the map, to go on with it; else from its files.")
    ] = None
    columns: Annotated[
        list[str] | None,
        Option("-i", "--input", metavar="NAME=COLUMN", help="Column of an input of the pipeline; repeatable."),
    ] = None
    constants: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="Input that is the same for all rows: name=value, name=@file."),
    ] = None
    format: Annotated[
        Literal["jsonl", "csv", "tsv", "parquet", "files"] | None,
        Option("--format", help="Format of INPUTS, where their names do not tell it."),
    ] = None
    limit: Annotated[int | None, Option("--limit", min=1, metavar="N", help="Read the first N rows only.")] = None
    sample: Annotated[int | None, Option("--sample", min=1, metavar="N", help="Read N rows only, drawn by hash.")] = (
        None
    )
    ordered: Annotated[bool, Option("--ordered", help="Write rows in the order of INPUTS.")] = False
    on: Annotated[
        str | None,
        Option("--on", metavar="WHERE", help="Run the rows elsewhere: `workers`, `ray`, or ray://HOST:PORT."),
    ] = None
    concurrency: Annotated[
        int | None, Option("--concurrency", min=1, metavar="N", help="Rows at once; 16, or 1,000 with --on.")
    ] = None
    budget: Annotated[
        str | None,
        Option(
            "--budget", metavar="LIMITS", help="Limits of the whole map: 0.50 (dollars), or usd=…,tokens=…,calls=…."
        ),
    ] = None
    within: Within = None
    fail_fast: Annotated[bool, Option("--fail-fast", help="Stop at the first failed row.")] = False
    max_failed: Annotated[
        str | None,
        Option(
            "--max-failed", metavar="N|SHARE", help="Stop beyond so many failed rows: 20, or 5%; up to it, exit 0."
        ),
    ] = None
    retry_failed: Annotated[bool, Option("--retry-failed", help="Ask again for rows that failed or lack parts.")] = (
        False
    )
    batch: Batch = False
    profile: Profile = None
    roles: Annotated[
        list[str] | None, Option("--role", metavar="ROLE=MODEL", help="Model of a role; repeatable.")
    ] = None
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="Model of every role.")] = None
    tags: Annotated[list[str] | None, Option("--tag", metavar="KEY=VALUE", help="Tag of the map; repeatable.")] = None
    cache: Annotated[
        Literal["off", "run", "shared"] | None,
        Option("--cache", help="Reuse no replies, those of a row, or of every run."),
    ] = None
    config: Config = None
    store: StoreFile = None
    no_store: Annotated[bool, Option("--no-store", hidden=True, help="Refused: a map goes on from its store.")] = (
        False
    )
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show the rows to run and a quote from a sample; make no call.")
    ] = False
    json: Annotated[bool, Option("--json", help="Print the report as JSON, in place of rows.")] = False
    events: Annotated[bool, Option("--events", help="Print every event as a line of JSON, in place of rows.")] = False
    events_to: Annotated[
        str | None, Option("--events-to", metavar="FILE", help="Write every event to a file as a line of JSON.")
    ] = None
    quiet: Quiet = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="Show every row.")] = False
    debug: Debug = False
