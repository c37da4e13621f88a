"""Connection: one connection to a server of tools, opened and closed in a task of its own."""

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from fusion.core.errors import first_error

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult, Tool

Streams = AbstractAsyncContextManager[tuple[Any, Any]]
_MOST_PAGES: Final = 20
_MOST_TOOLS: Final = 500
_PROBE: Final = 2.0
"""Seconds that a server has to list its tools after a call that was late or cancelled."""


class Connection:
    """A connection over the streams that `open_streams` returns; `ended` is its callback for their end.

    The protocol's library opens and closes in the same task, so one task holds the connection; calls come from any.
    """

    def __init__(self, open_streams: Callable[[Callable[[], None]], Streams], *, seconds: float) -> None:
        self.listed: tuple[Tool, ...] = ()
        self.failure: BaseException | None = None
        """The reason why the connection could not be opened."""
        self._open_streams = open_streams
        self._seconds = seconds
        self._client: Client | None = None
        self._settled = asyncio.Event()
        self._over = asyncio.Event()
        self._under_way = 0
        self._retired = False
        self._doubted = False
        self._task = asyncio.get_running_loop().create_task(self._hold())  # it outlives the run that needs it first

    async def opened(self) -> None:
        """Wait until the server has listed its tools. Raises the reason if it cannot be had."""
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure

    @property
    def usable(self) -> bool:
        """True while further calls may use the connection, also while it opens."""
        return not (self._over.is_set() or self._retired or self._task.done())

    @property
    def doubted(self) -> bool:
        """True after a call that was late or cancelled, until the server answers again."""
        return self._doubted

    async def call(self, name: str, arguments: dict[str, Any]) -> "CallToolResult":
        """Call a tool. Raises MCPError for an error of the server, or of the way to it."""
        import mcp_types

        params = mcp_types.CallToolRequestParams(name=name, arguments=arguments)
        assert self._client is not None
        with self._used():
            return await self._client.session.send_request(
                mcp_types.CallToolRequest(params=params), mcp_types.CallToolResult
            )

    async def answers(self) -> bool:
        """Return True if the server still answers; else further calls need another connection."""
        import mcp_types

        assert self._client is not None
        try:
            async with asyncio.timeout(_PROBE):
                await self._client.session.send_request(mcp_types.ListToolsRequest(), mcp_types.ListToolsResult)
        except Exception:  # noqa: BLE001 - whatever the fault, it does not answer
            self.retire()
            return False
        except asyncio.CancelledError:
            self.retire()
            raise
        self._doubted = False
        return True

    def retire(self) -> None:
        """Take no further calls, and close once those under way have ended."""
        self._retired = True
        if not self._under_way:
            self._over.set()

    async def close(self) -> None:
        """Close the connection, and wait for the end of its server."""
        self._over.set()
        await asyncio.wait([self._task])

    @contextmanager
    def _used(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        except asyncio.CancelledError:
            self._doubted = True
            raise
        finally:
            self._under_way -= 1
            if self._retired and not self._under_way:
                self._over.set()

    async def _hold(self) -> None:
        try:
            await asyncio.to_thread(_load)
            async with asyncio.timeout(self._seconds) as limit:
                await self._serve(limit)
        except TimeoutError:
            self.failure = TimeoutError(f"it does not list its tools within {self._seconds:g} s")
        except BaseExceptionGroup as group:
            self.failure = first_error(group)
        except Exception as error:  # noqa: BLE001 - told to those that wait for the connection
            self.failure = error
        finally:
            self._over.set()
            self._settled.set()

    async def _serve(self, limit: asyncio.Timeout) -> None:
        from mcp import Client

        async with Client(self._open_streams(self._over.set)) as client:
            self.listed = await _listing(client)
            self._client = client
            limit.reschedule(None)
            self._settled.set()
            await self._over.wait()


def _load() -> None:
    """Import the library, which takes half a second, and keep its remarks off the terminal."""
    importlib.import_module("mcp")
    for name in ("mcp", "client"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


async def _listing(client: "Client") -> "tuple[Tool, ...]":
    found: list[Tool] = []
    page = await client.list_tools()
    found += page.tools
    for _ in range(_MOST_PAGES):
        if not page.next_cursor or len(found) >= _MOST_TOOLS:
            break
        page = await client.list_tools(cursor=page.next_cursor)
        found += page.tools
    return tuple(found[:_MOST_TOOLS])
