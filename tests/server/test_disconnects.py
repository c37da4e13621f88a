"""Clients that go away in the middle: no call is sent afterwards, and nothing is paid twice."""

import asyncio
import random
import re
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import pytest

from fusion import ScriptedModel
from fusion.core.types import Request
from tests.conftest import said
from tests.server.conftest import Serve, Served, pipeline

CHAT = "/v1/chat/completions"
ITEMS = 8
MANY = """
name: many
inputs: {words: Words with commas between.}
stages:
  work: {kind: map, over: "inputs.words.split(',')", role: bulk, concurrency: 2, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""


class Worker:
    """A model that takes its time. `sent` has the times of calls by client, `paid` counts the replies by prompt."""

    def __init__(self) -> None:
        self.sent: dict[str, list[float]] = {}
        self.paid: Counter[str] = Counter()

    async def __call__(self, request: Request) -> str:
        prompt = said(request)
        self.sent.setdefault(re.findall(r"c(\d+)i", prompt)[0], []).append(time.monotonic())
        await asyncio.sleep(0.03)
        self.paid[prompt] += 1
        return f"did {prompt}"

    def of(self, client: int) -> list[float]:
        return self.sent.get(str(client), [])


@pytest.mark.parametrize(("clients", "stream"), [(50, True), (10, False)])
def test_clients_that_go_away_pay_nothing_twice(serve: Serve, clients: int, stream: bool) -> None:
    worker = Worker()
    served = serve(
        {"bulk": ScriptedModel(worker, name="scripted/bulk")},
        pipelines={"many": pipeline(MANY)},
        table={"concurrency": clients},
    )
    left = asyncio.run(_leave_all(served, worker, clients, stream))
    deadline = time.monotonic() + 20
    while any(run.status == "running" for run in served.fusion.runs.list()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    late = {client: [at - gone for at in worker.of(client) if at > gone + 1] for client, gone in left.items()}
    assert not any(late.values())
    assert 0 < sum(worker.paid.values()) < clients * ITEMS
    answers = asyncio.run(_ask_all(served, clients, stream))
    for client, answer in answers.items():
        assert all(f"did do c{client}i{item}" in answer for item in range(ITEMS))
    assert worker.paid == Counter({f"do c{client}i{item}": 1 for client in answers for item in range(ITEMS)})
    assert len(served.fusion.runs.list()) == clients


def body(served: Served, client: int, stream: bool) -> dict[str, Any]:
    words = ",".join(f"c{client}i{item}" for item in range(ITEMS))
    return served.chat(words, model="many", stream=stream)


async def _leave_all(served: Served, worker: Worker, clients: int, stream: bool) -> dict[int, float]:
    """Ask with every client, and break each off after some of its calls; return the times."""
    chance = random.Random(7)

    async def leave(http: httpx.AsyncClient, client: int) -> float:
        asking = asyncio.ensure_future(http.post(CHAT, json=body(served, client, stream)))
        calls = chance.randint(2, ITEMS - 2)
        while len(worker.of(client)) < calls:
            assert not asking.done(), asking.result().text
            await asyncio.sleep(0.01)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        return time.monotonic()

    async with _client(served) as http:
        found = await asyncio.gather(*(leave(http, client) for client in range(clients)))
    return dict(enumerate(found))


async def _ask_all(served: Served, clients: int, stream: bool) -> dict[int, str]:
    async with _client(served) as http:
        asked = [
            http.post(CHAT, json=body(served, client, stream), headers={"x-stainless-retry-count": "1"})
            for client in range(clients)
        ]
        return {client: one.text for client, one in enumerate(await asyncio.gather(*asked))}


def _client(served: Served) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=100)
    return httpx.AsyncClient(base_url=served.url, timeout=30, trust_env=False, verify=False, limits=limits)
