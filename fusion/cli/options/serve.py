"""Options of `fusion serve`."""

from typing import Annotated

from typer import Argument, Option

from fusion.cli.completion import pipeline_names
from fusion.cli.options.base import Config, Debug, Options, Profile, Quiet, StoreFile, Within


class ServeOptions(Options):
    """Options of `fusion serve`."""

    pipelines: Annotated[
        list[str] | None,
        Argument(metavar="[PIPELINES]...", help="Names or files of pipelines.", autocompletion=pipeline_names),
    ] = None
    host: Annotated[
        str, Option("--host", metavar="ADDRESS", help="Address to listen on; others than loopback need a token.")
    ] = "127.0.0.1"
    port: Annotated[int, Option("--port", min=0, max=65535, metavar="N", help="Port; 0 for any free one.")] = 8484
    profile: Profile = None
    roles: Annotated[
        list[str] | None, Option("--role", metavar="ROLE=MODEL", help="Model of a role; repeatable.")
    ] = None
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="Model of every role.")] = None
    budget: Annotated[
        str | None,
        Option("--budget", metavar="LIMITS", help="Limits of each request: 0.50 (dollars), or usd=…,tokens=…."),
    ] = None
    within: Within = None
    store: StoreFile = None
    config: Config = None
    quiet: Quiet = False
    debug: Debug = False
