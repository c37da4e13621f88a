"""Options of `fusion serve` and `fusion mcp`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from fusion.cli.completion import pipeline_names
from fusion.cli.options.base import Config, Debug, Options, Profile, Quiet, StoreFile, Within

if TYPE_CHECKING:
    from fusion.client.client import Fusion
    from fusion.core.config import ServerTable, Settings

Host = Annotated[
    str, Option("--host", metavar="ADDRESS", help="Address to listen on; others than loopback need a token.")
]


class ServedOptions(Options):
    """Options of every server: the pipelines, their models and limits, and the store."""

    pipelines: Annotated[
        list[str] | None,
        Argument(metavar="[PIPELINES]...", help="Names or files of pipelines.", autocompletion=pipeline_names),
    ] = None
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

    def fusion(self, settings: "Settings") -> "Fusion":
        """Return a Fusion with these models and a store."""
        from fusion.cli.arguments import roles_of
        from fusion.client.client import Fusion
        from fusion.core.paths import store_place

        store = True if self.store is None else store_place(self.store)
        roles = roles_of(self.roles)
        return Fusion(profile=self.profile, roles=roles, model=self.model, store=store, settings=settings)

    def table(self, settings: "Settings") -> "ServerTable":
        """Return the table of the settings, with what the options replace."""
        from fusion.cli.arguments import limits_of
        from fusion.core.budget import limits_of as limits

        given = {"budget": limits(limits_of(self.budget)), "within": self.within}
        return settings.server.model_copy(update={name: value for name, value in given.items() if value is not None})

    def served(self) -> dict[str, str]:
        """Return the pipelines that are given, by the name of the model. Raises UsageError for one name of two."""
        from fusion.core.errors import UsageError

        found: dict[str, str] = {}
        for given in self.pipelines or ():
            name = f"fusion/{Path(given).stem if given.endswith(('.yaml', '.yml')) else given}"
            if name in found:
                raise UsageError(f"{found[name]!r} and {given!r} are both {name!r}; name them in [server.pipelines]")
            found[name] = given
        return found


class ServeOptions(ServedOptions):
    """Options of `fusion serve`."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Option("--port", min=0, max=65535, metavar="N", help="Port; 0 for any free one.")] = 8484


class McpOptions(ServedOptions):
    """Options of `fusion mcp`."""

    http: Annotated[bool, Option("--http", help="Listen on an address instead of standard input and output.")] = False
    host: Host = "127.0.0.1"
    port: Annotated[
        int, Option("--port", min=0, max=65535, metavar="N", help="Port of --http; 0 for any free one.")
    ] = 8485
