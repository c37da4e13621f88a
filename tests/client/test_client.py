"""The Python door: from scripts, threads, running loops; typed answers; streams; closing."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fusion import Fusion, Generate, InputSpec, Map, Merge, Pipeline, PipelineError, RunFailed, Say, ScriptedModel
from fusion.core.errors import InputError, MissingKeyError, ModelConnectionError, UsageError
from tests.conftest import frontier, pipeline, run, said

ONE = """
inputs: {task: what is wanted, context: {default: ""}}
stages: {answer: {kind: generate, prompt: "{{ inputs.task }} / {{ inputs.context }}"}}
output: answer
"""


def test_a_prompt_fills_the_first_required_input(fusion: Any) -> None:
    result, _ = run(fusion({"frontier": said}), "hello", pipeline=pipeline(ONE), inputs={"context": "there"})
    assert result.text == "hello / there"


def test_messages_become_one_request_with_the_conversation_above(fusion: Any) -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "third"},
    ]
    result, _ = run(fusion({"frontier": said}), messages, pipeline=pipeline(ONE))
    turns = ["<user ", "\nfirst\n</user ", "<assistant ", "\nsecond\n</assistant ", "third"]
    assert [result.text.index(turn) for turn in turns] == sorted(result.text.index(turn) for turn in turns)
    one, _ = run(fusion({"frontier": said}), [{"role": "user", "content": "only"}], pipeline=pipeline(ONE))
    assert one.text == "only /"


@pytest.mark.parametrize(
    ("prompt", "inputs", "says"),
    [
        (None, {}, "needs 'task' (what is wanted)"),
        ("x", {"contxt": "y"}, "no input 'contxt'; did you mean 'context'?"),
        ("x", {"task": "y"}, "no required input left for the prompt"),
        ([], {}, "`messages` is empty"),
        ([{"role": "assistant", "content": "x"}], {}, "it must be a user message"),
        ([{"role": "user"}], {}, "message 1 needs a `role`"),
        ([5], {}, "message 1 needs a `role`"),
        (5, {}, "a prompt is a text or a list of messages, not int"),
        ({"role": "user"}, {}, "a prompt is a text or a list of messages, not dict"),
        ("x", {"context": [{"a": object()}]}, "input 'context' holds object, which JSON cannot hold"),
        ("x", {"context": b"\xff"}, "input 'context' holds bytes, which JSON cannot hold"),
        ("x", {"context": {"\ud800": 1}}, "input 'context' is not text: character 0"),
    ],
)
def test_wrong_inputs_are_refused_before_any_call(fusion: Any, prompt: Any, inputs: Any, says: str) -> None:
    model = ScriptedModel("x", name="scripted/frontier")
    with pytest.raises(InputError) as caught:
        fusion({"frontier": model}).complete(prompt, pipeline=pipeline(ONE), inputs=inputs)
    assert says in str(caught.value)
    assert not model.requests


def test_a_pydantic_class_comes_back_in_data(fusion: Any) -> None:
    class Town(BaseModel):
        name: str
        people: int

    model = ScriptedModel([{"name": "Vardø"}, {"name": "Vardø", "people": 1900}], name="scripted/frontier")
    result = fusion({"frontier": model}).complete("which?", pipeline=pipeline(ONE), schema=Town)
    assert result.data == Town(name="Vardø", people=1900)
    assert "'people' is missing" in said(model.requests[1])


def test_a_schema_needs_a_stage_that_writes_the_answer(fusion: Any) -> None:
    class Any_(BaseModel):  # noqa: N801
        x: int

    with pytest.raises(UsageError, match="generate or merge"):
        fusion({}).complete("x", pipeline=pipeline(ONE.replace("output: answer", "output: {a: answer}")), schema=Any_)


def test_from_many_threads_at_once(fusion: Any) -> None:
    one = fusion({"frontier": said})

    def ask(n: int) -> str:
        return one.complete(f"n{n}", pipeline=pipeline(ONE)).text

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(64))) == [f"n{n} /" for n in range(64)]


def test_inside_a_running_loop_sync_and_async(fusion: Any) -> None:
    one = fusion({"frontier": said})

    async def main() -> list[str]:
        sync = one.complete("sync", pipeline=pipeline(ONE)).text
        both = await asyncio.gather(*(one.acomplete(f"a{n}", pipeline=pipeline(ONE)) for n in range(20)))
        return [sync, *(result.text for result in both)]

    assert asyncio.run(main()) == ["sync /", *(f"a{n} /" for n in range(20))]


def test_cancelling_acomplete_stops_the_run(fusion: Any) -> None:
    model = ScriptedModel(Say("late", delay=60), name="scripted/frontier")
    one = fusion({"frontier": model})

    async def main() -> None:
        task = asyncio.create_task(one.acomplete("x", pipeline=pipeline(ONE)))
        while not model.in_flight:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    one.close()
    assert (model.cancelled, model.in_flight) == (1, 0)


def test_stream_gives_the_pieces_and_then_the_result(fusion: Any) -> None:
    one = fusion({"frontier": Say(pieces=["one ", "two ", "three"])})
    with one.stream("x", pipeline=pipeline(ONE)) as stream:
        assert list(stream) == ["one ", "two ", "three"]
    assert stream.result.text == "one two three"


def test_astream_gives_the_pieces_on_the_callers_loop(fusion: Any) -> None:
    one = fusion({"frontier": Say(pieces=["one ", "two"])})

    async def main() -> tuple[list[str], str]:
        async with one.astream("x", pipeline=pipeline(ONE)) as stream:
            return [piece async for piece in stream], (await stream.result()).text

    assert asyncio.run(main()) == (["one ", "two"], "one two")


def test_a_stream_that_broke_begins_again_and_says_so(fusion: Any) -> None:
    broken = Say(pieces=["half"], error=ModelConnectionError("dropped"))
    one = fusion({"frontier": [broken, Say(pieces=["who", "le"])]})
    with one.stream("x", pipeline=pipeline(ONE)) as stream:
        assert list(stream) == ["half", "who", "le"]
        assert (stream.restarts, stream.result.text) == (1, "whole")


def test_a_stream_of_a_run_that_fails_raises_at_its_end(fusion: Any) -> None:
    one = fusion({"frontier": lambda _: ""})
    with pytest.raises(RunFailed, match="empty answer"), one.stream("x", pipeline=pipeline(ONE)) as stream:
        list(stream)


def test_leaving_a_stream_early_stops_the_run(fusion: Any) -> None:
    model = ScriptedModel(Say(pieces=["one", (60.0, "two")]), name="scripted/frontier")
    with fusion({"frontier": model}).stream("x", pipeline=pipeline(ONE)) as stream:
        assert next(iter(stream)) == "one"
    assert (model.cancelled, model.in_flight) == (1, 0)


def test_a_pipeline_is_built_from_the_same_classes(fusion: Any) -> None:
    built = Pipeline(
        name="built",
        inputs={"rows": InputSpec(default=["a", "b"])},
        stages={
            "work": Map(over="inputs.rows", prompt="see {{ item.value }}"),
            "answer": Merge(over="work", strategy="concat", separator=" + "),
        },
        output="answer",
    )
    result, _ = run(fusion({"bulk": said}), None, pipeline=built)
    assert result.text == "see a + see b"


def test_a_pipeline_built_wrong_has_all_its_problems_named(fusion: Any) -> None:
    built = Pipeline(name="built", stages={"a": Generate(prompt="x {{ b }} {{ nobody }}")}, output="c")
    with pytest.raises(PipelineError) as caught:
        fusion({}).load(built)
    assert len(caught.value.problems) >= 3


def test_no_key_names_the_variable_and_the_other_way_on() -> None:
    with Fusion(roles={"frontier": "openai/gpt-5.6", "bulk": "openai/gpt-5.6"}) as one:
        with pytest.raises(MissingKeyError) as caught:
            one.complete("x")
        assert "OPENAI_API_KEY" in str(caught.value)
        assert "local" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"profile": "locl"}, "did you mean 'local'?"),
        ({"roles": {"bulc": "local/small"}}, "no role 'bulc'"),
        ({"budget": {"usd": -1}}, "positive"),
        ({"budget": 5}, "usd, tokens, calls or seconds"),
        ({"roles": {"bulk": 5}}, "RoleSpec chain: expected text, got 5"),
        ({"budget": {"dollars": 1}}, "usd, tokens, calls or seconds"),
    ],
)
def test_wrong_settings_are_refused(options: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught, Fusion(**options) as one:
        one.complete("x")
    assert says in str(caught.value)


def test_closing_ends_the_thread_and_stops_what_runs(fusion: Any) -> None:
    model = ScriptedModel(Say("late", delay=60), name="scripted/frontier")
    one = fusion({"frontier": model})
    handle = one.start("x", pipeline=pipeline(ONE))
    while not model.in_flight:
        threading.Event().wait(0.01)
    before = {thread.name for thread in threading.enumerate()}
    one.close()
    one.close()
    assert "fusion-loop" in before
    assert not [thread for thread in threading.enumerate() if thread.name == "fusion-loop" and thread.is_alive()]
    assert handle.wait(5).error.reason == "Interrupted"
    assert model.in_flight == 0


def test_to_openai_is_a_chat_completion(fusion: Any) -> None:
    result, _ = run(fusion({"frontier": frontier(1), "bulk": "done"}))
    completion = result.to_openai()
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": "the answer"}
    assert completion["usage"]["total_tokens"] == result.usage.total
    assert completion["object"] == "chat.completion"


def test_module_level_complete_needs_no_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import fusion

    monkeypatch.setenv("FUSION_PROFILE", "no such profile")
    with pytest.raises(UsageError, match="no such profile"):
        fusion.complete("x")


@pytest.mark.parametrize("door", ["complete", "start", "stream"])
def test_an_option_that_there_is_not_is_refused(door: str, tmp_path: Path) -> None:
    said_of_it = r"'pipelin'; did you mean 'pipeline'\?"
    store = tmp_path / "runs.db"
    with Fusion(model=ScriptedModel("x"), store=store) as fusion, pytest.raises(TypeError, match=said_of_it):
        getattr(fusion, door)("do it", pipelin="single")
