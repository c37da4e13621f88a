"""Runs of requests: ends, repeats that pay nothing twice, and clients that go away."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from fusion import Fusion, ScriptedModel
from fusion.core.config import ServerTable
from fusion.core.errors import BadRequestError, ContentFilterError, StageError
from fusion.models.base import Price
from fusion.server.catalog import Catalog
from fusion.server.dialects.fields import fusion_fields
from fusion.server.runs import responses
from fusion.server.runs.gate import Gate
from fusion.server.runs.mapping import budget_of
from tests.conftest import said
from tests.server.conftest import Held, Serve, Served, models_of, pipeline, serving, until

STEPS = """
name: steps
inputs: {prompt: The question.}
stages:
  first: {kind: generate, role: bulk, prompt: "first {{ inputs.prompt }}", max_tokens: 50}
  answer: {kind: generate, prompt: "then {{ first }}", max_tokens: 50}
output: answer
"""
MANY = """
name: many
inputs: {words: Words with commas between.}
stages:
  work: {kind: map, over: "inputs.words.split(',')", role: bulk, prompt: "do {{ item.source }}", min_ok: 1}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
LOSING = MANY.replace(", min_ok: 1", "")
CHAT = "/v1/chat/completions"
RETRY = {"x-stainless-retry-count": "1"}


def calls(served: Served) -> int:
    return sum(len(model.requests) for model in served.models.values())


def status_of(served: Served, run_id: str) -> str:
    return served.fusion.runs.find(run_id).status


# Ends.


@pytest.mark.parametrize(
    ("error", "budget", "status", "code"),
    [
        (StageError("it broke"), None, 422, "StageError"),
        (ContentFilterError("blocked"), None, 422, None),
        (BadRequestError("no such model"), None, 422, "BadRequestError"),
        (None, {"usd": "0.000001"}, 402, "BudgetError"),
        (None, {"tokens": 3}, 402, "BudgetError"),
    ],
)
def test_a_failed_run_is_not_asked_for_again(
    serve: Serve, error: Exception | None, budget: Any, status: int, code: str | None
) -> None:
    price = Price(input=Decimal(10), output=Decimal(10))
    served = serve(ScriptedModel(lambda _: error or "fine", name="scripted/x", price=price))
    extra = {"fusion": {"budget": budget}} if budget else {}
    with pytest.raises(openai.APIStatusError) as caught:
        served.openai(max_retries=3).chat.completions.create(**served.chat(), extra_body=extra)
    assert caught.value.status_code == status
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert code is None or caught.value.code == code
    assert status_of(served, caught.value.response.headers["x-fusion-run"]) == "failed"
    assert len(served.fusion.runs.list()) == 1


def test_a_partial_answer_names_what_is_lost(serve: Serve) -> None:
    model = ScriptedModel(lambda request: StageError("no") if "b" in said(request)[3:] else "ok", name="scripted/x")
    served = serve(model, pipelines={"many": pipeline(MANY)})
    answer = served.post(CHAT, served.chat("a,b,c", model="many"))
    assert answer.status_code == 200
    fusion = answer.json()["fusion"]
    assert fusion["status"] == "partial"
    assert [(part["stage"], part["item"]) for part in fusion["lost"]] == [("work", 1)]


# Limits that a request may lower.


@pytest.mark.parametrize(
    ("asked", "own", "server", "usd"),
    [
        ({"budget": {"usd": 5}}, None, None, 0.5),
        ({"budget": {"usd": 0.2}}, None, None, 0.2),
        ({"max_cost": 0.1}, None, None, 0.1),
        ({"max_cost": 9, "budget": {"usd": 0.3}}, None, None, 0.3),
        ({"budget": {"usd": 5}}, None, {"usd": 2}, 2),
        ({}, None, {"usd": 2}, 2),
        ({"budget": {"usd": 5}}, {"usd": 1}, {"usd": 2}, 1),
        ({}, {"usd": 3}, {"usd": 2}, 3),
    ],
)
def test_a_request_only_lowers_the_limits(
    fusion: Callable[..., Fusion], asked: Any, own: Any, server: Any, usd: float, tmp_path: Path
) -> None:
    file = tmp_path / "capped.yaml"
    file.write_text("name: capped\nbudget: {usd: 0.5}\n" + STEPS.split("\n", 2)[2])
    table = ServerTable(budget=server, pipelines={"capped": {"pipeline": str(file), "budget": own}})
    catalog = Catalog(fusion({}), table)
    served = catalog.find("capped", None)
    cost = {"max_cost": asked["max_cost"]} if "max_cost" in asked else {}
    given = fusion_fields({"fusion": {"budget": asked.get("budget")}, **cost})["budget"]
    found = budget_of(catalog.load(served), served, given)
    assert found is not None
    assert found.usd == Decimal(str(usd))


# Repeats.


def test_an_sdk_retry_goes_on_with_the_failed_run(serve: Serve) -> None:
    model = ScriptedModel(lambda request: "one" if "first" in said(request) else next(then), name="scripted/x")
    then = iter([StageError("it broke"), "the end"])
    served = serve(model, pipelines={"steps": pipeline(STEPS)})
    body = served.chat(model="steps")
    failed = served.post(CHAT, body)
    again = served.post(CHAT, body, **RETRY)
    assert (failed.status_code, again.status_code) == (422, 200)
    assert again.headers["x-fusion-run"] == failed.headers["x-fusion-run"]
    assert again.json()["choices"][0]["message"]["content"] == "the end"
    assert [said(request)[:5] for request in model.requests].count("first") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_by_key_replays_the_answer(serve: Serve, stream: bool) -> None:
    served = serve("the answer")
    key = {"idempotency-key": "k-1"}
    body = served.chat(stream=stream)
    first, again = served.post(CHAT, body, **key), served.post(CHAT, body, **key)
    assert first.headers["x-fusion-run"] == again.headers["x-fusion-run"]
    assert "the answer" in again.text
    assert calls(served) == 1


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({}, {}),
        ({"idempotency-key": "other"}, {}),
        ({"idempotency-key": "k-1"}, {"temperature": 1}),
        ({"x-stainless-retry-count": "0"}, {}),
        ({"x-stainless-retry-count": "many"}, {}),
        ({"x-stainless-retry-count": "1"}, {}),  # the first had a key, and this one has none
    ],
)
def test_another_request_is_another_run(serve: Serve, headers: dict[str, str], more: dict[str, Any]) -> None:
    served = serve("the answer")
    first = served.post(CHAT, served.chat(), **{"idempotency-key": "k-1"})
    again = served.post(CHAT, served.chat(**more), **headers)
    assert first.headers["x-fusion-run"] != again.headers["x-fusion-run"]
    assert calls(served) == 2


def test_a_repeat_is_that_of_one_caller(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_SECRET", "token-of-one")
    monkeypatch.setenv("TWO_SECRET", "token-of-two")
    served = serve(table={"tokens": {"one": "ONE_SECRET", "two": "TWO_SECRET"}})
    key = {"idempotency-key": "k"}
    runs = {
        served.post(CHAT, served.chat(), **key, **{"x-api-key": token}).headers["x-fusion-run"]
        for token in ("token-of-one", "token-of-two", "token-of-one")
    }
    assert len(runs) == calls(served) == 2
    assert {run.tags["caller"] for run in served.fusion.runs.list()} == {"one", "two"}


def test_a_repeat_after_a_restart_is_found_in_the_store(tmp_path: Any) -> None:
    key, seen = {"idempotency-key": "k"}, []
    for _ in range(2):
        models = models_of("the answer")
        fusion = Fusion(profile="local", roles=models, store=tmp_path / "runs.db")
        with fusion, serving(fusion, models) as served:
            seen.append(served.post(CHAT, served.chat(), **key).headers["x-fusion-run"])
            seen.append(str(calls(served)))
    assert seen == [seen[0], "1", seen[0], "0"]


def test_repeats_at_once_share_one_run(serve: Serve) -> None:
    held = Held("shared")
    served = serve(held)
    found: list[httpx.Response] = []
    body, key = served.chat(), {"idempotency-key": "k"}
    threads = [threading.Thread(target=lambda: found.append(served.post(CHAT, body, **key))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert held.busy.wait(10)
    until(lambda: "attached" in served.metrics() and 'how="attached"} 4' in served.metrics())
    held.release.set()
    for thread in threads:
        thread.join()
    assert {one.json()["choices"][0]["message"]["content"] for one in found} == {"shared"}
    assert len({one.headers["x-fusion-run"] for one in found}) == held.calls == 1


def test_a_late_stream_has_all_from_the_beginning(serve: Serve) -> None:
    from fusion import Say

    go = threading.Event()

    async def slowly(request: Any) -> Say:
        return Say(pieces=["one ", "two ", (0.05, "three "), *((0.01, f"{n} ") for n in range(20))])

    served = serve(slowly)
    key, body = {"idempotency-key": "k"}, served.chat(stream=True)
    texts: list[str] = []

    def read() -> None:
        texts.append(served.post(CHAT, body, **key).text)

    with served.client() as client, client.stream("POST", CHAT, json=body, headers=key) as first:
        lines = first.iter_lines()
        while '"one' not in next(lines):
            pass
        go.set()
        late = threading.Thread(target=read)
        late.start()
        rest = list(lines)
    late.join()
    assert any("[DONE]" in line for line in rest)
    content = "".join(part.split('"')[0] for part in texts[0].split('"content":"')[1:])
    assert content == "one two three " + "".join(f"{n} " for n in range(20))
    assert calls(served) == 1


# Clients that go away.


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_run(serve: Serve, stream: bool) -> None:
    held = Held()
    served = serve({"frontier": held, "bulk": "one"}, pipelines={"steps": pipeline(STEPS)})
    body = served.chat(model="steps", stream=stream)
    leave(served, body, held)
    until(lambda: [run.status for run in served.fusion.runs.list()] == ["interrupted"])
    assert served.models["frontier"].cancelled == 1
    held.release.set()
    again = served.post(CHAT, body, **RETRY)
    assert "late" in again.text
    assert [again.headers["x-fusion-run"]] == [run.run_id for run in served.fusion.runs.list()]
    assert len(served.models["bulk"].requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_finishes_alone_answers_the_retry(serve: Serve, stream: bool) -> None:
    held = Held()
    served = serve(held, table={"on_disconnect": "finish"})
    body = served.chat(stream=stream)
    leave(served, body, held)
    held.release.set()
    until(lambda: [run.status for run in served.fusion.runs.list()] == ["ok"])
    assert "late" in served.post(CHAT, body, **RETRY).text
    assert held.calls == 1


def test_a_client_that_goes_away_leaves_the_run_to_another(serve: Serve) -> None:
    held = Held()
    served = serve(held)
    body, key = served.chat(), {"idempotency-key": "k"}
    found: list[httpx.Response] = []
    stays = threading.Thread(target=lambda: found.append(served.post(CHAT, body, **key)))
    stays.start()
    assert held.busy.wait(10)
    with asked(served, body, **key):
        until(lambda: 'how="attached"} 1' in served.metrics())
    held.release.set()
    stays.join()
    assert (found[0].status_code, held.calls) == (200, 1)


def test_a_client_that_waits_and_goes_away_begins_no_run(serve: Serve) -> None:
    held = Held()
    served = serve(held, table={"concurrency": 1})
    first = threading.Thread(target=served.post, args=(CHAT, served.chat()))
    first.start()
    assert held.busy.wait(10)
    with asked(served, served.chat("another")):
        until(lambda: "fusion_queue_length 1" in served.metrics())
    until(lambda: "fusion_queue_length 0" in served.metrics())
    held.release.set()
    first.join()
    assert served.post(CHAT, served.chat()).status_code == 200
    assert len(served.fusion.runs.list()) == 2


def leave(served: Served, body: dict[str, Any], held: Held) -> None:
    """Ask, and go away while the model works."""
    with asked(served, body):
        assert held.busy.wait(10)


@contextmanager
def asked(served: Served, body: dict[str, Any], **headers: str) -> Iterator[None]:
    """Ask by a socket of its own, and go away at the end of the block."""
    place, data = urlsplit(served.url), json.dumps(body, separators=(",", ":")).encode()
    lines = [f"POST {CHAT} HTTP/1.1", f"host: {place.netloc}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)
        yield


@pytest.mark.anyio
@pytest.mark.parametrize("gone", [1, 3])
async def test_a_turn_given_to_clients_that_have_just_gone_goes_to_the_next(gone: int) -> None:
    gate = Gate(room=1, queue=10)
    assert gate.try_enter()
    waiting = [asyncio.create_task(gate.enter()) for _ in range(gone + 1)]
    await asyncio.sleep(0)
    for task in waiting[:gone]:
        task.cancel()
    gate.leave(1.0)
    assert await waiting[-1]
    gate.leave(1.0)
    assert (gate.running, gate.waiting) == (0, 0)


# Streams that wait.


def test_a_stream_that_waits_is_kept_open_by_comments(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "PING_SECONDS", 0.02)
    held = Held()
    served = serve(held)
    with served.client() as client, client.stream("POST", CHAT, json=served.chat(stream=True)) as answer:
        lines = answer.iter_lines()
        while next(lines) != ": ping":
            pass
        held.release.set()
        assert list(lines)[-2:] == ["data: [DONE]", ""]
