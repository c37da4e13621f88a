"""What the tests of the page share: pipelines with items, models that wait for a sign, and streams read by name."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from fusion import Price, RunFailed, Say, ScriptedModel
from fusion.core.errors import BadRequestError
from tests.conftest import frontier, pipeline, said
from tests.server.conftest import Serve, Served

PRICE = Price(input=Decimal("0.000001"), output=Decimal("0.00001"))
WORK = """
name: work
description: Works on each line.
inputs: {rows: The lines.}
stages:
  work: {kind: map, over: inputs.rows, role: bulk, prompt: "do {{ item.value }}", max_tokens: 10}
  answer: {kind: merge, over: work, role: frontier, prompt: "join {{ items | length }}", max_tokens: 50}
output: answer
"""
PLAN = """
name: planned
description: Plans and works.
inputs: {task: The task.}
budget: {usd: 5}
stages:
  plan: {kind: plan, role: frontier, max_subtasks: 4}
  work: {kind: map, over: plan.subtasks, role: bulk}
  answer: {kind: merge, over: work, role: frontier}
output: answer
"""
ONE = """
name: one
description: Answers at once.
inputs: {task: The task.}
stages:
  answer: {kind: generate, role: frontier, prompt: "{{ inputs.task }}", max_tokens: 400}
output: answer
"""
PIPELINES = {name: pipeline(text) for name, text in {"work": WORK, "planned": PLAN, "one": ONE}.items()}


class Gate:
    """Lets scripted models answer once it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        import asyncio

        while not self._open.is_set():
            await asyncio.sleep(0.005)


def models(script: Any = None, joined: Any = "the whole") -> dict[str, ScriptedModel]:
    """Models with prices: `bulk` refuses `bad` and breaks off on `flaky`; `frontier` plans and joins."""

    def bulk(request: Any) -> Any:
        words = said(request)
        if script is not None:
            return script(request)
        if "bad" in words:
            return BadRequestError("no such thing", model="scripted/bulk")
        return Say("", finish_reason=None) if "flaky" in words else f"did {words[:20]}"

    return {
        "bulk": ScriptedModel(bulk, name="scripted/bulk", price=PRICE, respect_limit=False),
        "frontier": ScriptedModel(
            frontier(answer=joined), name="scripted/frontier", price=PRICE, respect_limit=False
        ),
    }


@pytest.fixture
def paged(serve: Serve, tmp_path: Path) -> Any:
    """Serves the three pipelines on a store of its own."""

    def start(scripts: Any = None, **options: Any) -> Served:
        given = {"pipelines": PIPELINES, "store": tmp_path / "runs.db", **options}
        return serve(scripts if scripts is not None else models(), **given)

    return start


def ran(served: Served, rows: Any = ("a", "b", "c"), **options: Any) -> str:
    """The id of a run that has ended."""
    ids: list[str] = []
    given = {"pipeline": PIPELINES["work"], "inputs": {"rows": list(rows)}, **options}
    try:
        ids.append(served.fusion.complete(None, **given).run_id)
    except RunFailed as error:
        ids.append(error.result.run_id)
    served.fusion.store.flush()
    return ids[0]


def mapped(served: Served, rows: Any, output: Path) -> str:
    """The id of a map that has ended."""
    handle = served.fusion.start_map(rows, pipeline=PIPELINES["one"], id="nightly", output=output)
    handle.wait()
    served.fusion.store.flush()
    return "nightly"


def get(served: Served, path: str, **query: Any) -> Any:
    with served.client() as client:
        response = client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def started(served: Served, name: str = "planned", **inputs: str) -> str:
    """The id of a run that the form started."""
    response = served.post("/api/runs", {"pipeline": name, "inputs": inputs or {"task": "do it"}})
    assert response.status_code == 201, response.text
    run_id: str = response.json()["run_id"]
    return run_id


class Sent(NamedTuple):
    """A message of a stream."""

    kind: str
    data: Any
    number: int | None


def stream(response: httpx.Response) -> Iterator[Sent]:
    """The messages of a stream, comments and pings left out."""
    kind, number = "", None
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            number = int(value)
        elif name == "data":
            yield Sent(kind, json.loads(value), number)
            kind, number = "", None
