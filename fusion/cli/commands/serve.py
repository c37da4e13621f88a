"""`fusion serve`: pipelines as models of the APIs that clients speak."""

import signal
from typing import TYPE_CHECKING

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.serve import ServeOptions

if TYPE_CHECKING:
    from fusion.client.client import Fusion
    from fusion.core.config import ServerTable


@with_options
def serve(ctx: typer.Context, options: ServeOptions) -> None:
    """Serve pipelines as models over HTTP.

    Any program that speaks OpenAI's or Anthropic's API can use them: those given, else those of [server] in
    fusion.toml, else all shipped ones and those of the folder, as `fusion/NAME`. Every run is kept in the store.
    """
    from fusion.cli.exits import INTERRUPTED
    from fusion.cli.terminal import logged
    from fusion.core.errors import UsageError

    try:
        import httptools  # noqa: F401 - with the next two, the extra
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError("`fusion serve` needs the extra server: pip install 'compound-fusion[server]'") from error
    with logged("uvicorn", quiet=options.quiet, debug=ctx.obj.debug):
        number = _serve(options)
    if number not in (0, signal.SIGTERM):
        raise typer.Exit(INTERRUPTED)


def _serve(options: ServeOptions) -> int:
    """Serve to the end, and return the number of the signal that ended it."""
    from fusion.cli.settings import read_settings

    settings = read_settings(options.config)
    table = options.table(settings)
    with options.fusion(settings) as fusion:
        return _listen(fusion, table, options)


def _listen(fusion: "Fusion", table: "ServerTable", options: ServeOptions) -> int:
    from fusion.cli.terminal import complain, write
    from fusion.server.app import build
    from fusion.server.guard.hosts import is_loopback
    from fusion.server.listener.serve import Listener, address, bound

    app = build(fusion, table=table, pipelines=options.served(), public=not is_loopback(options.host))
    models = app.state.service.catalog.check()
    with bound(options.host, options.port) as listening:

        def ready() -> None:
            write(f"{address(listening)}\n")
            if not options.quiet:
                complain(f"fusion: serving {', '.join(models)}")
                complain(f"fusion: base URL {address(listening)}/v1; runs go to {fusion.store.where}; Ctrl-C ends it")

        listener = Listener(app, ready=ready)
        listener.run_on(listening)
    return listener.signal
