"""Advisors: a worker asks a stronger role for short advice in the middle of its work."""

from typing import Any

import pytest

from fusion import Fusion, Request, RunFailed
from fusion.core.errors import AuthenticationError, ContentFilterError
from fusion.core.types import ToolCall
from tests.stages.hands.doubles import Recorded, call, calls, formed, native, pipeline, results, steps, words

ADVISED = "kind: generate, role: bulk, advisor: {role: frontier, calls: 2, max_tokens: 300}"
EACH = f"{ADVISED.replace('generate', 'map')}, over: inputs.q.split(), prompt: 'Read {{{{ item.source }}}}'"


def asking(request: Request) -> Any:
    return f"as told: {results(request)[-1]}" if results(request) else calls(call("ask_advisor", question="Which?"))


def over_schema(request: Request) -> Any:
    if "Take the left" in words(request):
        return {"answer": "as told: Take the left one."}
    return {"tool": "ask_advisor", "arguments": {"question": "Which?"}}


@pytest.mark.parametrize("stage", [ADVISED, EACH], ids=["generate", "map"])
@pytest.mark.parametrize("make", [lambda: native(asking), lambda: formed(over_schema)], ids=["native", "schema"])
def test_the_worker_reads_the_advice(stage: str, make: Any) -> None:
    strong = native("Take the left one.", "own/strong")
    with Fusion(roles={"bulk": make(), "frontier": strong}) as fusion:
        result = fusion.complete("road", pipeline=pipeline(stage))
    assert "Take the left one." in (result.text or str(result.items[0].value))
    (asked,) = strong.requests
    assert asked.max_tokens == 300
    assert "Which?" in words(asked)
    assert "road" in words(asked)
    assert steps(strong.requests) == ["work-tool-1" if "map" in stage else "generate-tool-1"]


def test_advice_ends_with_its_calls() -> None:
    def script(request: Request) -> Any:
        told = results(request)
        return "done" if len(told) == 4 else calls(call("ask_advisor", question=f"Question {len(told)}?"))

    worker, strong = native(script, "own/worker"), native("So.", "own/strong")
    with Fusion(roles={"bulk": worker, "frontier": strong}) as fusion:
        fusion.complete("road", pipeline=pipeline(ADVISED))
    assert len(strong.requests) == 2
    assert ["No more advice: 2 questions are the most." in said for said in results(worker.requests[-1])] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("arguments", ["{}", "{", '{"question": 3}', '{"question": "  "}', "[]"])
def test_a_question_is_a_text(arguments: str) -> None:
    def script(request: Request) -> Any:
        wanted = ToolCall(id="1", name="ask_advisor", arguments=arguments)
        return "done" if results(request) else calls(wanted)

    worker, strong = native(script, "own/worker"), native("So.", "own/strong")
    with Fusion(roles={"bulk": worker, "frontier": strong}) as fusion:
        assert fusion.complete("road", pipeline=pipeline(ADVISED)).text == "done"
    assert strong.requests == []
    assert "Give the question in words" in results(worker.requests[1])[0]


def test_a_worker_goes_on_without_an_advisor_that_fails() -> None:
    worker = native(asking, "own/worker")
    strong = native(lambda request: ContentFilterError("blocked", model="own/strong"), "own/strong")
    with Fusion(roles={"bulk": worker, "frontier": strong}) as fusion:
        assert "No advice can be had now" in fusion.complete("road", pipeline=pipeline(ADVISED)).text


def test_an_advisor_whose_key_is_bad_ends_the_run() -> None:
    worker = native(asking, "own/worker")
    strong = native(lambda request: AuthenticationError("bad key", model="own/strong"), "own/strong")
    with Fusion(roles={"bulk": worker, "frontier": strong}) as fusion, pytest.raises(RunFailed, match="bad key"):
        fusion.complete("road", pipeline=pipeline(ADVISED))


def test_advice_and_tools_go_together() -> None:
    def script(request: Request) -> Any:
        wanted = [call("ask_advisor", 1, question="Which?"), call("search", 2, q="ice")]
        return " ".join(results(request)) if results(request) else calls(*wanted)

    worker, strong = native(script, "own/worker"), native("Left.", "own/strong")
    with Fusion(roles={"bulk": worker, "frontier": strong}, tools=[Recorded()]) as fusion:
        text = fusion.complete("road", pipeline=pipeline(f"{ADVISED}, tools: [search]")).text
    assert "Left." in text
    assert "found ice" in text


def test_a_tool_of_the_same_name_is_refused() -> None:
    tool = Recorded("ask_advisor")
    with Fusion(model=native("never"), tools=[tool]) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete("road", pipeline=pipeline(f"{ADVISED}, tools: [ask_advisor]"))
    assert "has the name 'ask_advisor', which the stage itself uses" in str(caught.value)


def test_advice_is_quoted_and_counted() -> None:
    worker, strong = native("never", "own/worker"), native("never", "own/strong")
    with Fusion(roles={"bulk": worker, "frontier": strong}) as fusion:
        (previewed,) = fusion.preview("road", pipeline=pipeline(f"{ADVISED}, max_steps: 3, continuations: 0")).stages
    assert previewed.most_calls == 2 * 3 + 2
    assert previewed.roles.keys() == {"bulk", "frontier"}
    assert worker.requests == strong.requests == []


def test_advice_is_answered_from_the_journal(tmp_path: Any) -> None:
    def failing(request: Request) -> Any:
        return ContentFilterError("no") if results(request) else calls(call("ask_advisor", question="Which?"))

    strong, store = native("Left.", "own/strong"), tmp_path / "runs.db"
    roles = {"bulk": native(failing, "own/worker"), "frontier": strong}
    with Fusion(roles=roles, store=store) as fusion, pytest.raises(RunFailed) as caught:
        fusion.complete("road", pipeline=pipeline(ADVISED))
    again = native("never", "own/strong")
    with Fusion(roles={"bulk": native(asking, "own/worker"), "frontier": again}, store=store) as fusion:
        assert "Left." in fusion.resume(caught.value.result.run_id).text
    assert again.requests == []
