"""The journal of calls of tools: no result is lost, no call that writes is made twice, a person decides in doubt."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Request, Result, RunFailed
from fusion.core.errors import ContentFilterError
from fusion.core.events import EventBase, ToolFinished
from fusion.core.types import Effect, ToolResult
from tests.stages.hands.doubles import Recorded, call, calls, native, pipeline, results, twice

STAGE = "kind: generate, role: bulk, tools: [act]"
TOOL = "kind: tool, tool: act, arguments: {q: inputs.q}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def acting(request: Request) -> Any:
    return twice(request, call("act", q="ice"), answer=f"read {results(request)[-1:]}")


def refusing(request: Request) -> Any:
    return ContentFilterError("no") if results(request) else calls(call("act", q="ice"))


def failed(store: Path, stage: str, tool: Recorded, script: Any, inputs: str = "ice") -> str:
    """Run to a failure, and return the id of the run."""
    with Fusion(model=native(script), tools=[tool], store=store) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete(inputs, pipeline=pipeline(stage))
    return caught.value.result.run_id


def resumed(
    store: Path, run_id: str, tool: Recorded, script: Any = acting, heard: list[EventBase] | None = None, **more: Any
) -> Result:
    with Fusion(model=native(script), tools=[tool], store=store) as fusion:
        return fusion.resume(run_id, on_event=None if heard is None else heard.append, **more)


@pytest.mark.parametrize("effect", ["read", "write"])
@pytest.mark.parametrize("stage", [STAGE, STAGE.replace("act]", "act], on_unsure: fail")])
def test_a_finished_call_is_answered_from_the_journal(store: Path, effect: Effect, stage: str) -> None:
    first, again, heard = Recorded("act", effect=effect), Recorded("act", effect=effect), list[EventBase]()
    run_id = failed(store, stage, first, refusing)
    assert "found ice" in resumed(store, run_id, again, heard=heard).text
    assert (len(first.calls), again.calls) == (1, [])
    (finished,) = [event for event in heard if isinstance(event, ToolFinished)]
    assert (finished.reused, finished.status) == (True, "ok")


def test_a_resumed_run_needs_no_tool_that_it_has_called(store: Path) -> None:
    run_id = failed(store, STAGE, Recorded("act"), refusing)
    with Fusion(model=native(acting), store=store) as fusion:
        assert "found ice" in fusion.resume(run_id).text


def test_a_tool_that_was_described_anew_changes_no_finished_call(store: Path) -> None:
    run_id = failed(store, STAGE, Recorded("act"), refusing)
    other = Recorded("act")
    other.spec = other.spec.model_copy(update={"description": "Another one."})
    model = native(acting)
    with Fusion(model=model, tools=[other], store=store) as fusion:
        fusion.resume(run_id)
    assert len(model.requests) == 1


def test_a_failed_call_of_a_model_is_its_result_for_good(store: Path) -> None:
    run_id = failed(store, STAGE, Recorded("act", lambda given: ToolResult("no", failed=True)), refusing)
    again = Recorded("act")
    assert "no" in resumed(store, run_id, again).text
    assert again.calls == []


@pytest.mark.parametrize("effect", ["read", "write"])
def test_a_failed_call_of_a_stage_is_made_again(store: Path, effect: Effect) -> None:
    broken = Recorded("act", lambda given: ToolResult("no", failed=True), effect=effect)
    run_id = failed(store, TOOL, broken, "never")
    again = Recorded("act", effect=effect)
    assert resumed(store, run_id, again).text == "found ice"
    assert again.calls == [{"q": "ice"}]


def test_lost_items_are_called_for_again_and_others_not(store: Path) -> None:
    def give(given: dict[str, Any]) -> ToolResult:
        return ToolResult("no", failed=given["q"] == "b")

    stage = "kind: tool, tool: act, over: inputs.q.split(), arguments: {q: item.source}"
    with Fusion(model=native("never"), tools=[Recorded("act", give, effect="write")], store=store) as fusion:
        run_id = fusion.complete("a b c", pipeline=pipeline(stage)).run_id
    again = Recorded("act", effect="write")
    result = resumed(store, run_id, again)
    assert result.status == "ok"
    assert again.calls == [{"q": "b"}]


def test_a_lost_item_of_a_map_keeps_what_its_tools_have_done(store: Path) -> None:
    stage = "kind: map, over: inputs.q.split(), role: bulk, tools: [act], prompt: 'Do {{ item.source }}'"
    book = Recorded("act", effect="write")
    with Fusion(model=native(refusing), tools=[book], store=store) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete("a b", pipeline=pipeline(stage))
    again = Recorded("act", effect="write")
    assert resumed(store, caught.value.result.run_id, again).status == "ok"
    assert (len(book.calls), again.calls) == (2, [])


# A call under way when the process ended.


@pytest.fixture
def killed(store: Path) -> Callable[..., str]:
    """Begins a run whose process is killed in the middle of its call of a tool; returns the id of the run."""

    def begin(stage: str, effect: Effect) -> str:
        child = os.fork()
        if child == 0:

            def die(given: Any) -> None:
                if effect == "read":  # nothing waits for the disk: the run may not be there yet
                    fusion.store.flush()
                os.kill(os.getpid(), signal.SIGKILL)

            tool = Recorded("act", die, effect=effect)
            with Fusion(model=native(acting), tools=[tool], store=store) as fusion:
                fusion.complete("ice", pipeline=pipeline(stage))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        with Fusion(store=store) as fusion:
            return fusion.runs.list()[0].run_id

    return begin


@pytest.mark.parametrize("stage", [STAGE, TOOL], ids=["generate", "tool"])
def test_a_call_that_read_is_made_again(store: Path, killed: Any, stage: str) -> None:
    run_id, again = killed(stage, "read"), Recorded("act")
    assert "found ice" in resumed(store, run_id, again).text
    assert again.calls == [{"q": "ice"}]


@pytest.mark.parametrize("stage", [STAGE, TOOL], ids=["generate", "tool"])
def test_a_call_that_wrote_is_repeated_if_the_stage_says_so(store: Path, killed: Any, stage: str) -> None:
    run_id, again = killed(f"{stage}, on_unsure: repeat", "write"), Recorded("act", effect="write")
    assert "found ice" in resumed(store, run_id, again).text
    assert again.calls == [{"q": "ice"}]


@pytest.mark.parametrize("stage", [STAGE, TOOL], ids=["generate", "tool"])
def test_a_call_that_wrote_fails_if_the_stage_says_so(store: Path, killed: Any, stage: str) -> None:
    run_id, again = killed(f"{stage}, on_unsure: fail", "write"), Recorded("act", effect="write")
    with pytest.raises(RunFailed, match="tool 'act' was being called when the run was interrupted") as caught:
        resumed(store, run_id, again)
    assert '{"q": "ice"}' in str(caught.value)
    assert again.calls == []


@pytest.mark.parametrize("stage", [STAGE, TOOL], ids=["generate", "tool"])
@pytest.mark.parametrize("again", [True, False], ids=["again", "not again"])
def test_a_person_decides_on_a_call_that_wrote(store: Path, killed: Any, stage: str, *, again: bool) -> None:
    run_id, tool = killed(stage, "write"), Recorded("act", effect="write")
    waiting = resumed(store, run_id, tool)
    assert (waiting.status, tool.calls) == ("waiting", [])
    (gate,) = waiting.waiting
    assert "the tool 'act' was being called" in gate.text.lower()
    assert '{"q": "ice"}' in gate.text
    with Fusion(model=native(acting), tools=[tool], store=store) as fusion:
        text = fusion.approve(run_id, yes=again, text=None if again else "the ice is booked", by="Ada").text
    assert tool.calls == ([{"q": "ice"}] if again else [])
    assert ("found ice" in text) is again
    assert ("is not repeated. Ada says: the ice is booked" in text) is not again


def test_fusion_toml_decides_anew_what_only_reads(store: Path, killed: Any) -> None:
    run_id, again = killed(STAGE, "write"), Recorded("act", effect="read")
    assert "found ice" in resumed(store, run_id, again).text


def test_without_a_store_calls_are_made_and_nothing_is_kept() -> None:
    tool = Recorded("act", effect="write")
    with Fusion(model=native(acting), tools=[tool]) as fusion:
        assert "found ice" in fusion.complete("ice", pipeline=pipeline(STAGE)).text
    assert len(tool.calls) == 1


def test_the_history_tells_of_the_calls_of_tools(store: Path) -> None:
    with Fusion(model=native(acting), tools=[Recorded("act", effect="write")], store=store) as fusion:
        run_id = fusion.complete("ice", pipeline=pipeline(STAGE)).run_id
        (tool,) = fusion.runs.show(run_id).tools
    assert (tool.stage, tool.step, tool.tool, tool.effect, tool.status) == (
        "a",
        "generate-tool-1",
        "act",
        "write",
        "ok",
    )
    assert (tool.arguments, tool.size) == ('{"q": "ice"}', len("found ice"))


@pytest.mark.parametrize("content", ["digest", "off"])
def test_words_of_a_call_are_not_kept_where_prompts_are_not(store: Path, content: Any) -> None:
    tool = Recorded("act", lambda given: ToolResult("a secret word", failed=True))
    with Fusion(model=native(acting), tools=[tool], store=store, content=content) as fusion:
        run_id = fusion.complete("ice", pipeline=pipeline(STAGE)).run_id
        (kept,) = fusion.runs.show(run_id).tools
    assert kept.arguments == ""
    assert kept.failure is not None
    assert "secret" not in kept.failure.message
    assert b"secret word" not in store.read_bytes()
