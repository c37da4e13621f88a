"""Traces and metrics: spans of runs, stages and calls, as a user's own provider receives them."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fusion import Fusion, Model, Pipeline, Price, RunFailed, Say, ScriptedModel, Settings, UsageError
from fusion.client.telemetry.providers import PATIENCE, OwnProviders, Providers
from fusion.client.telemetry.switch import captures_content, observer_of
from fusion.core.errors import AuthenticationError, ModelConnectionError
from fusion.core.events import CallFinished, EventBase
from fusion.core.params import RoleSpec
from fusion.core.types import Usage
from tests.collector import DEAD, collecting, dead
from tests.conftest import own_settings

ONE = """
inputs: {task: what}
stages: {answer: {kind: generate, role: bulk, prompt: "{{ inputs.task }}"}}
output: answer
"""
MANY = """
name: many
inputs: {words: what}
stages:
  work: {kind: map, over: "inputs.words.split()", role: bulk, prompt: "do {{ item.source }}"}
  answer: {kind: generate, role: frontier, prompt: "{% for item in work %}{{ item.value }} {% endfor %}"}
output: answer
"""
PRICE = Price(input=Decimal(1000), output=Decimal(2000))


class Spans:
    """A provider of the test's own, and what it has received."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, beginning: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name.startswith(beginning)]

    def one(self, beginning: str) -> ReadableSpan:
        (span,) = self.named(beginning)
        return span

    def clear(self) -> None:
        self._exporter.clear()


@pytest.fixture
def spans() -> Spans:
    return Spans()


def traced(spans: Spans, script: Any = "an answer", **options: Any) -> Fusion:
    model = ScriptedModel(script, name="openai/gpt-5.5", price=PRICE)
    return Fusion(profile="local", roles={"bulk": model, "frontier": model}, telemetry=spans.provider, **options)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def test_a_run_its_stages_and_its_calls_are_a_tree(spans: Spans) -> None:
    usage = Usage(input=100, cached_read=40, output=20, reasoning=5)
    with traced(spans, Say("done", usage=usage)) as fusion:
        result = fusion.complete("a b c", pipeline=Pipeline.from_yaml(MANY), tags={"team": "search"})
    run, work, answer = spans.one("invoke_agent many"), spans.one("stage work"), spans.one("stage answer")
    calls = spans.named("chat gpt-5.5")
    assert len(calls) == 4
    assert is_below(work, run)
    assert is_below(answer, run)
    assert sorted(is_below(call, work) for call in calls) == [False, True, True, True]
    assert run.parent is None
    assert {span.context.trace_id for span in spans.all} == {run.context.trace_id}
    assert attributes(run) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "many",
        "fusion.pipeline": "many",
        "fusion.profile": "local",
        "fusion.run.id": result.run_id,
        "fusion.run.session": 1,
        "fusion.tag.team": "search",
        "fusion.status": "ok",
        "fusion.calls": 4,
        "fusion.retries": 0,
        "fusion.cost.usd": float(result.cost.usd or 0),
        "fusion.cost.unknown_calls": 0,
        "fusion.tokens.input": 400,
        "fusion.tokens.output": 80,
        "fusion.tokens.cached": 160,
        "fusion.tokens.reasoning": 20,
    }
    call = attributes(calls[0])
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5.5",
        "gen_ai.response.model": "openai/gpt-5.5",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "fusion.run.id": result.run_id,
        "fusion.role": "bulk",
        "fusion.stage": "work",
        "fusion.step": "work",
    }
    assert call.items() >= expected.items()
    assert call["fusion.cost.usd"] > 0
    assert sorted(attributes(one).get("fusion.item", -1) for one in calls) == [-1, 0, 1, 2]
    assert all((span.start_time or 0) <= (span.end_time or 0) for span in spans.all)


async def awaited(fusion: Fusion) -> None:
    await fusion.acomplete("x", pipeline=Pipeline.from_yaml(ONE))


async def astreamed(fusion: Fusion) -> None:
    async for _ in fusion.astream("x", pipeline=Pipeline.from_yaml(ONE)):
        pass


DOORS: dict[str, Callable[[Fusion], object]] = {
    "complete": lambda fusion: fusion.complete("x", pipeline=Pipeline.from_yaml(ONE)),
    "acomplete": lambda fusion: asyncio.run(awaited(fusion)),
    "start": lambda fusion: fusion.start("x", pipeline=Pipeline.from_yaml(ONE)).wait(),
    "stream": lambda fusion: list(fusion.stream("x", pipeline=Pipeline.from_yaml(ONE))),
    "astream": lambda fusion: asyncio.run(astreamed(fusion)),
    "to_thread": lambda fusion: asyncio.run(
        asyncio.to_thread(fusion.complete, "x", pipeline=Pipeline.from_yaml(ONE))
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_the_callers_span_is_the_parent(door: str, spans: Spans) -> None:
    with traced(spans) as fusion, spans.provider.get_tracer("app").start_as_current_span("request"):
        DOORS[door](fusion)
    assert is_below(spans.one("invoke_agent"), spans.one("request"))


def test_runs_of_other_threads_have_no_parent(spans: Spans) -> None:
    with traced(spans) as fusion, spans.provider.get_tracer("app").start_as_current_span("request"):
        thread = threading.Thread(target=fusion.complete, args=("x",), kwargs={"pipeline": Pipeline.from_yaml(ONE)})
        thread.start()
        thread.join()
    assert spans.one("invoke_agent").parent is None


NESTED = """
inputs: {words: what}
stages:
  once: {kind: pipeline, pipeline: inner.yaml, inputs: {task: inputs.words}}
output: once
"""
EACH = """
inputs: {words: what}
stages:
  each:
    kind: route
    over: inputs.words.split()
    routes: {short: bulk, long: {kind: pipeline, pipeline: inner.yaml, inputs: {task: item.source}}}
    rules: [{when: "item.source|length > 1", use: long}]
    default: short
    prompt: "{{ item.source }}"
output: each
"""


@pytest.mark.parametrize(
    ("text", "words", "parent"), [(NESTED, "a", "stage once/answer"), (EACH, "aa", "stage each")]
)
def test_calls_of_nested_pipelines_are_below_the_nearest_stage(
    text: str, words: str, parent: str, spans: Spans, tmp_path: Path
) -> None:
    (tmp_path / "inner.yaml").write_text(ONE)
    (tmp_path / "outer.yaml").write_text(text)
    with traced(spans) as fusion:
        fusion.complete(words, pipeline=tmp_path / "outer.yaml")
    run, whole = spans.one("invoke_agent"), spans.named("stage ")[-1]
    (nearest,) = [span for span in spans.all if span.name == parent]
    assert is_below(whole, run)
    assert nearest is whole or is_below(nearest, whole)
    assert is_below(spans.one("chat"), nearest)
    assert attributes(spans.one("chat"))["fusion.stage"].endswith("/answer")


# Runs that do not end well.


def test_a_failed_run_and_its_calls_name_the_kind_of_failure_alone(spans: Spans) -> None:
    secret = "the words of the prompt"
    with traced(spans, AuthenticationError(secret)) as fusion, pytest.raises(RunFailed):
        fusion.complete("x", pipeline=Pipeline.from_yaml(ONE))
    for span in (spans.one("invoke_agent"), spans.one("stage answer"), spans.one("chat")):
        assert attributes(span)["error.type"] == "AuthenticationError"
        assert span.status.status_code is trace.StatusCode.ERROR
    assert attributes(spans.one("invoke_agent"))["fusion.status"] == "failed"
    assert secret not in written(spans)


def written(spans: Spans) -> str:
    """Everything that the spans hold, as an exporter writes it."""
    return "".join(span.to_json() for span in spans.all)


def test_a_cancelled_run_ends_all_its_spans(spans: Spans) -> None:
    begun = threading.Event()

    async def forever(request: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    with traced(spans, forever) as fusion:
        handle = fusion.start("a b", pipeline=Pipeline.from_yaml(MANY))
        assert begun.wait(10)
        handle.cancel()
    calls = spans.named("chat")
    assert {attributes(call)["fusion.status"] for call in calls} == {"cancelled"}
    assert attributes(spans.one("invoke_agent"))["fusion.status"] == "failed"
    assert spans.one("stage work").end_time is not None


def test_a_run_stopped_by_its_budget_says_so(spans: Spans) -> None:
    with traced(spans) as fusion, pytest.raises(RunFailed):
        fusion.complete("a b c", pipeline=Pipeline.from_yaml(MANY), budget={"calls": 1})
    assert attributes(spans.one("invoke_agent"))["error.type"] == "BudgetError"


@pytest.mark.parametrize("failing", [True, False])
def test_a_sink_that_fails_leaves_its_run_traced(failing: bool, spans: Spans) -> None:
    def sink(event: EventBase) -> None:
        if failing and isinstance(event, CallFinished):
            raise ValueError("a fault of the user's own")

    with traced(spans) as fusion, suppress(RunFailed):
        fusion.complete("x", pipeline=Pipeline.from_yaml(ONE), on_event=sink)
    assert attributes(spans.one("invoke_agent"))["fusion.status"] == ("failed" if failing else "ok")


# Retries and fallbacks.

DOWN = ModelConnectionError("no answer")
VOTE = """
inputs: {task: what}
stages:
  answer: {kind: panel, members: [first, second], prompt: "{{ inputs.task }}", min_ok: 2}
  best: {kind: merge, over: answer, strategy: concat}
output: best
"""


def test_retries_are_events_of_their_own_call(spans: Spans, without_pauses: None) -> None:
    slow = [DOWN, DOWN, "second"]
    roles: dict[str, Model] = {
        "first": ScriptedModel("first", name="a/one"),
        "second": ScriptedModel(slow, name="a/one-more"),
    }
    with Fusion(profile="local", roles=roles, telemetry=spans.provider) as fusion:
        fusion.complete("x", pipeline=Pipeline.from_yaml(VOTE))
    first, second = spans.one("chat one-more"), [span for span in spans.named("chat one") if span.name == "chat one"]
    assert [event.name for event in first.events if event.name == "attempt failed"] == ["attempt failed"] * 2
    assert attributes(first)["fusion.retries"] == 2
    assert [(span.events, attributes(span).get("fusion.retries")) for span in second] == [((), None)]
    assert attributes(spans.one("invoke_agent"))["fusion.retries"] == 2


def test_a_fallback_is_an_event_and_an_attribute(spans: Spans, without_pauses: None) -> None:
    models = {
        "a/one": ScriptedModel(DOWN, name="a/one"),
        "b/two": ScriptedModel("yes", name="b/two"),
    }
    roles = {"bulk": RoleSpec(chain=("a/one", "b/two"))}
    with Fusion(profile="local", models=models, roles=roles, telemetry=spans.provider) as fusion:
        fusion.complete("x", pipeline=Pipeline.from_yaml(ONE))
    call = spans.one("chat one")
    assert attributes(call)["fusion.fallback"] == "b/two"
    assert attributes(call)["gen_ai.response.model"] == "b/two"
    assert "fallback" in [event.name for event in call.events]


# Resumed runs.


def test_a_resumed_run_is_a_new_trace_linked_to_the_first(spans: Spans, tmp_path: Path) -> None:
    script = ["a", "b", AuthenticationError("no"), "c", "d", "e", "f"]
    with traced(spans, script, store=tmp_path / "runs.db") as fusion:
        with pytest.raises(RunFailed) as failed:
            fusion.complete("a b", pipeline=Pipeline.from_yaml(MANY))
        first = spans.one("invoke_agent")
        run_id = failed.value.result.run_id
        spans.clear()
        fusion.resume(run_id)
        second = spans.one("invoke_agent")
        assert second.context.trace_id != first.context.trace_id
        assert [link.context.trace_id for link in second.links] == [first.context.trace_id]
        assert attributes(second)["fusion.run.session"] == 2
        reused = [attributes(call) for call in spans.named("chat") if "fusion.reused" in attributes(call)]
        assert [call["fusion.reused"] for call in reused] == ["journal", "journal"]
        assert not any("gen_ai.usage.input_tokens" in call for call in reused)
        spans.clear()
        fusion.resume(run_id, pipeline=Pipeline.from_yaml(MANY.replace("do ", "also do ")))
        branch = spans.one("invoke_agent")
        assert [link.context.trace_id for link in branch.links] == [first.context.trace_id]
        assert attributes(branch)["fusion.run.parent"] == run_id


def test_a_third_session_is_linked_to_the_first_trace(spans: Spans, tmp_path: Path) -> None:
    with traced(spans, AuthenticationError("no"), store=tmp_path / "runs.db") as fusion:
        with pytest.raises(RunFailed) as failed:
            fusion.complete("x", pipeline=Pipeline.from_yaml(ONE))
        for _ in range(2):
            with pytest.raises(RunFailed):
                fusion.resume(failed.value.result.run_id)
    first, second, third = spans.named("invoke_agent")
    assert [one.links[0].context.trace_id for one in (second, third)] == [first.context.trace_id] * 2


# Maps.


def test_rows_of_a_map_are_traces_of_their_own_linked_to_the_map(spans: Spans, tmp_path: Path) -> None:
    script: list[Any] = ["a", AuthenticationError("no"), "c"]
    with (
        traced(spans, script, store=tmp_path / "runs.db") as fusion,
        spans.provider.get_tracer("app").start_as_current_span("job"),
    ):
        rows = list(fusion.map(["one", "two", "three"], pipeline=Pipeline.from_yaml(ONE), concurrency=1))
    whole, runs = spans.one("map "), spans.named("invoke_agent")
    assert len(rows) == len(runs) == 3
    assert is_below(whole, spans.one("job"))
    assert len({run.context.trace_id for run in (*runs, whole)}) == 4
    assert all(run.links[0].context.span_id == whole.context.span_id for run in runs)
    assert {attributes(run)["fusion.map.id"] for run in runs} == {attributes(whole)["fusion.map.id"]}
    assert (attributes(whole)["fusion.rows.ok"], attributes(whole)["fusion.rows.failed"]) == (2, 1)


# Content.

WORDS = "the words of the prompt", "the words of the reply"


@pytest.mark.parametrize(
    ("variable", "table", "captured"),
    [
        (None, "", False),
        ("true", "", True),
        ("TRUE", "", True),
        ("span_only", "", True),
        ("span_and_event", "", True),
        ("event_only", "", False),
        ("no_content", "", False),
        ("false", "", False),
        (None, "content = true", True),
        ("true", "content = false", False),
    ],
)
def test_prompts_and_replies_are_traced_only_when_asked_for(
    variable: str | None, table: str, captured: bool, spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_settings(tmp_path, monkeypatch)(f"[telemetry]\n{table}\n")
    if variable is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", variable)
    with traced(spans, WORDS[1]) as fusion:
        fusion.complete(WORDS[0], pipeline=Pipeline.from_yaml(ONE))
    assert [word in written(spans) for word in WORDS] == [captured, captured]
    call = attributes(spans.one("chat"))
    if captured:
        assert json.loads(call["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": WORDS[0]}]}
        ]
        assert json.loads(call["gen_ai.output.messages"]) == [
            {"role": "assistant", "parts": [{"type": "text", "content": WORDS[1]}], "finish_reason": "stop"}
        ]


@pytest.mark.parametrize("content", ["digest", "off"])
def test_a_policy_on_content_holds_for_traces(
    content: str, spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_settings(tmp_path, monkeypatch)(f'[telemetry]\ncontent = true\n[policy]\ncontent = "{content}"\n')
    events: list[Any] = []
    with traced(spans, WORDS[1]) as fusion:
        fusion.complete(WORDS[0], pipeline=Pipeline.from_yaml(ONE), on_event=events.append)
    assert not any(word in written(spans) for word in WORDS)
    notes = [event.message for event in events if event.type == "noted"]
    assert any("prompts and replies are not traced" in note for note in notes)


PLACES = ("prompt", "reply", "tag", "failure")
HOSTILE = {
    "lone surrogates": "half a pair \ud800 and \udfff",
    "control characters": "\x00\x01\x1b[31mred\x1b[0m\u202e\ufeff",
    "markup": "<script>alert(1)</script>&quot;' OR 1=1 --",
    "huge": "long " * 50_000,
    "JSON": '{"resourceSpans": [], "a": NaN}\\u0000}]',
    "astral": "\U0001f600\U0010ffff" * 100,
}


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, place) for kind in HOSTILE for place in PLACES if (kind, place) != ("lone surrogates", "prompt")],
)
def test_hostile_texts_reach_an_exporter(
    kind: str, place: str, spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HOSTILE[kind]
    own_settings(tmp_path, monkeypatch)("[telemetry]\ncontent = true\n")
    script: Any = AuthenticationError(text) if place == "failure" else text if place == "reply" else "fine"
    with traced(spans, script) as fusion, suppress(RunFailed):
        fusion.complete(
            text if place == "prompt" else "x",
            pipeline=Pipeline.from_yaml(ONE),
            tags={"text": text} if place == "tag" else {},
        )
    assert {span.name for span in spans.all} >= {"chat gpt-5.5", "stage answer"}
    encoded = encode_spans(spans.all).SerializeToString()
    assert 1_000 < len(encoded) < 300_000


def test_hostile_names_of_models_reach_an_exporter(spans: Spans) -> None:
    names = ["a/\ud800", "no-slash", "/", "x/" + "y" * 10_000, "local:small"]
    for name in names:
        with Fusion(model=ScriptedModel("fine", name=name), telemetry=spans.provider) as fusion:
            fusion.complete("x", pipeline=Pipeline.from_yaml(ONE))
    assert len(spans.named("chat")) == len(names)
    assert encode_spans(spans.all).SerializeToString()


# Providers that fail or sample.


class Failing(SpanProcessor):
    """A processor that fails at the start or at the end of spans with a name."""

    def __init__(self, when: str, name: str) -> None:
        self._when = when
        self._name = name

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._fail("start", span)

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end", span)

    def _fail(self, when: str, span: Any) -> None:
        if when == self._when and span.name.startswith(self._name):
            raise RuntimeError("a processor that fails")


@pytest.mark.parametrize("when", ["start", "end"])
@pytest.mark.parametrize("name", ["invoke_agent", "stage", "chat"])
def test_a_processor_that_fails_fails_no_run(when: str, name: str, spans: Spans) -> None:
    spans.provider.add_span_processor(Failing(when, name))
    with traced(spans) as fusion:
        assert fusion.complete("x", pipeline=Pipeline.from_yaml(ONE)).text == "an answer"


def test_a_run_that_is_not_sampled_makes_no_further_spans() -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    with traced(spans) as fusion:
        assert fusion.complete("x", pipeline=Pipeline.from_yaml(ONE)).status == "ok"
    assert spans.all == ()


# On and off.


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("given", "table", "variables", "on"),
    [
        (None, "", {}, False),
        (None, "", ENDPOINT, True),
        (None, "", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        (None, "", {"OTEL_TRACES_EXPORTER": "console"}, True),
        (None, "", {"OTEL_TRACES_EXPORTER": "none"}, False),
        (None, "", {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
        (None, "enabled = true", {}, True),
        (None, "enabled = false", ENDPOINT, False),
        (None, "enabled = true", {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (False, "enabled = true", ENDPOINT, False),
        (True, "enabled = false", {}, True),
        (True, "", {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_argument_wins_over_the_settings_and_they_over_variables(
    given: bool | None,
    table: str,
    variables: dict[str, str],
    on: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_settings(tmp_path, monkeypatch)(f"[telemetry]\n{table}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("fusion.client.telemetry.providers.providers_of", lambda given: providers())
    assert (observer_of(given, Settings.from_environment()) is not None) is on


def providers() -> Any:
    return Providers(Spans().provider, metrics.get_meter_provider())


def test_the_project_adds_to_the_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_settings(tmp_path, monkeypatch)("[telemetry]\ncontent = true\nenabled = true\n")
    project = tmp_path / "project"
    project.mkdir()
    (project / "fusion.toml").write_text("[telemetry]\nenabled = false\n")
    untrusted = Settings.from_environment(start=project)
    assert untrusted.telemetry.enabled is True
    assert "[telemetry]" in untrusted.notices[0]
    assert captures_content(untrusted)


UNUSABLE = {
    "an exporter that is not there": {"OTEL_TRACES_EXPORTER": "zipkin"},
    "a list with one that is not": {"OTEL_TRACES_EXPORTER": "console,jaeger"},
    "a protocol that is not there": {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **ENDPOINT},
    "a protocol that does not exist": {"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon", **ENDPOINT},
    "metrics that go nowhere": {"OTEL_METRICS_EXPORTER": "prometeus"},
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_variables_that_cannot_be_used_are_a_note_or_an_error(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in UNUSABLE[fault].items():
        monkeypatch.setenv(name, value)
    events: list[Any] = []
    with Fusion(model=ScriptedModel("fine")) as fusion:
        assert fusion.complete("x", pipeline=Pipeline.from_yaml(ONE), on_event=events.append).text == "fine"
    notes = [event.message for event in events if event.type == "noted"]
    assert any(note.startswith("runs are not traced: OTEL_") for note in notes)
    with pytest.raises(UsageError, match="OTEL_"):
        Fusion(model=ScriptedModel("fine"), telemetry=True)


def test_without_the_extra_variables_are_a_note_and_the_argument_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fusion.client.telemetry.providers", None)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    events: list[Any] = []
    with Fusion(model=ScriptedModel("fine")) as fusion:
        assert fusion.complete("x", pipeline=Pipeline.from_yaml(ONE), on_event=events.append).text == "fine"
    assert any("compound-fusion[otel]" in event.message for event in events if event.type == "noted")
    with pytest.raises(UsageError, match="compound-fusion\\[otel\\]"):
        Fusion(model=ScriptedModel("fine"), telemetry=True)


# Our own providers.


def own(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> OwnProviders:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    made = OwnProviders()
    made.providers.traces.get_tracer("test").start_span("a span").end()
    return made


def test_our_own_providers_send_all_when_they_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        assert own(collector.endpoint, monkeypatch).close(10)
    assert [span.name for span in collector.spans] == ["a span"]


@pytest.mark.parametrize("fault", DEAD)
def test_a_dead_collector_costs_a_second(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with dead(DEAD[fault]) as endpoint:
        made, began = own(endpoint, monkeypatch), time.monotonic()
        assert not made.close(PATIENCE)
        assert time.monotonic() - began < 2 * PATIENCE
        assert not made.close(PATIENCE)
        assert time.monotonic() - began < 2 * PATIENCE


def test_a_provider_that_the_program_has_set_is_used(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    with Fusion(model=ScriptedModel("fine"), telemetry=True) as fusion:
        fusion.complete("x", pipeline=Pipeline.from_yaml(ONE))
    assert spans.one("invoke_agent").attributes is not None


FAILS = """
name: many
inputs: {words: what}
stages:
  work: {kind: map, over: "inputs.words.split()", prompt: "do {{ item.source }}", min_ok: 1, concurrency: 1}
  answer: {kind: generate, role: frontier, prompt: "{% for item in work %}{{ item.value }} {% endfor %}"}
output: answer
"""


def shape(span: ReadableSpan, names: dict[int, str]) -> Any:
    """A span without its numbers, times and the id of its run."""
    vary = {"fusion.run.id", "fusion.latency", "gen_ai.response.time_to_first_chunk", "fusion.waited"}
    kept = {name: value for name, value in attributes(span).items() if name not in vary}
    events = [(event.name, sorted(event.attributes or {})) for event in span.events]
    above = None if span.parent is None else names[span.parent.span_id]
    scope = span.instrumentation_scope
    return span.name, span.kind, kept, events, span.status.status_code, span.status.description, above, scope


@pytest.mark.usefixtures("without_pauses")
def test_our_own_providers_make_the_spans_that_a_tracer_makes(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    def shapes(all_: tuple[ReadableSpan, ...]) -> list[Any]:
        names = {span.context.span_id: span.name for span in all_}
        assert len({span.context.trace_id for span in all_}) == 1
        assert len(names) == len(all_)
        return sorted((shape(span, names) for span in all_), key=repr)

    def run(**options: Any) -> None:
        script = [ModelConnectionError("reset"), "one", AuthenticationError("no key"), "three", "the answer"]
        with traced(spans, list(script), **options) as fusion, suppress(RunFailed):
            fusion.complete("a b c", pipeline=Pipeline.from_yaml(FAILS))

    run()
    exporter = InMemorySpanExporter()
    own_ones = OwnProviders([exporter], [])
    monkeypatch.setattr("fusion.client.telemetry.providers.providers_of", lambda _: own_ones.providers)
    run()
    assert own_ones.close(10)
    made = exporter.get_finished_spans()
    assert {"attempt failed"} <= {event.name for span in made for event in span.events}
    assert shapes(made) == shapes(spans.all)


def test_variables_bound_the_attributes_of_our_own_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3")
    exporter = InMemorySpanExporter()
    own_ones = OwnProviders([exporter], [])
    monkeypatch.setattr("fusion.client.telemetry.providers.providers_of", lambda _: own_ones.providers)
    with Fusion(model=ScriptedModel("fine"), telemetry=True) as fusion:
        fusion.complete("x", pipeline=Pipeline.from_yaml(ONE))
    assert own_ones.close(10)
    assert {len(span.attributes or {}) for span in exporter.get_finished_spans()} == {3}
