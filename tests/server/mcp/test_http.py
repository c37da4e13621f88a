"""Tools over HTTP: both protocols, the guard, callers, cancelled calls, and clients that go away."""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from mcp.shared.exceptions import MCPError

from fusion.store.rows import RunFilter
from tests.server.conftest import Held, Served, until
from tests.server.mcp.conftest import MODES, connected, text_of

pytestmark = pytest.mark.anyio

Start = Callable[..., Served]
TOKEN, OTHER = "s3cret-token-of-the-test", "another-token-of-the-test"
JSON = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def statuses(served: Served) -> list[str]:
    served.fusion.store.flush()
    return [row.status for row in served.fusion.store.runs(RunFilter())]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_lists_and_calls_tools(over_http: Start, mode: str) -> None:
    served, told = over_http(), []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with connected(served, mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["echo"]
        result = await client.call_tool("echo", {"prompt": "hello"}, progress_callback=hear)
        failed = await client.call_tool("echo", {"promt": "hello"})
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.01)
    assert result.content[0].text == "the answer"
    assert failed.is_error
    assert "did you mean 'prompt'?" in text_of(failed)
    assert statuses(served) == ["ok"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_cancelled_call_ends_its_run(over_http: Start, mode: str) -> None:
    held = Held()
    served = over_http(held)
    async with connected(served, mode) as client:
        calling = asyncio.create_task(client.call_tool("echo", {"prompt": "x"}))
        await asyncio.to_thread(held.busy.wait, 5)
        calling.cancel()
        await asyncio.to_thread(until, lambda: statuses(served) == ["interrupted"])
        with pytest.raises((asyncio.CancelledError, MCPError)):
            await calling


@pytest.mark.parametrize("mode", MODES)
async def test_two_clients_call_at_once(over_http: Start, mode: str) -> None:
    held = Held()
    served = over_http(held)
    async with connected(served, mode) as one, connected(served, mode) as other:
        calls = [asyncio.create_task(client.call_tool("echo", {"prompt": "x"})) for client in (one, other)]
        await asyncio.to_thread(until, lambda: held.calls == 2)
        held.release.set()
        results = [await call for call in calls]
    assert len({result.meta["fusion"]["run"] for result in results}) == 2


def posted(served: Served, body: Any, **headers: str) -> httpx.Response:
    with served.client() as client:
        return client.post("/mcp", json=body, headers={**JSON, **headers})


def test_a_client_whose_connection_breaks_ends_its_run(over_http: Start) -> None:
    held = Held()
    served = over_http(held)
    version = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opened = posted(served, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": version})
    session = opened.headers["mcp-session-id"]
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"prompt": "x"}},
    }
    place, data = urlsplit(served.url), json.dumps(body).encode()
    headers = {**JSON, "host": place.netloc, "mcp-session-id": session, "content-length": str(len(data))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + data)
        assert held.busy.wait(5)
    until(lambda: statuses(served) == ["interrupted"])


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"host": "evil.example.org"}, 403, "this host name is not served"),
        ({"origin": "https://evil.example.org"}, 403, "web pages of other origins are refused"),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403, "this web page may not call"),
        ({"x-long": "x" * 40_000}, 431, "the headers have more than"),
    ],
    ids=["host", "origin", "site", "headers"],
)
def test_foreign_requests_are_refused(over_http: Start, headers: dict[str, str], status: int, said: str) -> None:
    refused = posted(over_http(), LIST, **headers)
    assert refused.status_code == status
    error = refused.json()
    assert (error["jsonrpc"], error["id"]) == ("2.0", None)
    assert said in error["error"]["message"]


def test_a_body_that_is_too_large_is_refused(over_http: Start) -> None:
    served = over_http(table={"max_body": 1_000})
    assert posted(served, {**LIST, "params": {"x": "y" * 2_000}}).status_code == 413


async def test_a_server_with_tokens_knows_its_callers(over_http: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA_TOKEN", TOKEN)
    monkeypatch.setenv("CI_TOKEN", OTHER)
    served = over_http(table={"tokens": {"ada": "ADA_TOKEN", "ci": "CI_TOKEN"}})
    assert posted(served, LIST).status_code == 401
    assert posted(served, LIST, authorization="Bearer wrong").status_code == 401
    async with connected(served, "legacy", authorization=f"Bearer {TOKEN}") as client:
        assert not (await client.call_tool("echo", {"prompt": "x"})).is_error
    (row,) = served.fusion.store.runs(RunFilter())
    assert row.tags == {"caller": "ada", "from": "mcp"}


def test_a_session_is_for_its_own_caller(over_http: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA_TOKEN", TOKEN)
    monkeypatch.setenv("CI_TOKEN", OTHER)
    served = over_http(table={"tokens": {"ada": "ADA_TOKEN", "ci": "CI_TOKEN"}})
    version = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": version}
    session = posted(served, body, authorization=f"Bearer {TOKEN}").headers["mcp-session-id"]
    own = {"mcp-session-id": session, "authorization": f"Bearer {TOKEN}"}
    assert posted(served, LIST, **own).status_code == 200
    assert posted(served, LIST, **{**own, "authorization": f"Bearer {OTHER}"}).status_code == 404


async def test_a_caller_has_the_tools_that_it_may_use(over_http: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA_TOKEN", TOKEN)
    monkeypatch.setenv("CI_TOKEN", OTHER)
    table = {
        "tokens": {"ada": "ADA_TOKEN", "ci": "CI_TOKEN"},
        "pipelines": {"quick": "single", "build": {"pipeline": "vote", "callers": ["ci"]}},
    }
    served = over_http(table=table, everything=True)
    for token, expected in ((TOKEN, ["quick"]), (OTHER, ["quick", "build"])):
        async with connected(served, "auto", authorization=f"Bearer {token}") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == expected


def test_health_and_metrics_are_served(over_http: Start) -> None:
    served = over_http()
    posted(served, LIST)
    with served.client() as client:
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/readyz").status_code == 200
        assert 'path="/mcp"' in client.get("/metrics").text


async def test_the_end_of_the_server_ends_its_runs(over_http: Start) -> None:
    held = Held()
    served = over_http(held, table={"grace": 0})
    async with connected(served) as client:
        calling = asyncio.create_task(client.call_tool("echo", {"prompt": "x"}))
        await asyncio.to_thread(held.busy.wait, 5)
        served.stop()
        result = await calling
    assert result.is_error
    assert "Interrupted" in text_of(result)
    assert statuses(served) == ["interrupted"]
