"""Server: the tools of one server, which is started or reached at first use, and again after it has died."""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from fusion.core.config import McpServer, secret
from fusion.core.errors import StageError, UsageError, close_names
from fusion.core.types import Effect, ToolResult, ToolSpec
from fusion.tools.base import Tool
from fusion.tools.mcp import http, process
from fusion.tools.mcp.connection import Connection
from fusion.tools.mcp.results import Mask, schema_flaw, told

if TYPE_CHECKING:
    import mcp_types

_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME: Final = 64
_LONGEST_WORDS: Final = 1_000
_ERRORS_OF_TOOLS: Final = frozenset({-32601, -32602, -32603, -32001})
"""Codes of errors after which a connection over HTTP goes on: of the request, of the tool, a time-out."""
_CLOSED: Final = -32000
"""Code of the error of a connection that has closed."""
_KEPT: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ")


class McpTool(Tool):
    """A tool of a server, as the server lists it."""

    def __init__(self, server: "Server", name: str, listed: "mcp_types.Tool", effect: Effect) -> None:
        self.name = f"{server.name}.{name}"
        self.effect = effect
        self.timeout = server.table.timeout
        self._server = server
        self.called = name
        """The name that the server gives it."""
        description = (listed.description or listed.title or "")[:_LONGEST_WORDS]
        self.spec = ToolSpec(name=_short(server.name, name), description=description, parameters=listed.input_schema)

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        return await self._server.call(self.called, arguments)


class Server:
    """A server of tools. One connection serves all runs on the event loop, until it dies or is closed."""

    def __init__(self, name: str, table: McpServer) -> None:
        self.name = name
        self.table = table
        self._connection: Connection | None = None
        self._tools: dict[str, McpTool | str] = {}
        self._of: Connection | None = None
        """The connection that listed the tools."""
        self._tail = process.Tail()
        self._code: int | None = None
        self._mask = Mask({})

    @property
    def title(self) -> str:
        """The server in words: its name, and its command or URL."""
        way = self.table.url or shlex.join((self.table.command or "", *self.table.args))
        return f"MCP server {self.name!r} ({way})"

    async def tools(self) -> tuple[McpTool, ...]:
        """Return the tools that may be called, those with an unusable schema left out. Raises StageError."""
        found = (await self._listed()).values()
        return tuple(one for one in found if isinstance(one, McpTool) and self._may(one.called))

    async def tool(self, name: str) -> McpTool:
        """Return a tool by the name that the server gives it. Raises UsageError or StageError if it cannot be had."""
        listed = await self._listed()
        if name not in listed:
            known = [one for one in listed if self._may(one)]
            raise UsageError(f"MCP server {self.name!r} has no tool {name!r}{close_names(name, known)}")
        self.check(name)
        found = listed[name]
        if isinstance(found, str):
            raise StageError(f"tool {self.name}.{name} has a schema that no model can be given: {found}")
        return found

    async def _listed(self) -> dict[str, McpTool | str]:
        """Return the tools that the server lists, or what is wrong with their schemas. Raises StageError."""
        connection = await self._opened()
        if connection is not self._of:
            self._tools = {one.name: schema_flaw(one.input_schema) or self._tool(one) for one in connection.listed}
            self._of = connection
        return self._tools

    def check(self, name: str) -> None:
        """Raise UsageError for a tool that the settings leave out."""
        if not self._may(name):
            file = self.table.folder / "fusion.toml"
            near = close_names(name, self.table.tools or ())
            raise UsageError(f"tool {self.name}.{name} is left out by `tools` of [mcp.{self.name}] in {file}{near}")

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool. Raises StageError for a server that cannot be had, ends, or answers with an error."""
        connection = await self._opened()
        from mcp import MCPError

        try:
            return told(await connection.call(name, arguments))
        except MCPError as error:
            raise StageError(self._fault(connection, error)) from error
        except ValidationError as error:
            raise StageError(f"the server's answer is no result of a tool: {_flaws(error)}") from error

    async def close(self) -> None:
        """End the server, or the connection to it; a later call opens it again."""
        if self._connection is not None:
            await self._connection.close()

    def _may(self, name: str) -> bool:
        return self.table.tools is None or _matches(name, self.table.tools)

    def _tool(self, listed: "mcp_types.Tool") -> McpTool:
        effect: Effect = "read" if _matches(listed.name, self.table.read) else "write"
        return McpTool(self, listed.name, listed, effect)

    async def _opened(self) -> Connection:
        """Return a connection that is open. Raises StageError if there is none to be had."""
        connection = self._connection
        if connection is not None and connection.usable and connection.doubted:
            await connection.answers()
        if connection is None or not connection.usable:
            connection = self._connection = self._new()
        try:
            await connection.opened()
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise StageError(f"{self.title} cannot be started: {error.strerror}: {error.filename}") from error
        except Exception as error:
            raise StageError(self._unopened(error)) from error
        return connection

    def _new(self) -> Connection:
        self._tail, self._code = process.Tail(), None
        return Connection(self._way(), seconds=self.table.start_timeout)

    def _way(self) -> "Callable[[Callable[[], None]], AbstractAsyncContextManager[tuple[Any, Any]]]":
        """Return the opener of the server's streams. Raises UsageError for a variable that is not set."""
        table = self.table
        if table.url is not None:
            headers = {name: _header(name, value) for name, value, _ in self._values(table.headers)}
            self._mask = Mask({value: variable for _, value, variable in self._values(table.headers)})
            opened = partial(http.streams, table.url, headers=headers, seconds=table.timeout)
            return lambda ended: opened()
        given = {name: value for name, value, _ in self._values(table.env)}
        self._mask = Mask({value: variable for _, value, variable in self._values(table.env)})
        command = shutil.which(table.command or "", path=None) or str(table.command)
        tail = self._tail

        def started(ended: Callable[[], None]) -> AbstractAsyncContextManager[tuple[Any, Any]]:
            def over(code: int | None) -> None:
                self._code = code
                ended()

            env = {**_environment(), **given}
            return process.streams((command, *table.args), env=env, folder=table.folder, tail=tail, ended=over)

        return started

    def _values(self, variables: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        for name, variable in variables.items():
            value = secret(variable)
            if value is None:
                raise StageError(f"MCP server {self.name!r} needs {variable}, which is not set; set it")
            yield name, value, variable

    def _unopened(self, error: BaseException) -> str:
        return f"{self.title} cannot be reached: {self._reason(error)}{self._said()}"

    def _reason(self, error: BaseException) -> str:
        if self._code is not None and not isinstance(error, (TimeoutError, ValidationError)):
            return f"it ended with exit code {self._code}"
        words = _flaws(error) if isinstance(error, ValidationError) else str(error)
        return self._mask.text(words or type(error).__name__)

    def _said(self) -> str:
        return f"; it said: {self._mask.text(self._tail.text)}" if self._tail.text else ""

    def _fault(self, connection: Connection, error: Any) -> str:
        """Return the words for an error of the server, or of the way to it, which then is opened anew."""
        if not connection.usable or error.code == _CLOSED:
            connection.retire()
            ended = "" if self._code is None else f" with exit code {self._code}"
            words = f"MCP server {self.name!r} ended{ended} during the call; the next call starts it again"
            return f"{words}{self._said()}"
        if self.table.url is not None and error.code not in _ERRORS_OF_TOOLS:
            connection.retire()
        return self._mask.text(str(error.message)[:_LONGEST_WORDS]) or f"error {error.code}"


def _flaws(error: ValidationError) -> str:
    """Return the places and words of a message that violates the protocol."""
    found = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)[:3])
    return "; ".join(found)[:_LONGEST_WORDS]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, one) for one in patterns)


def _environment() -> dict[str, str]:
    """Return the variables that every program needs; no key is among them."""
    from mcp.client.stdio import get_default_environment

    return {**get_default_environment(), **{name: os.environ[name] for name in _KEPT if name in os.environ}}


def _header(name: str, value: str) -> str:
    bare = name.lower() == "authorization" and " " not in value
    return f"Bearer {value}" if bare else value


def _short(server: str, name: str) -> str:
    """Return the name of a tool as models take it, of at most 64 characters."""
    plain = _OTHER.sub("_", f"{server}__{name}")
    if len(plain) <= _LONGEST_NAME:
        return plain
    return f"{plain[: _LONGEST_NAME - 9]}_{sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
