"""Prompt caches: the common beginning of a stage's calls is named, marked and read, and the receipt counts it."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from fusion import Fusion, Result, ScriptedModel
from fusion.core.events import CallFinished
from tests.conftest import pipeline, plan_text, run, subtasks
from tests.provider import Answer, Provider, Seen

CLAUDE, GPT = "anthropic/claude-sonnet-4-5", "openai/gpt-4o"
LONG = " ".join(f"Rule {n}: invoices above {n} crowns need a second signature." for n in range(200))
"""About 3,000 tokens."""
SHORT = "Answer in one word."


def rows(system: str, user: str = "Row: {{ item.source }}", over: str = "range(6) | list") -> str:
    """A pipeline that asks about each row."""
    prompt = json.dumps(
        f'{{% message role="system" %}}{system}{{% endmessage %}}{{% message %}}{user}{{% endmessage %}}'
    )
    return (
        f"inputs: {{t: What.}}\nstages:\n  a: {{kind: map, over: '{over}', role: bulk, prompt: {prompt}}}\noutput: a"
    )


class Caching:
    """A provider that caches prefixes: those that Anthropic's requests mark, all of OpenAI's."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, seen: Seen) -> Answer:
        self.bodies.append(seen.body)
        whole = len(json.dumps(seen.body)) // 4
        if not seen.path.endswith("/messages"):
            key = seen.body.get("prompt_cache_key")
            read = 2000 if key in self.kept else 0
            self.kept |= {key} - {None}
            cached = {"prompt_tokens_details": {"cached_tokens": read}}
            return Answer("yes", usage={"prompt_tokens": whole, "completion_tokens": 1, **cached})
        prefix = marked(seen.body)
        if prefix is None:
            return Answer("yes", usage={"prompt_tokens": whole, "completion_tokens": 1})
        size, known = len(prefix) // 4, prefix in self.kept
        self.kept.add(prefix)
        counts = {
            "cache_read_input_tokens": size if known else 0,
            "cache_creation_input_tokens": 0 if known else size,
        }
        return Answer("yes", usage={"prompt_tokens": whole - size, "completion_tokens": 1, **counts})

    @property
    def keys(self) -> list[str | None]:
        return [body.get("prompt_cache_key") for body in self.bodies]

    @property
    def prefixes(self) -> list[str | None]:
        return [marked(body) for body in self.bodies]


def marked(body: dict[str, Any]) -> str | None:
    """The texts of a request up to its last mark."""
    parts = [*body.get("system", ()), *(part for turn in body["messages"] for part in turn["content"])]
    ends = [at for at, part in enumerate(parts) if "cache_control" in part]
    return "\n".join(part["text"] for part in parts[: ends[-1] + 1]) if ends else None


@pytest.fixture
def caching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Caching]:
    script = Caching()
    with Provider(script) as provider:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-a-test")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
        monkeypatch.setenv("ANTHROPIC_API_BASE", provider.root)
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        yield script


def asked(model: str, text: str, **options: Any) -> Result:
    with Fusion(profile="openai", roles={"bulk": model, "frontier": model}) as fusion:
        result, _ = run(fusion, options.pop("prompt", "the request"), pipeline=pipeline(text), **options)
    assert result.status == "ok", result.error
    return result


BEGINNINGS = {
    "a system message": (rows(LONG), LONG),
    "a system message and the beginning of the user's": (
        rows(SHORT, f"{LONG} Now row {{{{ item.source }}}} of {{{{ inputs.t }}}}"),
        f"{SHORT}\n{LONG} Now row ",
    ),
    "an input ahead of the item": (
        rows("{{ inputs.t }}", "{% if request %}{{ request }}{% endif %} / {{ item.source }}"),
        f"{LONG}\n{LONG} / ",
    ),
    "a condition on the item": (
        rows(LONG, "Well: {% if item.source > 2 %}large{% else %}small{% endif %}"),
        LONG,
    ),
    "a loop over an input": (
        rows("{% for word in inputs.t.split() %}{{ word }} {% endfor %}", "{{ item.source }}"),
        LONG,
    ),
    "a template without messages": (
        "inputs: {t: What.}\nstages:\n  a: {kind: map, over: 'range(6) | list', role: bulk, "
        "prompt: '{{ inputs.t }} - {{ item.source }} - {{ inputs.t }}'}\noutput: a",
        f"{LONG} - ",
    ),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_all_calls_of_a_stage_begin_with_is_marked_for_claude(caching: Caching, name: str) -> None:
    text, begins = BEGINNINGS[name]
    result = asked(CLAUDE, text, prompt=LONG)
    assert caching.prefixes == [begins] * 6
    usage = result.usage
    assert usage.cache_write == len(begins) // 4
    assert usage.cached_read == 5 * usage.cache_write
    assert result.receipt.cached > 0


@pytest.mark.parametrize("name", BEGINNINGS)
def test_calls_with_one_beginning_have_one_key_for_openai(caching: Caching, name: str) -> None:
    text, _ = BEGINNINGS[name]
    result = asked(GPT, text, prompt=LONG)
    (key,) = set(caching.keys)
    assert key is not None
    assert len(key) == 32
    assert all(marked_nowhere(body) for body in caching.bodies)
    assert 0 < result.usage.cached_read <= 5 * 2000
    assert result.receipt.cached > 0


def marked_nowhere(body: dict[str, Any]) -> bool:
    return "cache_control" not in json.dumps(body)


UNMARKED = {
    "a short beginning": rows(SHORT),
    "a beginning with the item": rows("{{ item.source }} " + LONG, LONG),
    "one item": rows(LONG, over="[1]"),
    "one call": f"inputs: {{t: What.}}\nstages:\n  a: {{kind: generate, role: bulk, prompt: '{LONG}'}}\noutput: a",
    "a panel": f"inputs: {{t: What.}}\nstages:\n  a: {{kind: panel, members: [bulk, bulk], prompt: '{LONG}'}}\n"
    "output: a",
}


@pytest.mark.parametrize("model", [CLAUDE, GPT])
@pytest.mark.parametrize("name", UNMARKED)
def test_nothing_is_marked_where_a_cache_does_not_pay(caching: Caching, model: str, name: str) -> None:
    result = asked(model, UNMARKED[name])
    assert caching.bodies
    assert set(caching.keys) == {None}
    assert all(marked_nowhere(body) for body in caching.bodies)
    assert (result.usage.cached_read, result.receipt.cached) == (0, 0)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (rows(LONG, "Row: {{ item.source }}?"), True),
        (rows(LONG, "Row: {{ item.source }}", "range(4) | list"), True),
        (rows(LONG, "row: {{ item.source }}"), False),
        (rows(f"{LONG}!"), False),
        (rows(LONG).replace("  a:", "  b:").replace("output: a", "output: b"), False),
    ],
)
def test_keys_tell_beginnings_apart_and_are_the_same_in_every_run(caching: Caching, other: str, same: bool) -> None:
    first, second = (key_of(caching, text) for text in (rows(LONG), other))
    assert (first == second) == same


def key_of(caching: Caching, text: str) -> str | None:
    asked(GPT, text)
    return caching.keys[-1]


def test_a_key_is_no_part_of_the_identity_of_a_call(caching: Caching) -> None:
    digests = []
    for model in (ScriptedModel("yes", name=GPT), None):
        options: dict[str, Any] = {} if model is None else {"models": {GPT: model}}
        with Fusion(profile="openai", roles={"bulk": GPT}, **options) as fusion:
            _, events = run(fusion, LONG, pipeline=pipeline(rows(LONG)))
        digests.append(sorted(event.digest for event in events if isinstance(event, CallFinished)))
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("model", "tokens", "kept"),
    [
        ("anthropic/claude-sonnet-4-5", 1100, True),
        ("anthropic/claude-haiku-4-5", 1100, False),
        ("anthropic/claude-haiku-4-5", 4200, True),
        ("openai/gpt-4o", 1100, True),
        ("openai/gpt-4o", 900, False),
    ],
)
def test_a_beginning_below_the_providers_minimum_is_not_marked(
    caching: Caching, model: str, tokens: int, kept: bool
) -> None:
    asked(model, rows("word " * (tokens * 4 // 5)))
    found = caching.keys if model.startswith("openai") else caching.prefixes
    assert all((one is not None) == kept for one in found)


def test_workers_of_a_plan_that_read_the_same_material_share_it(caching: Caching) -> None:
    text = """
inputs: {task: What is wanted, notes: {material: true}}
stages:
  plan: {kind: plan, role: frontier}
  work: {kind: map, over: plan, role: bulk, reads: all}
output: work
"""
    planner = ScriptedModel(lambda request: plan_text(subtasks(4)), name="scripted/planner")
    with Fusion(profile="openai", roles={"frontier": planner, "bulk": CLAUDE}) as fusion:
        result, _ = run(fusion, "do it", pipeline=pipeline(text), inputs={"notes": LONG})
    assert result.status == "ok", result.error
    (prefix,) = set(caching.prefixes)
    assert prefix is not None
    assert LONG in prefix
    assert result.usage.cached_read > 0


def test_the_receipt_counts_what_caches_gave_against_the_price_without_them(caching: Caching) -> None:
    result = asked(CLAUDE, rows(LONG))
    (line,) = result.receipt.lines
    usage = line.usage
    price = Decimal("0.000003")  # a token of input; a tenth for reading, a quarter more for writing
    saved = price * (usage.cached_read * Decimal("0.9") - usage.cache_write * Decimal("0.25"))
    assert line.cached == saved == result.receipt.cached
    assert json.loads(result.model_dump_json())["receipt"]["lines"][0]["cached"] == str(saved)


def test_calls_wait_for_the_one_that_fills_the_cache_and_later_runs_read_it_at_once(caching: Caching) -> None:
    with Fusion(profile="openai", roles={"bulk": CLAUDE}) as fusion:
        result, _ = run(fusion, "x", pipeline=pipeline(rows(LONG)))
        again, events = run(fusion, "y", pipeline=pipeline(rows(LONG)))
    assert result.usage.cache_write == len(LONG) // 4
    assert again.usage.cache_write == 0
    assert again.usage.cached_read == 6 * (len(LONG) // 4)
    assert all(event.waited is None or event.waited.pause == 0 for event in events if isinstance(event, CallFinished))


def test_the_caches_are_in_the_history_too(caching: Caching, tmp_path: Any) -> None:
    with Fusion(profile="openai", roles={"bulk": CLAUDE}, store=tmp_path / "runs.db") as fusion:
        result, _ = run(fusion, "x", pipeline=pipeline(rows(LONG)))
        assert fusion.runs.show(result.run_id).receipt.cached == result.receipt.cached > 0
        call = fusion.runs.call(result.run_id, 2)
        assert "cache_key" not in call.parameters
