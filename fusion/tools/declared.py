"""Declared tools: those of the caller, of MCP servers and of Python functions, by the names that pipelines write."""

import asyncio
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from fusion.core.config import Settings
from fusion.core.errors import UsageError, close_names
from fusion.tools.base import Tool, Toolbox, Tools

if TYPE_CHECKING:
    from fusion.tools.functions import Allowed
    from fusion.tools.mcp import Server

_EXTRA: Final = "pip install 'compound-fusion[mcp]'"


class Declared(Toolbox):
    """The tools that the settings declare, below those `given` by the caller.

    `SERVER.TOOL` is a tool of `[mcp.SERVER]`, and `SERVER` all of them; `module:function` and names of entry points
    are functions of `[python]`.
    """

    def __init__(self, settings: Settings, given: Toolbox | Iterable[Tool | Callable[..., Any]] = ()) -> None:
        self._settings = settings
        self._given = given if isinstance(given, Toolbox) else Tools(given)
        self._open: dict[str, Server] = {}
        variables = (set(one.env.values()).union(one.headers.values()) for one in settings.mcp.values())
        self.secrets = self._given.secrets.union(*variables)

    async def find(self, name: str) -> tuple[Tool, ...]:
        if self.is_given(name):
            return await self._given.find(name)
        server, dot, tool = name.partition(".")
        if ":" not in name and server in self._settings.mcp:
            self.check(name)
            return (await self.server(server).tool(tool),) if dot else await self.server(server).tools()
        if not self._functions.names(name):
            raise UsageError(self._unknown(name))
        if name not in self._functions.found:
            await asyncio.to_thread(self._functions.find, name)
        return (self._functions.found[name],)

    def check(self, name: str) -> None:
        if self.is_given(name):
            return
        server, dot, tool = name.partition(".")
        if ":" not in name and server in self._settings.mcp:
            if find_spec("mcp") is None:
                raise UsageError(f"tool {name!r} of an MCP server needs the extra `mcp`: {_EXTRA}")
            if dot:
                self.server(server).check(tool)
        elif self._functions.names(name):
            self._functions.find(name)
        else:
            raise UsageError(self._unknown(name))

    async def close(self) -> None:
        await self._given.close()
        await asyncio.gather(*(server.close() for server in self._open.values()))

    def server(self, name: str) -> "Server":
        """Return the server of `[mcp.NAME]`."""
        from fusion.tools.mcp import Server  # most runs call no tool

        if name not in self._open:
            self._open[name] = Server(name, self._settings.mcp[name])
        return self._open[name]

    @cached_property
    def _functions(self) -> "Allowed":
        from fusion.tools.functions import Allowed

        return Allowed(self._settings)

    def is_given(self, name: str) -> bool:
        """Return True for a tool of the caller, which only this process has."""
        try:
            self._given.check(name)
        except UsageError:
            return False
        return True

    def _unknown(self, name: str) -> str:
        untrusted = self._settings.untrusted
        if untrusted is not None and name.partition(".")[0] in untrusted.content.mcp:
            return f"no tool {name!r} is declared: {untrusted.notice}"
        known = [*self._settings.mcp, *self._functions.entries]
        near = close_names(name.partition(".")[0], known)
        return (
            f"no tool {name!r} is declared{near}; tools are SERVER.TOOL of [mcp.SERVER] in fusion.toml, "
            "module:function of [python], pipeline:NAME, material.search and material.sections"
        )
