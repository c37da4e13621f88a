"""Pipelines as tools: their schemas, arguments, results, progress, limits and ends."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from fusion import ScriptedModel
from fusion.core.errors import BadRequestError
from fusion.models.base import Price
from fusion.server.mcp.names import tool_name
from fusion.store.rows import RunFilter
from tests.conftest import frontier
from tests.server.conftest import Held, until
from tests.server.mcp.conftest import MODES, Offer, text_of

pytestmark = pytest.mark.anyio

INPUTS = """
description: Reads much.
inputs:
  task: The task
  notes: {description: "Notes to read.", default: "none"}
  rows: {format: csv, default: ""}
  lines: {description: Records, format: jsonl, default: ""}
  picture: {format: image, default: null}
  count: {description: "How many?", default: 3}
  terse: {default: false}
  tags: {default: [a, b]}
  names: The names.
  extra: {default: null}
stages:
  work: {kind: map, over: inputs.names, prompt: "{{ inputs.task }} {{ inputs.count }} {{ item.source }}"}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
SHAPED = """
inputs: {task: The task.}
stages: {answer: {kind: generate, prompt: "{{ inputs.task }}", schema: {city: string, degrees: number}}}
output: answer
"""
LISTED = """
inputs: {words: Words with commas between.}
stages: {work: {kind: map, over: "inputs.words.split(',')", prompt: "{{ item.source }}", schema: {n: number}}}
output: work
"""
NAMED = """
inputs: {task: The task.}
stages: {one: {kind: generate, prompt: "{{ inputs.task }}"}}
output: {first: one, length: "one | length"}
"""
MANY = """
inputs: {words: Words with commas between.}
stages:
  work: {kind: map, over: "inputs.words.split(',')", prompt: "do {{ item.source }}", min_ok: 1}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""


async def test_inputs_make_the_schema_of_a_tool(offer: Offer) -> None:
    async with offer(pipelines={"much": INPUTS}).client() as client:
        (tool,) = (await client.list_tools()).tools
    assert (tool.name, tool.description, tool.output_schema) == ("much", "Reads much.", None)
    assert tool.input_schema["required"] == ["task", "names"]
    assert tool.input_schema["additionalProperties"] is False
    assert tool.input_schema["properties"] == {
        "task": {"type": "string", "description": "The task."},
        "notes": {"type": "string", "description": "Notes to read.", "default": "none"},
        "rows": {"type": "string", "description": "CSV with a line of column names.", "default": ""},
        "lines": {
            "type": "string",
            "description": "Records. JSON Lines: a JSON object on each line.",
            "default": "",
        },
        "picture": {"type": "string", "description": "A picture as a data URL: data:image/png;base64,…"},
        "count": {"type": "number", "description": "How many?", "default": 3},
        "terse": {"type": "boolean", "default": False},
        "tags": {"type": "array", "default": ["a", "b"]},
        "names": {"type": "array", "description": "The names."},
        "extra": {"type": ["string", "null"]},
    }


@pytest.mark.parametrize(
    ("served", "tool"),
    [
        ("fusion/plan-execute-review", "plan-execute-review"),
        ("team/legal.check", "team_legal_check"),
        ("prüfen", "pr_fen"),
        ("a b  c", "a_b_c"),
        ("...", "pipeline"),
        ("x" * 60, "x" * 48),
    ],
)
def test_names_are_valid_for_clients(served: str, tool: str) -> None:
    assert tool_name(served) == tool


async def test_two_pipelines_of_one_name_are_two_tools(offer: Offer) -> None:
    offered = offer(lambda request: "x", pipelines={"a.b": SHAPED, "a_b": NAMED, "a/b": LISTED})
    async with offered.client() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == ["a_b", "a_b_2", "a_b_3"]
    assert "words" in tools["a_b_3"].input_schema["properties"]


async def test_shipped_pipelines_are_tools(offer: Offer) -> None:
    async with offer(everything=True).client() as client:
        tools = (await client.list_tools()).tools
        names = {tool.name for tool in tools}
        result = await client.call_tool("single", {"task": "hello"})
    assert {"single", "vote", "plan-execute-review", "map-reduce-document"} <= names
    assert all(tool.description and len(tool.name) <= 48 for tool in tools)
    assert result.content[0].text == "the answer"


def dear() -> ScriptedModel:
    """A model that takes a tenth of a cent for a token of its answer."""
    price = Price(input=Decimal(0), output=Decimal("0.001"))
    return ScriptedModel(lambda request: "the answer", name="scripted/dear", price=price)


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_ends_with_its_run_and_cost(offer: Offer, mode: str) -> None:
    offered = offer(dear())
    async with offered.client(mode) as client:
        result = await client.call_tool("echo", {"prompt": "hello"})
    answer, last = (part.text for part in result.content)
    told = result.meta["fusion"]
    row = offered.run_of(result)
    assert (result.is_error, answer, told["status"], told["lost"]) == (False, "the answer", "ok", [])
    assert told["cost"] == float(row.usd) > 0
    assert last.startswith(f"[fusion: run {row.run_id} ok; ${row.usd:.4f}, 1 call, ")
    assert (row.status, row.tags) == ("ok", {"from": "mcp"})


@pytest.mark.parametrize(
    ("text", "answer", "data", "schema"),
    [
        (SHAPED, {"city": "Oslo", "degrees": 5}, {"city": "Oslo", "degrees": 5}, True),
        (SHAPED.replace("output: answer", "output: answer.data"), {"city": "Oslo", "degrees": 5}, "same", True),
        (LISTED, {"n": 1}, {"data": [{"n": 1}, {"n": 1}]}, False),
        (NAMED, "Oslo", {"first": "Oslo", "length": 4}, False),
        (SHAPED.replace(", schema: {city: string, degrees: number}", ""), "Oslo", None, False),
    ],
    ids=["schema", "data", "items", "names", "text"],
)
async def test_data_are_structured_content(offer: Offer, text: str, answer: Any, data: Any, schema: bool) -> None:
    offered = offer(lambda request: answer, pipelines={"one": text})
    async with offered.client() as client:
        (tool,) = (await client.list_tools()).tools
        result = await client.call_tool("one", {next(iter(tool.input_schema["properties"])): "a,b"})
    assert result.is_error is False
    assert result.structured_content == (answer if data == "same" else data)
    assert (tool.output_schema is not None) is schema


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "'task' is missing"),
        ({"task": 5, "names": []}, "task: expected string"),
        ({"task": "x", "names": "a"}, "names: expected array"),
        ({"task": "x", "names": [], "taks": "y"}, "'taks' is not a field of it"),
        ({"task": "x", "names": [], "picture": "/etc/passwd"}, "input 'picture' is a picture"),
        ({"task": "x", "names": [], "rows": "a,b\n1,2,3\n"}, "rows"),
        ({"task": "x" * 2_000, "names": []}, "the arguments have 2,009 bytes, more than 1,000 (`max_body`"),
    ],
    ids=["missing", "type", "list", "unknown", "path", "table", "huge"],
)
async def test_bad_arguments_are_refused_before_a_run(offer: Offer, arguments: dict[str, Any], said: str) -> None:
    offered = offer(pipelines={"much": INPUTS}, table={"max_body": 1_000})
    result = await offered.call("much", arguments)
    assert result.is_error
    assert said in text_of(result)
    assert "nothing was spent" in text_of(result)
    assert result.meta["fusion"]["run"] is None
    assert offered.fusion.store.runs(RunFilter()) == []


async def test_an_unknown_tool_is_an_error_of_the_protocol(offer: Offer) -> None:
    async with offer().client() as client:
        with pytest.raises(MCPError, match="no tool 'ecko'; did you mean 'echo'"):
            await client.call_tool("ecko", {})


async def test_a_failed_run_tells_its_reason_its_cost_and_its_run(offer: Offer) -> None:
    def script(request: Any) -> Any:
        return BadRequestError("no such thing", model="scripted/frontier")

    offered = offer(script)
    result = await offered.call("echo", {"prompt": "x"})
    run_id = result.meta["fusion"]["run"]
    assert result.is_error
    assert result.meta["fusion"]["status"] == "failed"
    assert "The run failed: BadRequestError: no such thing" in text_of(result)
    assert f"`fusion resume {run_id}`" in text_of(result)
    assert f"[fusion: run {run_id} failed; $0.0000, " in text_of(result)
    assert offered.run_of(result).status == "failed"


async def test_a_partial_answer_names_what_it_lacks(offer: Offer) -> None:
    def script(request: Any) -> Any:
        bad = "bad" in request.messages[-1].content
        return BadRequestError("no", model="scripted/bulk") if bad else "fine"

    result = await offer(script, pipelines={"many": MANY}).call("many", {"words": "a,bad,c"})
    assert (result.is_error, result.meta["fusion"]["status"]) == (False, "partial")
    assert [part["item"] for part in result.meta["fusion"]["lost"]] == [1]
    assert "lacks 1 part" in text_of(result)


@pytest.mark.parametrize(
    ("budget", "table", "ok"),
    [
        ("", {}, True),
        ("", {"budget": {"usd": "0.02"}}, False),
        ("budget: {usd: 0.02}", {}, False),
        ("budget: {usd: 0.02}", {"budget": {"usd": 5}}, True),
        ("budget: {usd: 5}", {"budget": {"usd": "0.02"}}, False),
    ],
    ids=["none", "settings", "pipeline", "higher settings", "lower settings"],
)
async def test_a_call_is_capped(offer: Offer, budget: str, table: dict[str, Any], ok: bool) -> None:
    text = f"{budget}\n{SHAPED.replace(', schema: {city: string, degrees: number}', ', max_tokens: 200')}"
    offered = offer(dear(), pipelines={"one": text}, table=table)
    result = await offered.call("one", {"task": "x"})
    assert result.is_error is not ok, text_of(result)
    assert ("BudgetError" in text_of(result)) is not ok
    assert Decimal(str(result.meta["fusion"]["cost"])) <= Decimal("0.02")


async def test_a_pipeline_without_a_limit_may_spend_a_dollar(offer: Offer) -> None:
    text = SHAPED.replace(", schema: {city: string, degrees: number}", ", max_tokens: 3000")
    result = await offer(dear(), pipelines={"one": text}).call("one", {"task": "x"})
    assert result.is_error
    assert "limit $1.00" in text_of(result)


@pytest.mark.parametrize("mode", MODES)
async def test_progress_tells_stages_items_and_dollars(offer: Offer, mode: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []
    may_end = Held()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))
        if message and "work 2/3" in message:
            may_end.release.set()

    async def script(request: Any) -> str:
        return await may_end(request) if "do c" in request.messages[-1].content else "fine"

    async with offer(script, pipelines={"many": MANY}).client(mode) as client:
        result = await client.call_tool("many", {"words": "a,b,c"}, progress_callback=hear)
    assert not result.is_error
    assert any(message and "; $0.0000" in message for _, _, message in told)
    done = [progress for progress, _, _ in told]
    assert done == sorted(set(done))
    assert all(total is not None and progress <= total for progress, total, _ in told)


async def test_a_silent_run_is_heard_of(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.server.mcp.progress._BEAT", 0.01)
    monkeypatch.setattr("fusion.server.mcp.progress._PAUSE", 0.0)
    held, told = Held(), []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)
        if len(told) > 5:
            held.release.set()

    async with offer(held).client() as client:
        assert not (await client.call_tool("echo", {"prompt": "x"}, progress_callback=hear)).is_error
    assert told == sorted(set(told))


@pytest.mark.parametrize("mode", MODES)
async def test_cancellation_ends_the_run(offer: Offer, mode: str) -> None:
    held = Held()
    offered = offer(held)
    async with offered.client(mode) as client:
        calling = asyncio.create_task(client.call_tool("echo", {"prompt": "x"}))
        await asyncio.to_thread(held.busy.wait, 5)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await asyncio.to_thread(until, lambda: offered.fusion.store.runs(RunFilter())[0].status != "running")
        again = await client.call_tool("echo", {"prompt": 1})
    assert again.is_error
    assert [row.status for row in offered.fusion.store.runs(RunFilter())] == ["interrupted"]


async def test_two_calls_run_at_once(offer: Offer) -> None:
    held = Held()
    async with offer(held).client() as client:
        calls = [asyncio.create_task(client.call_tool("echo", {"prompt": word})) for word in ("a", "b")]
        await asyncio.to_thread(until, lambda: held.calls == 2)
        held.release.set()
        done = await asyncio.gather(*calls)
    assert len({result.meta["fusion"]["run"] for result in done}) == 2


async def test_calls_beyond_the_queue_are_refused(offer: Offer) -> None:
    held = Held()
    async with offer(held, table={"concurrency": 1, "queue": 0}).client() as client:
        first = asyncio.create_task(client.call_tool("echo", {"prompt": "a"}))
        await asyncio.to_thread(held.busy.wait, 5)
        second = await client.call_tool("echo", {"prompt": "b"})
        held.release.set()
        assert not (await first).is_error
    assert second.is_error
    assert "1 runs are under way" in text_of(second)


async def test_a_pipeline_with_items_runs_to_its_end(offer: Offer) -> None:
    offered = offer({"frontier": frontier(), "bulk": "a part"}, everything=True)
    result = await offered.call("plan-execute-review", {"task": "Compare the offers.", "context": "a\n\nb"})
    assert (result.is_error, result.content[0].text) == (False, "the answer")


async def test_a_broken_pipeline_is_no_tool(offer: Offer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "broken.yaml").write_text("stages: {}\n")
    (tmp_path / "pipelines" / "mine.yaml").write_text(SHAPED)
    monkeypatch.chdir(tmp_path)
    offered = offer(everything=True)
    async with offered.client() as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("broken", {})
    assert "mine" in names
    assert "broken" not in names
    assert result.is_error
    assert "stages" in text_of(result)


async def test_a_run_that_waits_for_a_person_is_an_error_that_names_it(offer: Offer) -> None:
    asks = "name: asks\ninputs: {task: A task.}\nstages: {ask: {kind: gate, show: inputs.task}}\noutput: ask\n"
    offered = offer(pipelines={"asks": asks})
    result = await offered.call("asks", {"task": "pay"})
    assert result.is_error
    assert "waits for a person at 'ask'" in text_of(result)
    assert result.meta["fusion"]["waiting"][0]["gate"] == "ask"
    assert offered.run_of(result).status == "waiting"
