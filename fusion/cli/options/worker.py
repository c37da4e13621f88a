"""Options of `fusion worker`."""

from typing import Annotated

from typer import Option

from fusion.cli.options.base import Config, Debug, Options, Quiet, StoreFile


class WorkerOptions(Options):
    """Options of `fusion worker`."""

    store: StoreFile = None
    concurrency: Annotated[int, Option("--concurrency", min=1, max=10_000, metavar="N", help="Rows at once.")] = 16
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="Name in lists and messages; else host and process.")
    ] = None
    idle: Annotated[
        float | None,
        Option("--idle", min=0, metavar="SECONDS", help="End after so long without work; 0: once none waits."),
    ] = None
    grace: Annotated[
        float, Option("--grace", min=0, metavar="SECONDS", help="Time for running rows after SIGTERM.")
    ] = 30.0
    listed: Annotated[bool, Option("--list", help="List the workers of the store, and serve nothing.")] = False
    json: Annotated[bool, Option("--json", help="Print the list as JSON.")] = False
    events: Annotated[bool, Option("--events", help="Print what happens as lines of JSON.")] = False
    config: Config = None
    quiet: Quiet = False
    debug: Debug = False
