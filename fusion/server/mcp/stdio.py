"""Stdio: the MCP server for the one client that started this process."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Self

from mcp.server.stdio import stdio_server

from fusion.core.errors import FusionError
from fusion.core.log import LOG
from fusion.server.mcp.server import Tools
from fusion.server.service import Service

_PIECE: Final = 65_536
_KILLED: Final = 130
_SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def serve(service: Service) -> int:
    """Serve until the client closes standard input; return the number of the signal that ended it, 0 for none.

    Standard output holds the protocol alone: all else that is written to it goes to standard error.
    """
    return asyncio.run(_serve(service))


async def _serve(service: Service) -> int:
    ended = _Signals()
    serving = asyncio.create_task(_talk(service))
    ended.cancel(serving)
    warming = asyncio.create_task(_warm(service))
    with suppress(asyncio.CancelledError):
        await serving
    warming.cancel()
    await service.runs.end()
    return ended.number


async def _talk(service: Service) -> None:
    server = Tools(service).server()
    async with stdio_server(stdin=Lines(asyncio.get_running_loop())) as (reading, writing):  # type: ignore[arg-type]
        await server.run(reading, writing, server.create_initialization_options())


async def _warm(service: Service) -> None:
    try:
        await service.fusion.awarm()
    except FusionError as error:
        LOG.warning("not warmed: %s", error)


class _Signals:
    """Signals that end the server; the second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0

    def cancel(self, serving: "asyncio.Task[None]") -> None:
        """Cancel the server at a signal."""
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            asyncio.get_running_loop().add_signal_handler(number, self._handle, number, serving)

    def _handle(self, number: int, serving: "asyncio.Task[None]") -> None:
        if self.number:
            os._exit(_KILLED)
        self.number = number
        serving.cancel()


class Lines:
    """Lines of standard input, read by a thread of its own, so that a read in vain holds up no end.

    Processes that are started meanwhile find standard input empty.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)
        self._number = os.dup(0)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        threading.Thread(target=self._read, name="fusion-stdin", daemon=True).start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            for line in self._split():
                self._put(line)
            self._put(None)

    def _split(self) -> Iterator[str]:
        pieces: list[bytes] = []
        while piece := os.read(self._number, _PIECE):
            *ends, rest = piece.split(b"\n")
            for end in ends:
                yield b"".join([*pieces, end]).decode("utf-8", "replace")
                pieces.clear()
            pieces.append(rest)

    def _put(self, line: str | None) -> None:
        with suppress(asyncio.CancelledError, TimeoutError):
            asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
