"""Random pipelines on random faults: whatever comes, a run ends, adds up, and leaves nothing behind."""

import asyncio
import hashlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusion import (
    Cascade,
    Fusion,
    Generate,
    InputSpec,
    Judge,
    Limits,
    Map,
    Merge,
    Panel,
    Pipeline,
    PipelineStage,
    Plan,
    Result,
    Review,
    Route,
    Say,
    ScriptedModel,
    Synthesize,
    Vote,
)
from fusion.core.budget import Budget
from fusion.core.errors import (
    AuthenticationError,
    BadResponseError,
    ContentFilterError,
    FusionError,
    ModelConnectionError,
    RateLimitError,
    UsageError,
)
from fusion.core.events import EventBase, event_adapter
from fusion.models.wrappers.retry import Retrying
from fusion.pipeline import check as graph
from fusion.pipeline.diagram import Format, draw
from fusion.prompts.library import Library, shipped_root
from fusion.prompts.template import Prompts
from fusion.stages.base import Stage
from fusion.stages.kinds.best_of import BestOf
from fusion.stages.kinds.loop import Loop
from fusion.stages.kinds.render import Render
from fusion.stages.kinds.split import Split
from fusion.stages.kinds.verify import Verify
from fusion.stages.registry import kinds
from tests.conftest import plan_text, said, subtasks

PROMPTS = Prompts(Library([shipped_root()]))
EXAMPLES = settings(max_examples=60, deadline=None, database=None, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def without_pauses() -> Iterator[None]:
    """Attempts follow each other at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrying, "_jitter", lambda self, number: 0.0)
        yield


# Pipelines.

FEEDS = {"plan": "subtasks", "map": "items", "review": "items", "panel": "answers", "split": "items"}
READERS = ("review", "merge", "map", "merge", "judge", "synthesize", "vote", "render")
ALONE = (
    "plan",
    "generate",
    "map",
    "panel",
    "split",
    "render",
    "cascade",
    "route",
    "pipeline",
    "loop",
    "best_of",
    "verify",
)
APART = {"gate", "tool", "python"}
"""Kinds that call no model: they wait for a person, or call what the user has."""
WITHIN = {
    "single": {"task": "'x'"},
    "agree-or-escalate": {"question": "'x'"},
    "route-by-difficulty": {"task": "'x'"},
    "self-fusion": {"task": "'x'"},
    "plan-execute-review": {"task": "'x'"},
}


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """Valid pipelines of one to six stages; each reads some of those before it, the output reads the rest."""
    stages: dict[str, Stage] = {}
    for number in range(draw(st.integers(1, 6))):
        stages[f"s{number}"] = draw(_stage(stages))
    read = {name for stage in stages.values() for name in _names_in(stage, stages)}
    last = [name for name in stages if name not in read]
    return Pipeline(
        name="random",
        inputs={"flag": InputSpec(default=draw(st.booleans())), "rows": InputSpec(default=["x", "y", "z"])},
        budget=Limits(calls=draw(st.none() | st.integers(1, 30)), tokens=draw(st.none() | st.integers(500, 100_000))),
        on_budget=draw(st.sampled_from(["fail", "finish"])),
        stages=stages,
        output=last[0] if len(last) == 1 and draw(st.booleans()) else {name: name for name in last},
    )


def _names_in(stage: Stage, stages: dict[str, Stage]) -> set[str]:
    text = json.dumps(stage.model_dump(mode="json"))
    return {name for name in stages if f'"{name}"' in text or f"{{{{ {name} }}}}" in text or f'"{name}.' in text}


@st.composite
def _stage(draw: st.DrawFn, before: dict[str, Stage]) -> Stage:
    feeds = [name for name, stage in before.items() if stage.kind in FEEDS]
    kind = draw(st.sampled_from([*ALONE, *(READERS if feeds else ())]))
    common: dict[str, Any] = {
        "when": draw(st.none() | st.sampled_from(["inputs.flag", "true", "not inputs.flag"])),
        "needs": tuple(draw(st.lists(st.sampled_from(sorted(before)), max_size=1))) if before else (),
        "default": draw(st.sampled_from([None, ["d"] if kind in FEEDS else "d"])),
        "timeout": draw(st.sampled_from([None, None, None, 0.003])),
        "budget": draw(st.sampled_from([None, None, None, Limits(calls=2)])),
    }
    if kind in ("map", "review", "merge", "judge", "synthesize", "vote"):
        literal = ["inputs.rows", "[1, 2]"] if kind == "map" else []
        common["over"] = draw(st.sampled_from([*feeds, *(f"{f}.{FEEDS[before[f].kind]}" for f in feeds), *literal]))
    if kind in ("map", "review", "merge", "synthesize", "panel"):
        common["min_ok"] = draw(st.integers(0, 2))
    if kind in ("map", "review"):
        common["concurrency"] = draw(st.integers(1, 3))
    if kind in ("split", "render"):
        return _without_a_model(kind, draw, common, feeds)
    if kind in ("loop", "best_of"):
        return _of_rounds(kind, draw, common)
    if kind == "verify":
        return _checked(draw, common)
    if kind in ("cascade", "route", "pipeline"):
        return _of_ways(kind, draw, common)
    return _of_kind(kind, draw, common, before)


def _without_a_model(kind: str, draw: st.DrawFn, common: dict[str, Any], feeds: list[str]) -> Stage:
    errors = draw(st.sampled_from([{"on_error": "fail"}, {"on_error": "skip"}]))
    if kind == "split":
        text = draw(st.sampled_from(["'one\\n\\ntwo\\n\\nthree'", "''"]))
        return Split(text=text, size=16, **common, **errors)
    read = draw(st.sampled_from(feeds)) if feeds else ""
    read = "" if read in common["needs"] else read
    return Render(template=f"page {{{{ {read} }}}}" if read else "page", **common, **errors)


def _of_ways(kind: str, draw: st.DrawFn, common: dict[str, Any]) -> Stage:
    """A cascade, a route, or another pipeline."""
    errors = draw(st.sampled_from([{"on_error": "fail"}, {"on_error": "skip"}]))
    inner = draw(st.sampled_from(sorted(WITHIN)))
    if kind == "pipeline":
        return PipelineStage(pipeline=inner, inputs=WITHIN[inner], **common, **errors)
    if kind == "cascade":
        two = {"roles": ("bulk", "frontier"), "samples": draw(st.integers(1, 2))}
        tiers, accept = draw(
            st.sampled_from(
                [
                    ((two, "frontier"), {"agree": 2, "extract": "number"}),
                    (("bulk", "frontier"), {"judge": "frontier", "confidence": 0.5}),
                    (("bulk", "bulk", "frontier"), {"confidence": 0.5}),
                    (("bulk", "frontier"), {"checks": {"max_length": 12}}),
                ]
            )
        )
        early = draw(st.booleans())
        return Cascade(tiers=tiers, accept=accept, early_stop=early, prompt="tier", **common, **errors)
    routes = {
        "a": "bulk",
        "b": Generate(prompt="inner"),
        "c": PipelineStage(pipeline=inner, inputs=WITHIN[inner]),
        "d": Panel(members=("frontier", "bulk"), prompt="answer"),
    }
    chosen = draw(
        st.sampled_from(
            [
                {"rules": ({"when": "inputs.flag", "use": "b"}, {"when": "not inputs.flag", "use": "d"})},
                {"rules": ({"longer": 9, "use": "d"},), "examples": ({"text": "do it", "use": "c"},), "at_least": 0},
                {"classifier": "bulk", "classifier_prompt": "which"},
            ]
        )
    )
    common = {key: value for key, value in common.items() if key != "default"}
    return Route(routes=routes, default="a", text="'do it'", prompt="way", **chosen, **common, **errors)


def _of_rounds(kind: str, draw: st.DrawFn, common: dict[str, Any]) -> Stage:
    """A loop, or the best of several candidates."""
    errors = draw(st.sampled_from([{"on_error": "fail"}, {"on_error": "skip"}]))
    if kind == "best_of":
        ways: list[dict[str, Any]] = [
            {"vote": "number"},
            {"checks": {"max_length": 12}},
            {"judge": "frontier"},
            {"score": "value | length", "enough": 12},
            {"verify": {"judge": "frontier", "min_length": 3}},
        ]
        answers = {"roles": ("frontier", "bulk"), "n": draw(st.integers(1, 2)), "prompt": "candidate"}
        stages = {"stages": {"x": Generate(prompt="inner"), "y": Panel(members=("frontier", "bulk"), prompt="y")}}
        candidates = draw(st.sampled_from([answers, stages]))
        return BestOf(choose=draw(st.sampled_from(ways)), **candidates, **common, **errors)
    one = Generate(prompt="round {{ loop.round }} {{ loop.seen }}")
    bodies: list[dict[str, Stage]] = [
        {"one": one},
        {"one": one, "many": Map(over="[one, 2]", prompt="work {{ item.index }}"), "all": Merge(over="many")},
        {"one": one, "last": Loop(body={"deep": Generate(prompt="deep {{ one }}")}, until="false", max=2)},
        {
            "one": one,
            "last": Route(routes={"a": "bulk"}, rules=({"longer": 0, "use": "a"},), default="a", prompt="a"),
        },
    ]
    body = draw(st.sampled_from(bodies))
    until = draw(st.sampled_from(["one | length > 12", "false", "loop.round == 2", "inputs.flag"]))
    ends = {"max": draw(st.integers(1, 3)), "on_max": draw(st.sampled_from(["answer", "fail"]))}
    return Loop(body=body, until=until, carry={"seen": "one"}, **ends, **common, **errors)


def _checked(draw: st.DrawFn, common: dict[str, Any]) -> Stage:
    """A check of a text, with repairs or without."""
    check = draw(st.sampled_from([{"max_length": 3}, {"contains": ["5"]}, {"judge": "frontier"}]))
    mended = {"role": "bulk", "prompt": "mend {{ value }}", "task": "count"}
    unmended = {"attempts": 0, **({"task": "count"} if "judge" in check else {})}
    more = draw(st.sampled_from([mended, {**mended, "escalate_to": "frontier"}, unmended]))
    ends = {"on_fail": draw(st.sampled_from(["answer", "fail"])), "on_error": draw(st.sampled_from(["fail", "skip"]))}
    return Verify(value="'five'", check=check, **common, **more, **ends)


def _of_kind(kind: str, draw: st.DrawFn, common: dict[str, Any], before: dict[str, Stage]) -> Stage:
    errors = st.sampled_from([{"on_error": "fail"}, {"on_error": "skip"}])
    escalating = st.just({"on_error": "escalate", "escalate_to": "frontier"})
    refilling = st.just({"on_error": "refill"})
    match kind:
        case "plan":
            return Plan(prompt="plan", max_subtasks=draw(st.integers(1, 5)), **common, **draw(errors | escalating))
        case "map":
            return Map(prompt="work {{ item.index }}", **common, **draw(errors | escalating))
        case "review":
            more = draw(st.sampled_from([{}, {"escalate_to": "frontier"}]))
            return Review(
                prompt="judge {{ item }} of {{ item.source }}",
                revisions=draw(st.integers(0, 2)),
                **common,
                **draw(errors),
                **more,
            )
        case "merge" if draw(st.booleans()):
            return Merge(strategy="concat", separator="+", **common, **draw(errors))
        case "merge":
            return Merge(prompt="merge {{ items|length }}", **common, **draw(errors | escalating))
        case "panel":
            members = draw(st.sampled_from([("frontier", "bulk"), ({"role": "bulk", "samples": 3},)]))
            patience = draw(st.sampled_from([{}, {"grace": 0.0}, {"grace": 0.001}]))
            return Panel(members=members, prompt="answer", **common, **draw(errors | refilling), **patience)
        case "judge":
            return Judge(prompt="compare {{ answers|length }}", **common, **draw(errors | escalating))
        case "synthesize":
            return Synthesize(prompt="write {{ answers|length }}", **common, **draw(errors | escalating))
        case "vote":
            rules = st.fixed_dictionaries(
                {"min_agree": st.sampled_from([0, 0.5]), "ties": st.sampled_from(["first", "fail"])}
            )
            return Vote(extract=draw(st.sampled_from(["text", "number"])), **common, **draw(errors), **draw(rules))
    read = draw(st.lists(st.sampled_from(sorted(before)), max_size=2, unique=True)) if before else []
    read = [name for name in read if name not in common["needs"]]
    prompt = "write " + " ".join(f"{{{{ {name} }}}}" for name in read)
    shape = draw(st.sampled_from([{}, {"output_schema": {"n": "integer", "t": "string?"}}]))
    return Generate(prompt=prompt, **shape, **common, **draw(errors | escalating))


def test_every_kind_is_among_them() -> None:
    assert set(ALONE) | set(READERS) == set(kinds()) - APART


# Models.


def moody(seed: int, faults: float) -> ScriptedModel:
    """Answers by a hash of what it is asked: mostly well, now and then late, wrong, empty, cut off or not at all."""
    tries: dict[str, int] = {}

    def script(request: Any) -> Any:
        words = said(request)
        tries[words] = tries.get(words, 0) + 1
        luck = random.Random(hashlib.sha256(f"{seed} {tries[words]} {words}".encode()).digest())
        answer = _good(request, luck)
        return _fault(luck, answer) if luck.random() < faults else Say(answer, delay=luck.choice([0, 0, 0.001]))

    return ScriptedModel(script, name="scripted/moody", respect_limit=False)


def _good(request: Any, luck: random.Random) -> str:
    properties = (request.json_schema or {}).get("properties", {})
    if "subtasks" in properties:
        parts = subtasks(luck.randint(0, 7))
        for number, part in enumerate(parts):
            part["needs"] = [luck.randint(1, 8) for _ in range(luck.randint(0, 1 if number else 0))]
        return plan_text(parts)
    if "problem" in properties:
        verdict = luck.choice(["accept", "escalate"])
        return json.dumps({"problem": "", "verdict": verdict, "confidence": luck.random()})
    if "better" in properties:
        return json.dumps({"reason": "", "better": luck.choice(["first", "second", "same"])})
    if "route" in properties:
        return json.dumps({"route": luck.choice(properties["route"]["enum"])})
    if "confidence" in properties and "answer" in properties:
        return json.dumps({"answer": "5", "confidence": luck.random()})
    if "verdict" in properties:
        return json.dumps({"issues": [], "verdict": luck.choice(["accept"] * 5 + ["revise", "escalate", "reject"])})
    if "consensus" in properties:
        lists = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots", "evidence")
        return json.dumps({**{key: [] for key in lists}, "confidence": luck.random(), "vote_settles": True})
    return json.dumps({"n": 1, "t": None}) if "n" in properties else f"answer {luck.random():.3f}"


def _fault(luck: random.Random, answer: str) -> Say:
    half = answer[: luck.randint(0, len(answer))]
    return luck.choice(
        [
            Say(error=RateLimitError("slow down")),
            Say(error=ContentFilterError("not this")),
            Say(error=ModelConnectionError("dropped")),
            Say(error=BadResponseError("torn")) if luck.random() < 0.9 else Say(error=AuthenticationError("no")),
            Say(pieces=[half], error=ModelConnectionError("dropped half-way")),
            Say(pieces=[half], finish_reason=None),
            Say(half, finish_reason="length"),
            Say(half),
            Say(answer, finish_reason="content_filter"),
            Say(""),
            Say("prose, and {nothing} to be read"),
        ]
    )


# Runs.


async def _tasks() -> int:
    return len(asyncio.all_tasks())


THREE_LAST = Pipeline(  # more stages write the answer than calls may be made
    name="random",
    budget=Limits(calls=2),
    on_budget="finish",
    stages={f"s{number}": Generate(prompt="write") for number in range(3)},
    output={f"s{number}": f"s{number}" for number in range(3)},
)


@EXAMPLES
@example(pipeline=THREE_LAST, seed=0, faults=0.0)
@given(pipeline=pipelines(), seed=st.integers(0, 2**16), faults=st.sampled_from([0.0, 0.1, 0.5]))
def test_a_run_always_ends_and_adds_up(pipeline: Pipeline, seed: int, faults: float) -> None:
    assert graph.check(pipeline, prompts=PROMPTS) == []
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    assert all(draw(pipeline, PROMPTS, form) for form in get_args(Format))
    events: list[EventBase] = []
    threads = threading.active_count()
    model = moody(seed, faults)
    budget = Budget()
    with Fusion(profile="local", model=model) as fusion:
        handle = fusion.start(pipeline=pipeline, on_event=events.append, within=budget)
        result = handle.wait(30)
        assert fusion._launcher.loop.submit(_tasks()).done.result() == 1
    assert threading.active_count() == threads
    assert model.in_flight == 0
    _check_ending(result, handle.exit_code, handle.cause)
    _check_items(pipeline, result)
    _check_events(result, events)
    assert (budget.reserved.usd, budget.reserved.tokens, budget.reserved.calls) == (0, 0, 0)
    assert budget.spent.calls <= len(model.requests)
    assert faults or budget.spent.calls == len(model.requests)
    assert pipeline.budget.calls is None or budget.spent.calls <= pipeline.budget.calls


def _check_ending(result: Result, code: int, cause: BaseException | None) -> None:
    assert code in {"ok": (0,), "partial": (0, 3, 4), "failed": (2, 3, 4)}[result.status], cause
    assert (cause is None) == (result.status != "failed")
    assert cause is None or isinstance(cause, FusionError)
    assert Result.model_validate_json(result.model_dump_json()).model_dump_json() == result.model_dump_json()


def _check_items(pipeline: Pipeline, result: Result) -> None:
    """n items in, n items out, in the plan's order."""
    for name, stage in pipeline.stages.items():
        items = result.stages[name].items
        assert [item.index for item in items] == sorted({item.index for item in items})
        if not isinstance(stage, (Map, Review)) or result.stages[name].status != "ok":
            continue
        source = stage.over.partition(".")[0]
        if source in pipeline.stages:
            before = result.stages[source].items
            assert [item.source for item in items] == [item.source for item in before]
            assert all(now.failure for now, then in zip(items, before, strict=True) if then.failure)
        else:
            assert len(items) == (3 if source == "inputs" else 2)


def _check_events(result: Result, events: list[EventBase]) -> None:
    kinds = [event.type for event in events]  # type: ignore[attr-defined]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    assert kinds.count("run_finished") == 1
    calls = {kind: kinds.count(f"call_{kind}") for kind in ("started", "finished", "failed", "cancelled")}
    assert calls["started"] == calls["finished"] + calls["failed"] + calls["cancelled"]
    assert calls["finished"] == result.receipt.calls
    for event in events:
        assert event_adapter().validate_json(event.model_dump_json()) == event


@EXAMPLES
@given(pipeline=pipelines(), seed=st.integers(0, 2**16), at=st.integers(0, 60))
def test_a_run_that_is_stopped_at_any_moment_gives_everything_back(pipeline: Pipeline, seed: int, at: int) -> None:
    events: list[EventBase] = []
    ready = threading.Event()

    def on_event(event: EventBase) -> None:
        if len(events) == at and event.type != "run_finished":  # type: ignore[attr-defined]
            ready.wait(5)
            handle.stop()
        events.append(event)

    model = moody(seed, 0.1)
    budget = Budget()
    with Fusion(profile="local", model=model) as fusion:
        handle = fusion.start(pipeline=pipeline, on_event=on_event, within=budget)
        ready.set()
        result = handle.wait(30)
        assert fusion._launcher.loop.submit(_tasks()).done.result() == 1
    assert model.in_flight == 0
    if handle.exit_code == 130:
        assert (result.status, result.error and result.error.reason) == ("failed", "Interrupted")
    else:
        _check_ending(result, handle.exit_code, handle.cause)
    _check_events(result, events)
    assert (budget.reserved.usd, budget.reserved.tokens, budget.reserved.calls) == (0, 0, 0)


# Files.

FILE = (shipped_root() / "pipelines" / "plan-execute-review.yaml").read_text()


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """The shipped pipeline with lines deleted, doubled, moved or altered."""
    lines = FILE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["delete", "double", "move", "word", "number"])):
            case "delete":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case "word":
                old = draw(st.sampled_from(["plan", "work", "review", "answer", "frontier", "bulk", "over", "kind"]))
                lines[at] = lines[at].replace(
                    old, draw(st.sampled_from(["plan", "work", "merge", "x", "", "null"])), 1
                )
            case "number":
                digits = [c for c in lines[at] if c.isdigit()]
                if digits:
                    lines[at] = lines[at].replace(
                        digits[0], draw(st.sampled_from(["0", "-1", "9e9", "x", "true"])), 1
                    )
    return "\n".join(lines)


@EXAMPLES
@given(text=mutations(), seed=st.integers(0, 99))
def test_an_altered_file_has_problems_or_runs(text: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "altered.yaml"
    path.write_text(text)
    with Fusion(profile="local", model=moody(seed, 0.0)) as fusion:
        try:
            handle = fusion.start("do it", pipeline=path)
        except UsageError:
            return
        result = handle.wait(30)
        _check_ending(result, handle.exit_code, handle.cause)


# Replies cut at any byte.

ENDS: list[int] = []
WHOLE = plan_text(subtasks(3))
for _part in subtasks(3):
    ENDS.append(WHOLE.index(json.dumps(_part), ENDS[-1] if ENDS else 0) + len(json.dumps(_part)))
PLAN = Pipeline(
    stages={"plan": Plan(prompt="plan"), "answer": Merge(over="plan", strategy="concat", min_ok=0)}, output="answer"
)


@pytest.mark.parametrize("finish", ["length", "stop", None])
def test_a_plan_cut_at_any_byte_keeps_exactly_the_subtasks_that_were_whole(finish: Any) -> None:
    cut = 0

    def script(request: Any) -> Any:
        if len(request.messages) > 1:
            return '{"subtasks": []}'  # nothing more comes
        pieces = [WHOLE[at : min(at + 7, cut)] for at in range(0, cut, 7)]
        return Say(pieces=pieces, finish_reason=finish)

    with Fusion(profile="local", model=ScriptedModel(script, name="scripted/cut", respect_limit=False)) as fusion:
        for cut in range(len(WHOLE)):
            result = fusion.start(pipeline=PLAN).wait(30)
            whole = sum(end <= cut for end in ENDS)
            assert [item.source["title"] for item in result.stages["plan"].items] == [
                f"part {number}" for number in range(1, whole + 1)
            ]
            assert (result.status == "failed") == (whole == 0)


DATA = {"name": 'it\'s "this"', "figures": [1, 22.5, -3], "many": {"count": 1234, "sure": True}}
SHAPED = Pipeline(
    stages={
        "answer": Generate(
            prompt="shape",
            output_schema={
                "name": "string",
                "figures": "list[number]",
                "many": {"count": "integer", "sure": "boolean"},
            },
        )
    },
    output="answer.data",
)


@pytest.mark.parametrize("around", ["{}", "```json\n{}", "Here it is: {}"])
def test_data_cut_at_any_byte_is_whole_or_an_error(around: str) -> None:
    whole = around.replace("{}", json.dumps(DATA))
    cut = 0
    model = ScriptedModel(lambda request: whole[:cut], name="scripted/cut", respect_limit=False)
    with Fusion(profile="local", model=model) as fusion:
        for cut in range(1, len(whole) + 1):
            result = fusion.start(pipeline=SHAPED).wait(30)
            assert result.data == (DATA if result.status == "ok" else None)
            assert (result.status == "ok") == (cut >= len(whole) - 1)  # the last bracket can be closed
