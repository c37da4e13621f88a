"""Every kind of stage against every fault of a provider, over HTTP: what comes of it, what is kept, what it costs.

The table is the snapshot. One role, `bad`, is played by the model behind the provider; the others always answer.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from fusion import ModelInfo, Price, Result, RunHandle, ScriptedModel
from fusion.core.result import Receipt
from fusion.models.providers.litellm import LiteLLMModel
from fusion.stages.registry import kinds
from tests.conftest import plan_text, subtasks
from tests.provider import Answer, Provider, Seen

pytestmark = [
    pytest.mark.usefixtures("without_pauses"),
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),  # litellm's own types, said by pydantic
]

MODEL = "openai/mock"
INFO = ModelInfo(
    id=MODEL, provider="openai", json_schema=True, context=100_000, price=Price(input="0.000001", output="0.00001")
)
PATIENCE = 0.3
SOME = 'role: [{when: "item.value == 2", use: bad}, {use: good}]'
LINES = '{kind: map, over: "[1, 2, 3]", role: good, prompt: "say {{ item.value }}"}'
PANEL = "{kind: panel, members: [good, bad, good], prompt: ask, grace: 60}"
PAIR = "{kind: panel, members: [good, good], prompt: ask, grace: 60}"

STAGES = {
    "generate": "s: {kind: generate, role: bad, prompt: ask}",
    "plan": "s: {kind: plan, role: bad, prompt: ask}\n  t: {kind: merge, over: s, strategy: concat}",
    "split": "a: {kind: generate, role: bad, prompt: ask, on_error: skip, default: 'nothing'}\n"
    "  s: {kind: split, text: a}\n  t: {kind: merge, over: s, strategy: concat}",
    "map": f's: {{kind: map, over: "[1, 2, 3]", {SOME}, prompt: "say {{{{ item.value }}}}"}}',
    "review": f"a: {LINES}\n  s: {{kind: review, over: a, {SOME.replace('value == 2', 'index == 1')}, "
    'prompt: "ask {{ item.source }}"}',
    "merge": f"a: {LINES}\n  s: {{kind: merge, over: a, role: bad, prompt: ask}}",
    "render": f'a: {{kind: map, over: "[1, 2, 3]", {SOME}, prompt: "say {{{{ item.value }}}}"}}\n'
    "  s: {kind: render, template: \"{{ a|selectattr('ok')|list|length }} of {{ a|length }}\"}",
    "panel": f"s: {PANEL}",
    "judge": f"a: {PAIR}\n  s: {{kind: judge, over: a, role: bad, prompt: ask}}",
    "synthesize": f"a: {PAIR}\n  s: {{kind: synthesize, over: a, role: bad, prompt: ask}}",
    "vote": f"a: {PANEL}\n  s: {{kind: vote, over: a, extract: number}}",
    "cascade": "s: {kind: cascade, tiers: [{roles: [good, bad]}, strong], accept: {agree: 2, extract: number}, "
    "prompt: ask}",
    "verify": "a: {kind: generate, role: good, prompt: ask}\n  s: {kind: verify, value: a, check: {contains: '9'}, "
    "attempts: 1, role: bad, prompt: ask, escalate_to: strong}",
    "route": "s: {kind: route, routes: {easy: good, hard: strong}, classifier: bad, classifier_prompt: ask, "
    "prompt: ask, default: hard}",
    "pipeline": "s: {kind: pipeline, pipeline: within.yaml}",
    "loop": "s: {kind: loop, max: 2, until: 'true', body: {a: {kind: generate, role: bad, prompt: ask}}}",
    "best_of": "s: {kind: best_of, roles: [bad, good], choose: {score: 'value | length'}, prompt: ask}",
}
APART = {"gate", "tool", "python"}
"""Kinds that call no model."""
WITHIN = "inputs: {task: what}\nstages:\n  b: {kind: generate, role: bad, prompt: ask}\noutput: b\n"
ANALYSIS = {
    **{key: [] for key in ("consensus", "contradictions", "partial_coverage", "unique_insights")},
    "blind_spots": [],
    "evidence": [],
    "confidence": 1,
    "vote_settles": True,
}


def right(seen: Seen) -> str:
    """What a model that works says to this request."""
    properties = seen.body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties", {})
    said = {
        "subtasks": plan_text(subtasks(2)),
        "verdict": json.dumps({"issues": [], "verdict": "accept"}),
        "consensus": json.dumps(ANALYSIS),
        "route": json.dumps({"route": "easy"}),
    }
    return next((text for key, text in said.items() if key in properties), "it is 5, and that is all")


def cut(text: str) -> list[str]:
    """A text in pieces, without its last third."""
    return [text[at : at + 20] for at in range(0, len(text) * 2 // 3, 20)]


FAULTS: dict[str, Callable[[str], Answer]] = {
    "none": lambda text: Answer(text),
    "status 400": lambda text: Answer("bad", status=400),
    "status 401": lambda text: Answer("no key", status=401),
    "status 404": lambda text: Answer("no model", status=404),
    "status 429": lambda text: Answer("slow down", status=429),
    "status 500": lambda text: Answer("broken", status=500),
    "no JSON in the body": lambda text: Answer(body="<html>busy</html>"),
    "prose in place of a shape": lambda text: Answer("Well, who can say."),
    "empty": lambda text: Answer(""),
    "cut off at the limit": lambda text: Answer(pieces=cut(text), finish_reason="length", over_deliver=True),
    "content filtered": lambda text: Answer(text, finish_reason="content_filter"),
    "no finish reason": lambda text: Answer(pieces=cut(text), finish_reason=None),
    "no end mark": lambda text: Answer(text, end_mark=False),
    "no usage": lambda text: Answer(text, usage=None),
    "more than was allowed": lambda text: Answer(text, over_deliver=True, usage=dict.fromkeys(COUNTS, 90_000)),
    "hangs up before": lambda text: Answer(text, drop="before"),
    "resets": lambda text: Answer(text, drop="reset"),
    "hangs up after the headers": lambda text: Answer(text, drop="headers"),
    "hangs up in the body": lambda text: Answer(
        text, pieces=[*cut(text), "rest", "of it"], drop="body", piece_delay=0.02
    ),
    "late": lambda text: Answer(text, delay=60),
    "hangs": lambda text: Answer(hang=True),
}
COUNTS = ("prompt_tokens", "completion_tokens")
SLOW = ("late", "hangs")


@pytest.fixture
def started(fusion: Any, tmp_path: Path) -> Callable[[str, Provider, float | None], RunHandle]:
    """Begins a run of a kind's pipeline against a provider."""
    (tmp_path / "within.yaml").write_text(WITHIN)

    def start(kind: str, provider: Provider, timeout: float | None) -> RunHandle:
        path = tmp_path / f"{kind}.yaml"
        last = "t" if "\n  t:" in STAGES[kind] else "s"
        bad = f"{{chain: [{MODEL}]{f', timeout: {timeout}' if timeout else ''}}}"
        path.write_text(
            f"inputs: {{task: what}}\nroles: {{good: scripted/good, strong: scripted/strong, bad: {bad}}}\n"
            f"stages:\n  {STAGES[kind]}\noutput: {last}\n"
        )
        models = {
            MODEL: LiteLLMModel(MODEL, info=INFO, api_base=provider.url, api_key="sk-test"),
            "scripted/good": ScriptedModel(right_of, name="scripted/good"),
            "scripted/strong": ScriptedModel("it is 9", name="scripted/strong"),
        }
        handle: RunHandle = fusion(models=models).start("do it", pipeline=path)
        return handle

    return start


def right_of(request: Any) -> str:
    return right(Seen("", {}, {"response_format": {"json_schema": {"schema": request.json_schema or {}}}}))


@pytest.mark.parametrize("kind", sorted(set(kinds()) - APART))
def test_what_comes_of_a_fault(
    kind: str, started: Callable[[str, Provider, float | None], RunHandle], snapshot: SnapshotAssertion
) -> None:
    rows = {}
    providers = {name: Provider(lambda seen, fault=fault: fault(right(seen))) for name, fault in FAULTS.items()}
    with providers["late"] as late, providers["hangs"] as hangs:
        waiting = {"late": started(kind, late, PATIENCE), "hangs": started(kind, hangs, PATIENCE)}
        for name in FAULTS:
            if name not in SLOW:
                with providers[name] as provider:
                    rows[name] = row(started(kind, provider, None), name)
        for name, handle in waiting.items():
            rows[name] = row(handle, name)
    assert "\n".join(rows.values()) == snapshot


def row(handle: RunHandle, name: str) -> str:
    """One line of the table."""
    result = handle.wait(60)
    reasons = sorted(
        {part.failure.reason for part in result.failed} | ({result.error.reason} if result.error else set())
    )
    outcome = f"{result.status} {handle.exit_code} {', '.join(reasons)}".strip()
    return f"{name:27}| {outcome:38}| {kept(result):44}| {cost(result.receipt)}"


def kept(result: Result) -> str:
    """The answer, and of the stage of items how many are usable."""
    stage = result.stages["s"]
    items = f"{sum(item.ok for item in stage.items)} of {len(stage.items)} items" if stage.items else ""
    ordered = "\n\n".join(sorted(result.text.split("\n\n")))  # a panel's answers stand in an order of the run's own
    answer = "" if result.status == "failed" else repr(ordered[:24])
    return "; ".join(part for part in (items, answer, stage.decision or "") if part) or "-"


def cost(receipt: Receipt) -> str:
    """What was paid for the faulty model: calls done and failed, attempts made again, tokens and dollars."""
    lines = [line for line in receipt.lines if line.role == "bad"]
    counts = [sum(getattr(line, key) for line in lines) for key in ("calls", "failed", "retries")]
    spent = {key: [getattr(line, key) for line in lines] for key in ("measured", "estimated", "charged")}
    dollars = ", ".join(
        f"{key} ${sum(part.cost.usd for part in parts):.6f}"
        for key, parts in spent.items()
        if any(part.usage.total for part in parts)
    )
    return "{} done, {} failed, {} again; ".format(*counts) + (dollars or "free")
