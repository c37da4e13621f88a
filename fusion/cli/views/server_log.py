"""Server log: what a server logs, on standard error."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logged(*names: str, quiet: bool, debug: bool) -> Iterator[None]:
    """Print the log of Fusion and of these libraries to standard error, tracebacks with --debug only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("fusion: %(message)s") if debug else _Short("fusion: %(message)s"))
    handler.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("fusion", *names)]
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
        return f"{type(error).__name__}: {error}; `fusion --debug …` shows the traceback"
