"""Tools: asks the servers of tools for what they have, and looks at the functions that pipelines may call."""

import asyncio
from collections.abc import Iterator
from typing import Final

from fusion.client.doctor.check import Check, ok, problem, warning
from fusion.core.config import Settings
from fusion.core.errors import FusionError
from fusion.tools.declared import Declared
from fusion.tools.mcp.server import McpTool

_SHOWN: Final = 12


def check_tools(settings: Settings) -> Iterator[Check]:
    """Start or reach every server of tools, and name its tools with those that only read; name allowed functions."""
    if settings.mcp:
        yield from asyncio.run(_servers(settings))
    rules = settings.python
    if rules.allow:
        reads = f"; read: {', '.join(rules.read)}" if rules.read else ""
        yield ok("functions", f"pipelines may call: {', '.join(rules.allow)}{reads}")


async def _servers(settings: Settings) -> list[Check]:
    tools = Declared(settings)
    try:
        return list(await asyncio.gather(*(_server(name, tools) for name in settings.mcp)))
    finally:
        await tools.close()


async def _server(name: str, tools: Declared) -> Check:
    try:
        tools.check(name)
        found = await tools.server(name).tools()
    except FusionError as error:
        words, _, advice = str(error).replace("\n", " ").partition(": pip install")
        told = f"pip install{advice}" if advice else f"correct [mcp.{name}], or start the server"
        return problem(f"mcp {name}", words, told)
    if not found:
        return warning(f"mcp {name}", "it lists no tool that may be called", f"look at `tools` of [mcp.{name}]")
    return ok(f"mcp {name}", _words(found))


def _words(found: tuple[McpTool, ...]) -> str:
    shown = [f"{tool.name} ({tool.effect})" for tool in found[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{len(found)} tool{'s' if len(found) > 1 else ''}: {', '.join(shown)}{more}"
