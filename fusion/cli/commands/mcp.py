"""`fusion mcp`: pipelines as tools of an MCP server."""

import signal
from typing import TYPE_CHECKING

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.serve import McpOptions

if TYPE_CHECKING:
    from fusion.server.service import Service


@with_options
def mcp(ctx: typer.Context, options: McpOptions) -> None:
    """Serve pipelines as tools of an MCP server.

    A program that speaks MCP starts it, and talks to it over standard input and output; with --http it listens on an
    address, at /mcp. The tools are those given, else those of [server] in fusion.toml, else all shipped pipelines and
    those of the folder. Every run is kept in the store.
    """
    from fusion.cli.exits import INTERRUPTED
    from fusion.cli.terminal import logged
    from fusion.core.errors import UsageError

    flags = {"--host", "--port"} & set(options.flags().values())
    if flags and not options.http:
        raise UsageError(f"{min(flags)} is for --http; without it the server talks over standard input and output")
    _check_installed(options)
    with logged("mcp", "uvicorn", quiet=options.quiet, debug=ctx.obj.debug):
        number = _serve(options)
    if number not in (0, signal.SIGTERM):
        raise typer.Exit(INTERRUPTED)


def _check_installed(options: McpOptions) -> None:
    from fusion.core.errors import UsageError

    try:
        import mcp.server.lowlevel  # noqa: F401 - the extra

        if options.http:
            import httptools  # noqa: F401 - the other extra
    except ImportError as error:
        extras = "mcp,server" if options.http else "mcp"
        raise UsageError(f"`fusion mcp` needs the extra {extras}: pip install 'compound-fusion[{extras}]'") from error


def _serve(options: McpOptions) -> int:
    """Serve to the end, and return the number of the signal that ended it."""
    from fusion.cli.settings import read_settings
    from fusion.server.service import Service

    settings = read_settings(options.config)
    table = options.table(settings)
    with options.fusion(settings) as fusion:
        service = Service.of(fusion, table, options.served())
        service.catalog.check()
        return _listen(service, options) if options.http else _talk(service)


def _talk(service: "Service") -> int:
    from fusion.server.mcp.stdio import serve

    return serve(service)


def _listen(service: "Service", options: McpOptions) -> int:
    from fusion.cli.terminal import complain, write
    from fusion.server.guard.callers import Callers
    from fusion.server.guard.hosts import is_loopback
    from fusion.server.listener.serve import Listener, address, bound
    from fusion.server.mcp.app import PATH, build

    public = not is_loopback(options.host)
    app = build(service, callers=Callers.needed(service.table, public=public), public=public)
    with bound(options.host, options.port) as listening:

        def ready() -> None:
            write(f"{address(listening)}{PATH}\n")
            if not options.quiet:
                complain(f"fusion: MCP server; runs go to {service.fusion.store.where}; Ctrl-C ends it")

        listener = Listener(app, ready=ready)
        listener.run_on(listening)
    return listener.signal
