"""OpenRouter's Fusion, by its plug-in, its server tool and its model, on each API."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fusion import Request, Say, ScriptedModel
from fusion.core.errors import BadRequestError, ContentFilterError, RateLimitError
from tests.conftest import own_settings, said
from tests.server.conftest import Serve, Served
from tests.server.test_responses import again, left, streamed

PANEL = ["openai/gpt-5", "anthropic/claude-opus-4.5", "google/gemini-2.5-pro"]
DENIED = "openai/denied"
OURS = ["openai/gpt-5", "anthropic/claude-opus-4-5", "gemini/gemini-2.5-pro"]
TOOL = {"type": "openrouter:fusion", "parameters": {"analysis_models": PANEL}}
POINTS = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots")


def analysis(request: Request) -> dict[str, Any]:
    """A judge that has something in every list."""
    shown = [letter for letter in "ABCDEFGH" if f"Answer {letter}:" in said(request)]
    return {
        "consensus": ["it rains"],
        "contradictions": [{"topic": "when", "stances": [{"model": shown[0], "stance": "today"}]}],
        "partial_coverage": [{"models": shown, "point": "wind"}],
        "unique_insights": [{"model": shown[-1], "insight": "snow"}],
        "blind_spots": ["hail"],
        "evidence": [],
        "confidence": 0.9,
        "vote_settles": False,
    }


def writer(request: Request) -> Any:
    """A model that judges, and writes the final answer, both as the pipeline asks for."""
    words = said(request)
    if "You are the judge" in words:
        return analysis(request)
    return "the final answer of them all" if "You write the final answer" in words else "an answer of the writer"


@pytest.fixture
def panel(serve: Serve, without_pauses: None) -> Callable[..., Served]:
    """Serves the shipped pipeline with a panel of scripted models; `scripts` replaces that of some."""

    def start(scripts: Mapping[str, Any] | None = None, **options: Any) -> Served:
        given = {name: f"answer of {name}" for name in OURS} | {"openai/writer": writer} | dict(scripts or {})
        models = {name: ScriptedModel(script, name=name) for name, script in given.items()}
        served = serve(
            {"frontier": writer, "bulk": "a cheap answer"}, pipelines={"fusion": "fusion"}, models=models, **options
        )
        served.models |= models
        return served

    return start


@pytest.fixture
def denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own policy denies a model."""
    own_settings(tmp_path, monkeypatch)(f'[policy]\ndeny = ["{DENIED}"]\n')


def plugin(**more: Any) -> dict[str, Any]:
    return {"plugins": [{"id": "fusion", "analysis_models": PANEL, "model": "openai/writer", **more}]}


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "openai/writer", "input": "Will it rain?", **plugin(), **more}


def shown(served: Served, headers: Mapping[str, str]) -> Any:
    """The response of a run, read again."""
    with served.client() as client:
        return client.get(f"/v1/responses/resp_{headers['x-fusion-run']}").json()


def calls(served: Served) -> int:
    return sum(len(model.requests) for model in served.models.values())


def test_a_panel_answers_a_judge_compares_and_the_writer_writes(panel: Callable[..., Served]) -> None:
    served = panel()
    body = served.post("/v1/responses", asked()).json()
    call, message = body["output"]
    assert (body["model"], body["status"]) == ("openai/writer", "completed")
    assert message["content"][0]["text"] == "the final answer of them all"
    assert (call["type"], call["status"], call["failed_models"], call["sources"]) == (
        "openrouter:fusion",
        "completed",
        [],
        [],
    )
    assert {one["model"]: one["content"] for one in call["responses"]} == {
        name: f"answer of {ours}" for name, ours in zip(PANEL, OURS, strict=True)
    }
    assert tuple(call["analysis"]) == POINTS
    assert sorted(call["analysis"]["partial_coverage"][0]["models"]) == sorted(PANEL)
    assert calls(served) == 5


def test_events_tell_of_the_panel(panel: Callable[..., Served]) -> None:
    served = panel()
    events = streamed(served, asked())
    kinds = [one["type"].removeprefix("response.") for one in events]
    own = [kind.removeprefix("fusion_call.") for kind in kinds if kind.startswith("fusion_call.")]
    assert own[:4] == ["in_progress", *["panel.added"] * 3]
    assert sorted(own[4:10]) == ["panel.completed"] * 3 + ["panel.delta"] * 3
    assert own[10:] == ["analysis.in_progress", "analysis.completed", "completed"]
    assert kinds.index("output_text.delta") > kinds.index("fusion_call.completed")
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    call = next(one["item"] for one in events if one["type"] == "response.output_item.done")
    assert call == events[-1]["response"]["output"][0]
    completed = {one["model"]: one["content"] for one in events if one["type"].endswith("panel.completed")}
    assert completed == {one["model"]: one["content"] for one in call["responses"]}
    judging = next(one for one in events if one["type"].endswith("analysis.in_progress"))
    assert judging["analyst_model"] == judging["judge_model"] == "openai/writer"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_stream_with_a_panel_is_taken_up_again(panel: Callable[..., Served], share: float) -> None:
    served = panel({"anthropic/claude-opus-4-5": Say(error=BadRequestError("no"))})
    whole = streamed(served, asked())
    cut, paid = round(share * (len(whole) - 1)), calls(served)
    assert again(served, whole[0]["response"]["id"], cut) == whole[cut + 1 :]
    assert calls(served) == paid


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "openrouter:fusion", "parameters": {"analysis_models": PANEL}}]},
        {
            "tools": [{"type": "openrouter:fusion", "parameters": {"analysis_models": PANEL}}],
            "tool_choice": "required",
        },
        {**plugin(), "tool_choice": "required"},
        {**plugin(model=None)},
        {"model": "openrouter/fusion", **plugin()},
        {"model": "fusion/fusion", **plugin()},
    ],
)
def test_each_way_to_ask_for_a_panel(panel: Callable[..., Served], body: dict[str, Any]) -> None:
    served = panel()
    made = served.post("/v1/responses", {"model": "openai/writer", "input": "Will it rain?", **body}).json()
    assert [one["type"] for one in made["output"]] == ["openrouter:fusion", "message"]
    assert made["model"] == "openai/writer"
    assert {one["model"] for one in made["output"][0]["responses"]} == set(PANEL)


@pytest.mark.parametrize("preset", [None, "general-high", "general-budget", "general-fast"])
def test_a_preset_has_a_panel_of_its_own(panel: Callable[..., Served], preset: str | None) -> None:
    served = panel()
    body = {"model": "openrouter/fusion", "input": "x", "plugins": [{"id": "fusion", "preset": preset}]}
    made = served.post("/v1/responses", body)
    assert made.status_code in (200, 422), made.text
    if made.status_code == 200:
        assert len(made.json()["output"][0]["responses"]) >= 2


def test_a_chat_completion_has_the_panel_in_a_field(panel: Callable[..., Served]) -> None:
    served = panel()
    body = {"model": "openai/writer", "messages": [{"role": "user", "content": "Will it rain?"}], **plugin()}
    answer = served.post("/v1/chat/completions", body)
    made = answer.json()
    assert made["choices"][0]["message"]["content"] == "the final answer of them all"
    assert made["model"] == "openai/writer"
    assert {one["model"] for one in made["fusion"]["call"]["responses"]} == set(PANEL)
    assert shown(served, answer.headers)["output"][0] == made["fusion"]["call"]


def test_a_streamed_completion_is_the_text(panel: Callable[..., Served]) -> None:
    served = panel()
    pieces = served.openai().chat.completions.create(
        model="openai/writer", messages=[{"role": "user", "content": "x"}], stream=True, extra_body=plugin()
    )
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == "the final answer of them all"


def test_a_message_of_anthropic_asks_a_panel(panel: Callable[..., Served]) -> None:
    served = panel()
    body = {"model": "openai/writer", "max_tokens": 100, "messages": [{"role": "user", "content": "x"}], **plugin()}
    made = served.post("/v1/messages", body).json()
    assert made["content"][0]["text"] == "the final answer of them all"
    assert len(made["fusion"]["call"]["responses"]) == 3


def test_a_member_that_fails_is_listed(panel: Callable[..., Served]) -> None:
    served = panel({"anthropic/claude-opus-4-5": Say(error=RateLimitError("slow down"))})
    events = streamed(served, asked())
    call = events[-1]["response"]["output"][0]
    (failed,) = call["failed_models"]
    assert (failed["model"], failed["status_code"]) == ("anthropic/claude-opus-4.5", 429)
    assert [one["model"] for one in events if one["type"].endswith("panel.failed")] == [failed["model"]]
    assert len(call["responses"]) == 2
    assert "failure_reason" not in call


@pytest.mark.parametrize("name", ["nobody/knows", "google/gemini-9", "openai/"])
def test_a_model_that_cannot_be_asked_is_listed(panel: Callable[..., Served], name: str) -> None:
    served = panel()
    made = served.post("/v1/responses", asked(**plugin(analysis_models=[name, *PANEL[:2]]))).json()
    call = made["output"][0]
    assert [(one["model"], one["status_code"]) for one in call["failed_models"]] == [(name, 400)]
    assert len(call["responses"]) == 2


def test_a_panel_without_an_answer_fails(panel: Callable[..., Served]) -> None:
    served = panel({name: Say(error=BadRequestError("down")) for name in OURS})
    last = streamed(served, asked())[-1]
    assert last["type"] == "response.failed"
    (call,) = last["response"]["output"]
    assert (call["failure_reason"], call["status"], len(call["failed_models"])) == (
        "all_panels_failed",
        "incomplete",
        3,
    )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("no JSON at all", "judge_not_valid_json"),
        ({"consensus": []}, "judge_schema_mismatch"),
        (Say(error=ContentFilterError("no")), "judge_upstream_error"),
        ("", "judge_empty_completion"),
    ],
)
def test_a_judge_that_fails_leaves_an_answer(panel: Callable[..., Served], reply: Any, reason: str) -> None:
    def judge(request: Request) -> Any:
        return reply if "You are the judge" in said(request) else writer(request)

    served = panel({"openai/judge": judge})
    made = served.post("/v1/responses", asked(**plugin(model="openai/judge"))).json()
    call, message = made["output"]
    assert message["content"][0]["text"] == "the final answer of them all"
    assert (call["analysis"], call["failure_reason"]) == (None, reason)


def test_a_budget_holds_for_the_panel(panel: Callable[..., Served]) -> None:
    served = panel()
    answer = served.post("/v1/responses", asked(fusion={"budget": {"calls": 3}}))
    assert (answer.status_code, answer.headers["x-should-retry"]) == (402, "false")
    assert calls(served) <= 3
    (call,) = shown(served, answer.headers)["output"]
    assert call["failure_reason"] == "insufficient_credits"
    assert len(call["responses"]) == calls(served)


def test_a_panel_within_a_panel_is_refused(panel: Callable[..., Served]) -> None:
    served = panel()
    answer = served.post("/v1/responses", asked(), x_openrouter_fusion_depth="1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "fusion_depth_exceeded")
    assert calls(served) == 0


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        (plugin(analysis_models=PANEL * 3), 400, "plugins.fusion.analysis_models"),
        (plugin(analysis_models=[]), 400, "plugins.0.analysis_models"),
        (plugin(preset="best"), 400, "plugins.0.preset"),
        (plugin(max_tool_calls=40), 400, "plugins.0.max_tool_calls"),
        ({"plugins": "fusion"}, 400, "plugins"),
        ({"plugins": [{"analysis_models": PANEL}]}, 400, "plugins.0.id"),
        (plugin(model="nobody/knows"), 400, "model"),
        (plugin(analysis_models=["nobody/knows", "x"]), 400, "analysis_models"),
        (plugin(analysis_models=["local:/etc/passwd.gguf", "replay:x#y"]), 400, "analysis_models"),
    ],
)
def test_a_wrong_panel_is_refused(panel: Callable[..., Served], more: Any, status: int, param: str) -> None:
    served = panel()
    answer = served.post("/v1/chat/completions", {**served.chat(model="openai/writer"), **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert calls(served) == 0


def test_a_plug_in_that_is_off_has_no_effect(panel: Callable[..., Served]) -> None:
    answer = panel().post("/v1/responses", {"model": "nobody/knows", "input": "x", **plugin(enabled=False)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_options_without_an_effect_are_named(panel: Callable[..., Served]) -> None:
    tools = [{"type": "openrouter:web_search"}]
    more = {"plugins": [*plugin(tools=tools, max_tool_calls=4)["plugins"], {"id": "web"}]}
    ignored = panel().post("/v1/responses", asked(**more)).headers["x-fusion-ignored"].split(", ")
    assert ignored == ["plugins.web", "plugins.fusion.tools", "plugins.fusion.max_tool_calls"]


def test_a_panel_has_a_quote(panel: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.quote.quote._FEWEST_RUNS", 2)
    monkeypatch.setattr("fusion.quote.quote._CALLS", 0)
    served = panel()
    quote = served.post("/v1/quote", {**served.chat(model="openai/writer"), **plugin()}).json()
    assert quote["calls"]["likely"] >= 5
    assert calls(served) == 0


@pytest.mark.parametrize("stage", ["panel", "judge", "writer"])
def test_a_panel_that_stopped_with_its_client_goes_on(panel: Callable[..., Served], stage: str) -> None:
    waits = {"panel": "You are no part", "judge": "You are the judge", "writer": "You write the final answer"}[stage]
    held: list[str] = []

    def slow(request: Request) -> Any:
        words = said(request)
        if (waits in words or stage == "panel") and not held:
            held.append(words)
            return Say(pieces=["the final answer of them all, ", (60, "…")])
        return writer(request)

    scripts = {"openai/writer": slow} if stage != "panel" else {OURS[2]: slow}
    served = panel(scripts)
    last = {"panel": "panel.completed", "judge": "analysis.in_progress", "writer": "output_text.delta"}[stage]
    before = left(served, asked(), lambda found: found[-1]["type"].endswith(last) and bool(held))
    paid = calls(served)
    rest = again(served, before[0]["response"]["id"], before[-1]["sequence_number"])
    whole = [*before, *rest]
    assert [one["sequence_number"] for one in whole] == list(range(len(whole)))
    assert [one["type"] for one in whole].count("response.fusion_call.panel.completed") == 3
    assert [one["type"] for one in whole].count("response.fusion_call.analysis.completed") == 1
    assert whole[-1]["response"]["output"][1]["content"][0]["text"] == "the final answer of them all"
    assert again(served, before[0]["response"]["id"], 0) == whole[1:]
    again_paid = {"panel": 1, "judge": 1, "writer": 1}[stage]
    assert calls(served) == paid + again_paid + {"panel": 2, "judge": 1, "writer": 0}[stage]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"max_tokens": 50, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/quote", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
@pytest.mark.parametrize("place", ["writer", "judge", "every member"])
def test_a_model_that_the_policy_denies_is_refused(
    panel: Callable[..., Served], denied: None, path: str, body: dict[str, Any], place: str
) -> None:
    named = {"writer": {}, "judge": {"model": DENIED}, "every member": {"analysis_models": [DENIED]}}[place]
    model = DENIED if place == "writer" else "openai/writer"
    served = panel({DENIED: "never"})
    answer = served.post(path, {"model": model, **body, **plugin(**named)})
    assert (answer.status_code, "forbids" in answer.text) == (403, True), answer.text
    assert calls(served) == 0


def test_a_member_that_the_policy_denies_is_listed(panel: Callable[..., Served], denied: None) -> None:
    served = panel({DENIED: "never"})
    made = served.post("/v1/responses", asked(**plugin(analysis_models=[DENIED, *PANEL]))).json()
    (failed,) = made["output"][0]["failed_models"]
    assert (failed["model"], failed["status_code"]) == (DENIED, 403)
    assert not served.models[DENIED].requests


@pytest.mark.parametrize("content", ["digest", "off"])
def test_a_panel_of_which_nothing_is_kept_answers(panel: Callable[..., Served], content: str) -> None:
    served = panel(content=content)
    events = streamed(served, asked())
    call, message = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "the final answer of them all"
    assert call["type"] == "openrouter:fusion"
