"""Tools in the calls of a stage: their digest, their replies, and the journal."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from fusion import Fusion, Model, ModelInfo, Pipeline, Reply, Request, RunFailed, Usage
from fusion.core.errors import ContentFilterError
from fusion.stages import Ask, Message, ModelStage, OutputField, StageContext, ToolCall, ToolSpec, registry

WEATHER = ToolSpec(name="weather", description="The weather of a city.", parameters={"type": "object"})
CALL = ToolCall(id="c1", name="weather", arguments='{"city": "Oslo"}')


class Agent(ModelStage):
    """Asks with a tool, answers its call, and asks again."""

    kind: Literal["agent"] = "agent"
    tools: tuple[str, ...] = ("weather",)
    choice: str = "auto"
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"),)
    default_prompt: ClassVar[str] = "{{ request }}"

    async def run(self, ctx: StageContext) -> None:
        ask = self.ask(ctx, await ctx.inputs.values(), "first")
        tools = tuple(WEATHER.model_copy(update={"name": name}) for name in self.tools)
        first = await ctx.models.call(ask._replace(tools=tools, tool_choice=self.choice))
        results = [Message(role="tool", content="5 degrees", tool_call_id=call.id) for call in first.tool_calls]
        asked = Message(role="assistant", content=first.text, tool_calls=first.tool_calls)
        again: Ask = ask._replace(messages=(*ask.messages, asked, *results), step="second")
        ctx.outputs.give("text", (await ctx.models.call(again)).text)


class Caller(Model):
    """Calls a tool when there is one, and says its result."""

    info = ModelInfo(id="own/caller", provider="own")

    def __init__(self, call: ToolCall = CALL, *, fails: bool = False) -> None:
        self.call = call
        self.fails = fails
        self.requests: list[Request] = []

    async def complete(self, request: Request, on_delta: Any = None) -> Reply:
        self.requests.append(request)
        about: dict[str, Any] = {"usage": Usage(input=5, output=5), "asked": self.info.id, "served": "caller"}
        if request.tools:
            return Reply(text="", finish_reason="tool_calls", tool_calls=(self.call,), **about)
        if self.fails:
            raise ContentFilterError("blocked", model=self.info.id)
        return Reply(text=f"It is {request.messages[-1].content}.", finish_reason="stop", **about)


@pytest.fixture(autouse=True)
def _agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = EntryPoint(name="agent", value="tests.stages.test_tools:Agent", group=registry.GROUP)
    found = list(registry.kinds.__wrapped__().keys())
    real = __import__("importlib.metadata", fromlist=["entry_points"]).entry_points

    def entry_points(*, group: str) -> Any:
        return [*real(group=group), entry] if group == registry.GROUP else real(group=group)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    registry.kinds.cache_clear()
    assert "agent" not in found
    yield
    registry.kinds.cache_clear()


def pipeline(options: str = "") -> Pipeline:
    return Pipeline.from_yaml(
        f"inputs: {{q: A question.}}\nstages: {{a: {{kind: agent, role: bulk{options}}}}}\noutput: a\n"
    )


def test_a_call_of_a_tool_reaches_the_stage_and_its_result_the_model() -> None:
    model = Caller()
    with Fusion(model=model) as fusion:
        assert fusion.complete("Weather?", pipeline=pipeline()).text == "It is 5 degrees."
    first, second = model.requests
    assert (first.tools, first.tool_choice) == ((WEATHER,), "auto")
    assert second.tools == ()
    assert second.messages[1].tool_calls == (CALL,)
    assert second.messages[2].tool_call_id == "c1"


def digests(model: Caller, options: str = "") -> list[str]:
    with Fusion(model=model) as fusion:
        fusion.complete("Weather?", pipeline=pipeline(options))
    return [request.key.digest for request in model.requests if request.key is not None]


def test_tools_and_their_calls_are_in_the_digest() -> None:
    first, second = digests(Caller())
    assert digests(Caller()) == [first, second]
    assert digests(Caller(), ", tools: [other]")[0] != first
    assert digests(Caller(), ", choice: required")[0] != first
    for name, value in (("id", "c2"), ("name", "news"), ("arguments", "{}")):
        changed = digests(Caller(CALL.model_copy(update={name: value})))
        assert changed[0] == first
        assert changed[1] != second


def test_a_resumed_run_has_the_calls_of_tools_from_its_journal(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    with Fusion(model=Caller(fails=True), store=store) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete("Weather?", pipeline=pipeline())
    model = Caller()
    with Fusion(model=model, store=store) as fusion:
        run_id = caught.value.result.run_id
        assert fusion.resume(run_id).text == "It is 5 degrees."
        assert [bool(request.tools) for request in model.requests] == [False]
        kept = [fusion.store.call(run_id, call.number) for call in fusion.store.calls(run_id)]
    replies = [call.reply for call in kept if call is not None and call.reply is not None]
    assert [reply.tool_calls for reply in replies] == [(CALL,), ()]
    requests = [call.request for call in kept if call is not None and call.request is not None]
    assert requests[0].tools == (WEATHER,)
    assert requests[-1].messages[1].tool_calls == (CALL,)
    assert requests[-1].messages[2].tool_call_id == "c1"


@pytest.mark.parametrize("content", ["digest", "off"])
def test_arguments_are_content_that_a_store_may_not_keep(tmp_path: Path, content: Any) -> None:
    store = tmp_path / "runs.db"
    with Fusion(model=Caller(), store=store, content=content) as fusion:
        fusion.complete("Weather?", pipeline=pipeline())
        fusion.store.flush()
    assert all(b"Oslo" not in path.read_bytes() for path in tmp_path.glob("runs.db*") if path.is_file())
