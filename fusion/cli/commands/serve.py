"""`fusion serve`: pipelines as models of the APIs that clients speak."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.serve import ServeOptions

if TYPE_CHECKING:
    from fusion.client.client import Fusion
    from fusion.core.config import ServerTable, Settings


@with_options
def serve(ctx: typer.Context, options: ServeOptions) -> None:
    """Serve pipelines as models over HTTP.

    Any program that speaks OpenAI's or Anthropic's API can use them: those given, else those of [server] in
    fusion.toml, else all shipped ones and those of the folder, as `fusion/NAME`. Every run is kept in the store.
    """
    from fusion.cli.exits import INTERRUPTED
    from fusion.core.errors import UsageError

    try:
        import httptools  # noqa: F401 - with the next two, the extra
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError("`fusion serve` needs the extra server: pip install 'compound-fusion[server]'") from error
    with _logged(quiet=options.quiet, debug=ctx.obj.debug):
        number = _serve(options)
    if number not in (0, signal.SIGTERM):
        raise typer.Exit(INTERRUPTED)


def _serve(options: ServeOptions) -> int:
    """Serve to the end, and return the number of the signal that ended it."""
    from fusion.cli.arguments import roles_of
    from fusion.cli.settings import read_settings
    from fusion.client.client import Fusion
    from fusion.core.paths import user_path

    settings = read_settings(options.config)
    table = _table(options, settings)
    store = True if options.store is None else user_path(options.store)
    roles = roles_of(options.roles)
    with Fusion(profile=options.profile, roles=roles, model=options.model, store=store, settings=settings) as fusion:
        return _listen(fusion, table, options)


def _listen(fusion: "Fusion", table: "ServerTable", options: ServeOptions) -> int:
    from fusion.cli.terminal import complain, write
    from fusion.server.app import build
    from fusion.server.guard.hosts import is_loopback
    from fusion.server.listener.serve import Listener, address, bound

    app = build(fusion, table=table, pipelines=_pipelines(options), public=not is_loopback(options.host))
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


def _table(options: ServeOptions, settings: "Settings") -> "ServerTable":
    """Return the table of the settings, with what the options replace."""
    from fusion.cli.arguments import limits_of
    from fusion.core.budget import limits_of as limits

    budget = limits(limits_of(options.budget))
    given = {"budget": budget, "within": options.within}
    return settings.server.model_copy(update={name: value for name, value in given.items() if value is not None})


def _pipelines(options: ServeOptions) -> dict[str, str]:
    """Return the pipelines that are given, by the name of the model. Raises UsageError for one name of two."""
    from fusion.core.errors import UsageError

    found: dict[str, str] = {}
    for given in options.pipelines or ():
        name = f"fusion/{Path(given).stem if given.endswith(('.yaml', '.yml')) else given}"
        if name in found:
            raise UsageError(f"{found[name]!r} and {given!r} are both {name!r}; name them in [server.pipelines]")
        found[name] = given
    return found


@contextmanager
def _logged(*, quiet: bool, debug: bool) -> Iterator[None]:
    """Print the log of the server to standard error, tracebacks with --debug only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("fusion: %(message)s") if debug else _Short("fusion: %(message)s"))
    handler.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("fusion", "uvicorn")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(handler.level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class _Short(logging.Formatter):
    """Format without tracebacks, which name the last error only."""

    def formatException(self, ei: object) -> str:  # noqa: N802 - as logging names it
        error = ei[1] if isinstance(ei, tuple) else ei
        return f"{type(error).__name__}: {error}; `fusion --debug serve` shows the traceback"
