"""What the tests of the MCP server share: its tools on scripted models, in this process and over HTTP."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.types import CallToolResult
from starlette.applications import Starlette

from fusion import Fusion
from fusion.core.config import ServerTable
from fusion.server.guard.callers import Callers
from fusion.server.mcp.app import build
from fusion.server.mcp.server import Tools
from fusion.server.service import Service
from tests.server.conftest import Served, models_of, pipeline, serving

MODES = ("legacy", "auto")
"""The protocol with a handshake, and that of 2026 without one."""


@dataclass
class Offered:
    """The tools of a Fusion, for clients in this process."""

    fusion: Fusion
    service: Service

    def client(self, mode: str = "auto", **options: Any) -> Client:
        return Client(Tools(self.service).server(), mode=mode, **options)

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> CallToolResult:
        async with self.client() as client:
            return await client.call_tool(tool, dict(arguments or {}), **options)

    def run_of(self, result: CallToolResult) -> Any:
        """The row of a call's run in the store."""
        self.fusion.store.flush()
        row = self.fusion.store.run(result.meta["fusion"]["run"])
        assert row is not None
        return row


Offer = Callable[..., Offered]


@pytest.fixture
def offer(fusion: Callable[..., Fusion]) -> Offer:
    """Offers pipelines, given as YAML by name, as tools: `offer("hello", pipelines={"x": …})`."""

    def start(
        scripts: Any = "the answer",
        *,
        pipelines: Mapping[str, str] | None = None,
        table: Mapping[str, Any] | None = None,
        everything: bool = False,
        **options: Any,
    ) -> Offered:
        made = fusion(models_of(scripts), **{"store": True, **options})
        given = {name: pipeline(text) for name, text in (pipelines or {}).items()} or {"echo": pipeline()}
        settings = ServerTable(**{"grace": 1, **(table or {})})
        return Offered(made, Service.of(made, settings, None if everything else given))

    return start


def app(fusion: Fusion, *, table: ServerTable, pipelines: Mapping[str, Any] | None) -> Starlette:
    return build(Service.of(fusion, table, pipelines), callers=Callers.needed(table, public=False))


@pytest.fixture
def over_http(fusion: Callable[..., Fusion]) -> Iterator[Callable[..., Served]]:
    """Serves tools over HTTP."""
    with ExitStack() as running:

        def start(scripts: Any = "the answer", **options: Any) -> Served:
            models = models_of(scripts)
            made = fusion(models, store=True)
            return running.enter_context(serving(made, models, make=app, **options))

        yield start


@asynccontextmanager
async def connected(served: Served, mode: str = "auto", **headers: str) -> Any:
    """A client of a server over HTTP, with these headers."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def text_of(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content)
