"""Times of calls and runs: each wait by its cause, and a latency from the request sent to the answer."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, ModelInfo, Reply, Result, Say, ScriptedModel
from fusion.core.errors import BadRequestError, ModelConnectionError, RateLimitError
from fusion.core.events import CallCancelled, CallFailed, CallFinished, EventBase
from fusion.core.types import Deltas, Request, Usage, Waited
from fusion.models.base import Price
from tests.conftest import pipeline, run
from tests.stages.hands.doubles import Recorded, call
from tests.stages.hands.doubles import pipeline as tooled

Make = Callable[..., Fusion]

LONG = 0.06
"""Seconds of a wait that is made."""
ONE = "inputs: {t: What.}\nstages:\n  a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}'}\noutput: a"
WIDE = ONE.replace("generate", "map, over: 'range(3) | list'").replace("inputs.t", "item.source")
ONE_AT_A_TIME = f"{WIDE}\nroles: {{bulk: {{chain: [scripted/model], concurrency: 1}}}}"


class Slow(Model):
    """A model of a user that loads something first, and states no latency."""

    info = ModelInfo(id="own/slow", provider="own", price=Price(input=0, output=0))

    def __init__(self, *, loading: float = 0.0, thinking: float = 0.0, latency: float = 0.0) -> None:
        self._loading, self._thinking, self._latency = loading, thinking, latency

    async def ready(self) -> None:
        seconds, self._loading = self._loading, 0.0
        await asyncio.sleep(seconds)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        await asyncio.sleep(self._thinking)
        return Reply(
            text="yes", finish_reason="stop", usage=Usage(), asked="own/slow", served="it", latency=self._latency
        )


def slowly(*failures: Exception, seconds: float = 0.0) -> ScriptedModel:
    """A model that takes so long for each of these failures, and answers then."""
    return ScriptedModel([*(Say(delay=seconds, error=error) for error in failures), "yes"])


def waits(events: list[EventBase], cause: str) -> list[float]:
    found = [event for event in events if isinstance(event, (CallFinished, CallFailed))]
    return sorted(getattr(event.waited or Waited(), cause) for event in found)


CAUSES: Mapping[str, tuple[str, Callable[[], Any], str, dict[str, Any]]] = {
    "a library": ("library", lambda: Slow(loading=LONG), ONE, {}),
    "the one slot of a role": ("slot", lambda: ScriptedModel("yes", delay=LONG), ONE_AT_A_TIME, {}),
    "a rate limit": ("pause", lambda: slowly(RateLimitError("slow down", retry_after=LONG)), ONE, {}),
    "two rate limits": ("pause", lambda: slowly(*[RateLimitError("slow", retry_after=LONG)] * 2), ONE, {}),
    "a budget of one call": ("budget", lambda: ScriptedModel("yes", delay=LONG), WIDE, {"budget": {"tokens": 3000}}),
    "a failed attempt": ("failed", lambda: slowly(ModelConnectionError("gone"), seconds=LONG), ONE, {}),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_wait_is_counted_by_its_cause_and_in_no_latency(without_pauses: None, name: str) -> None:
    cause, made, shape, options = CAUSES[name]
    model = made()
    with Fusion(
        profile="local", models={model.info.id: model}, roles={} if shape is ONE_AT_A_TIME else {"bulk": model}
    ) as fusion:
        result, events = run(fusion, "x", pipeline=pipeline(shape), **options)
    assert result.status == "ok", result.error
    assert waits(events, cause)[-1] >= 0.8 * LONG
    others = set(Waited.model_fields) - {cause}
    assert all(seconds < LONG / 2 for other in others for seconds in waits(events, other))
    assert all(event.latency < 1.8 * LONG for event in events if isinstance(event, CallFinished))


def test_a_call_that_does_not_wait_has_no_waits(fusion: Make) -> None:
    _, events = run(fusion({"bulk": ScriptedModel("yes")}), "x", pipeline=pipeline(ONE))
    assert [event.waited for event in events if isinstance(event, CallFinished)] == [None]


def test_a_call_that_fails_says_what_it_waited_for(fusion: Make, without_pauses: None) -> None:
    model = slowly(*[RateLimitError("slow down", retry_after=LONG)] * 2, BadRequestError("no"), seconds=LONG)
    _, events = run(fusion({"bulk": model}), "x", pipeline=pipeline(ONE))
    (failed,) = (event for event in events if isinstance(event, CallFailed))
    assert failed.waited is not None
    assert failed.waited.pause >= 1.6 * LONG
    assert failed.waited.failed >= 2.4 * LONG


@pytest.mark.parametrize(("stated", "least", "most"), [(0.0, 0.8 * LONG, 9), (0.005, 0.005, 0.005)])
def test_a_model_of_a_user_gets_the_latency_that_it_does_not_state(
    fusion: Make, stated: float, least: float, most: float
) -> None:
    _, events = run(fusion({"bulk": Slow(thinking=LONG, latency=stated)}), "x", pipeline=pipeline(ONE))
    (finished,) = (event for event in events if isinstance(event, CallFinished))
    assert least <= finished.latency <= most


# Runs: the critical path.

TWO = (
    "inputs: {t: What.}\nstages:\n"
    "  a: {kind: generate, role: bulk, prompt: 'first {{ inputs.t }}'}\n"
    "  b: {kind: generate, role: bulk, prompt: 'then {{ a }}'}\noutput: b"
)
PANEL = (
    "inputs: {t: What.}\nstages:\n"
    "  a: {kind: panel, members: [{role: bulk, samples: 3}], prompt: '{{ inputs.t }}'}\n"
    "  b: {kind: generate, role: bulk, prompt: 'out of {{ a | map(attribute=\"value\") | join }}'}\noutput: b"
)
BRANCHES = (
    "inputs: {t: What.}\nstages:\n"
    "  a: {kind: generate, role: bulk, prompt: 'one {{ inputs.t }}'}\n"
    "  b: {kind: generate, role: bulk, prompt: 'two {{ inputs.t }}'}\n"
    "  c: {kind: generate, role: bulk, prompt: '{{ a }} and {{ b }}'}\noutput: c"
)
FLOW = (
    "inputs: {t: What.}\nstages:\n"
    "  a: {kind: map, over: 'range(4) | list', role: bulk, prompt: 'one {{ item.source }}'}\n"
    "  b: {kind: map, over: a, role: bulk, prompt: 'two {{ item.source }} {{ item.value }}'}\noutput: b"
)
SHAPES = {
    "one call": (ONE, 1),
    "two in turn": (TWO, 2),
    "a panel": (PANEL, 2),
    "branches": (BRANCHES, 2),
    "a flow": (FLOW, 2),
}


def slow(seconds: float = LONG) -> ScriptedModel:
    return ScriptedModel("yes", delay=seconds)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_times_of_a_run_add_up_along_its_critical_path(fusion: Make, shape: str) -> None:
    text, calls = SHAPES[shape]
    result, _ = run(fusion({"bulk": slow()}), "x", pipeline=pipeline(text))
    times = result.receipt.times
    assert times.total == pytest.approx(result.seconds)
    assert calls * LONG * 0.95 <= times.model <= result.seconds
    assert times.waited == 0


def searching(model: ScriptedModel, stage: str, **more: Any) -> Result:
    """The Result of a pipeline whose stage `a` calls a tool that takes its time."""
    with Fusion(model=model, tools=[Recorded(seconds=LONG), Recorded("other", seconds=LONG)], **more) as fusion:
        result, _ = run(fusion, "ice", pipeline=tooled(stage))
    assert result.receipt.times.total == pytest.approx(result.seconds)
    return result


ACTS = {
    "one call": ("kind: tool, tool: search, arguments: {q: inputs.q}", ["never"], 1, 0),
    "items at once": ("kind: tool, tool: search, over: 'range(4) | list', arguments: {q: inputs.q}", ["never"], 1, 0),
    "items in turn": (
        "kind: tool, tool: search, over: 'range(3) | list', concurrency: 1, arguments: {q: inputs.q}",
        ["never"],
        3,
        0,
    ),
    "of a model": (
        "kind: generate, role: bulk, prompt: x, tools: [search]",
        [Say(delay=LONG, tool_calls=(call("search", q="ice"),)), Say("done", delay=LONG)],
        1,
        2,
    ),
    "two of a model at once": (
        "kind: generate, role: bulk, prompt: x, tools: [search, other]",
        [Say(tool_calls=(call("search", 1, q="ice"), call("other", 2, q="ice"))), "done"],
        1,
        0,
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_the_time_of_tools_is_on_the_path(name: str) -> None:
    stage, script, tools, models = ACTS[name]
    times = searching(ScriptedModel(script, name="own/native"), stage).receipt.times
    assert times.tools >= tools * LONG * 0.9
    assert times.model >= models * LONG * 0.9


def test_a_pipeline_as_a_tool_counts_by_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = "name: inner\ninputs: {q: A question.}\nstages: {b: {kind: generate, role: bulk, prompt: x}}\noutput: b\n"
    (tmp_path / "inner.yaml").write_text(inner)
    model = ScriptedModel(
        [Say(tool_calls=(call("inner", q="ice"),)), Say("within", delay=LONG), "done"], name="own/native"
    )
    stage = "kind: generate, role: bulk, prompt: x, tools: [inner.yaml]"
    text = f"inputs: {{q: A question.}}\nstages: {{a: {{{stage}}}}}\noutput: a\n"
    (tmp_path / "outer.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with Fusion(model=model) as fusion:
        result, _ = run(fusion, "ice", pipeline=tmp_path / "outer.yaml")
    assert result.status == "ok", result.error
    assert result.receipt.times.model >= LONG * 0.9
    assert result.receipt.times.tools < LONG / 2


def test_the_time_of_tools_outlives_an_interruption(tmp_path: Path) -> None:
    stage = "kind: generate, role: bulk, prompt: x, tools: [search]"
    script = [Say(tool_calls=(call("search", q="ice"),)), Say(error=BadRequestError("no")), "done"]
    model, store = ScriptedModel(script, name="own/native"), tmp_path / "runs.db"
    failed = searching(model, stage, store=store)
    assert failed.status == "failed"
    with Fusion(model=model, tools=[Recorded(), Recorded("other")], store=store) as fusion:
        result = fusion.resume(failed.run_id)
    assert result.receipt.times.tools >= LONG * 0.9
    assert result.receipt.times.total == pytest.approx(result.seconds)


def test_a_run_without_calls_spends_its_own_time(fusion: Make) -> None:
    text = "inputs: {t: What.}\nstages:\n  a: {kind: render, template: '{{ inputs.t }}'}\noutput: a"
    result, _ = run(fusion({"bulk": slow()}), "x", pipeline=pipeline(text))
    assert result.receipt.times.own == pytest.approx(result.seconds)


def test_the_wait_for_the_last_slot_is_on_the_path(fusion: Make) -> None:
    model = slow()
    with Fusion(profile="local", models={model.info.id: model}) as one:
        result, _ = run(one, "x", pipeline=pipeline(ONE_AT_A_TIME))
    times = result.receipt.times
    assert times.slot >= 1.8 * LONG
    assert 0.9 * LONG <= times.model < 1.8 * LONG


def test_the_time_of_a_cancelled_call_is_the_models(fusion: Make) -> None:
    text = ONE.replace("role: bulk", f"role: bulk, timeout: {LONG}, on_error: skip, default: none")
    result, events = run(fusion({"bulk": slow(30)}), "x", pipeline=pipeline(text))
    assert any(isinstance(event, CallCancelled) for event in events)
    assert result.receipt.times.model >= 0.8 * LONG


def test_the_times_of_a_resumed_run_are_those_of_all_its_sessions(tmp_path: Path) -> None:
    broken = ScriptedModel([Say("yes", delay=LONG), BadRequestError("no")], name="scripted/one")
    with Fusion(profile="local", roles={"bulk": broken}, store=tmp_path / "runs.db") as one:
        failed, _ = run(one, "x", pipeline=pipeline(TWO))
        assert failed.status == "failed"
    with Fusion(profile="local", roles={"bulk": slow_named("scripted/one")}, store=tmp_path / "runs.db") as one:
        result = one.resume(failed.run_id)
        shown = one.runs.show(failed.run_id).receipt
    assert result.receipt.times.model >= 1.9 * LONG
    assert shown.times == result.receipt.times


def slow_named(name: str) -> ScriptedModel:
    return ScriptedModel("yes", delay=LONG, name=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_reused_calls_save_the_time_that_they_took_and_parallel_ones_save_it_once(tmp_path: Path, shape: str) -> None:
    text, calls = SHAPES[shape]
    with Fusion(profile="local", roles={"bulk": slow()}, store=tmp_path / "runs.db") as one:
        first, _ = run(one, "x", pipeline=pipeline(text), cache="shared")
        again, _ = run(one, "x", pipeline=pipeline(text), cache="shared")
    assert first.receipt.saved_seconds == 0
    assert again.receipt.calls == 0
    assert calls * LONG * 0.95 <= again.receipt.saved_seconds + again.seconds
    assert again.receipt.saved_seconds <= first.seconds


def test_a_call_that_was_in_flight_saves_the_rest_of_its_time(fusion: Make) -> None:
    text = BRANCHES.replace("two {{", "one {{").replace("defaults", "")
    result, _ = run(fusion({"bulk": slow()}), "x", pipeline=pipeline(text), cache="run")
    assert result.receipt.reused == 1
    assert result.receipt.saved_seconds < 0.5 * LONG
    assert result.receipt.times.model >= 1.9 * LONG
