"""Serve: an application on a socket, until a signal ends it gracefully."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette

from fusion.core.errors import UsageError
from fusion.server.listener.protocol import BoundedProtocol
from fusion.server.service import Service

_KEEP_ALIVE: Final = 30
_AFTER_GRACE: Final = 5
"""Seconds that stopped runs get to tell their clients, beyond the grace of the settings."""
_BACKLOG: Final = 512
_KILLED: Final = 130
_SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises UsageError for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port, or 0 for any free one"
        ) from error


def address(listening: socket.socket) -> str:
    """Return the address of a listening socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listener(uvicorn.Server):
    """uvicorn with Fusion's bounds and Fusion's end: running requests finish within the grace, then stop.

    In the main thread, SIGINT, SIGTERM or SIGHUP end it, and a second one ends the process at once. `ready` is called
    once requests are taken; `signal` is then the number of the signal that ended it, 0 for none.
    """

    def __init__(self, app: Starlette, *, ready: Callable[[], None] = lambda: None) -> None:
        self._service: Service = app.state.service
        self._ready = ready
        self.signal = 0
        table = self._service.table
        protocol = type("Protocol", (BoundedProtocol,), {"most": table.connections, "idle": {}})
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=int(table.grace) + _AFTER_GRACE,
                backlog=_BACKLOG,
            )
        )

    def run_on(self, listening: socket.socket) -> None:
        """Serve on a listening socket until the end."""
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(self.serve([listening]))

    def stop(self) -> None:
        """Take no more requests, and end once those that run are answered or their grace is over; from any thread."""
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._service.runs.close()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End the server by a signal."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal:
                os._exit(_KILLED)
            self.signal = number
            self.stop()

        before = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)
