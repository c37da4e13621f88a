"""Benchmarks as they run: every arm on the same items, nothing dropped, nothing paid for twice, no gold in sight."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Request, Say
from fusion.bench import Report
from fusion.bench.progress import Progress
from fusion.core.errors import AuthenticationError, BudgetError, ModelTimeoutError, UsageError
from tests.bench.conftest import CHEAP, STRONG, knowing, model, sum_of
from tests.conftest import said

Bench = Callable[..., Report]
Items = Callable[..., Path]


def cheap(**more: Any) -> Any:
    """Does not know every fifth."""
    return model(CHEAP, knowing(lambda total: total % 10 == 8), **more)


def strong(**more: Any) -> Any:
    """Does not know one in twenty, for ten times the money."""
    return model(STRONG, knowing(lambda total: total == 6), "0.01", **more)


def figures(report: Report) -> dict[str, Any]:
    return {one.arm: one for one in report.analysis.figures}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module of the user's own beside the suite, and gives its name."""
    names: list[str] = []

    def write(text: str) -> str:
        names.append(f"own_{tmp_path.name.replace('-', '_')}_{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(text)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


# Arms.


def test_every_kind_of_arm_is_asked_the_same(items: Items, bench: Bench, module: Any, tmp_path: Path) -> None:
    items(20)
    rows = [{"id": f"q{n}", "text": f"{2 * n}", "cost": 0.5} for n in range(10)]
    (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    name = module("def add(prompt):\n    return {'text': str(eval(prompt[8:-1])), 'cost': 0.25, 'calls': 1}\n")
    report = bench(
        [cheap(), strong()],
        arms={
            "two": {"pipeline": "two.yaml"},
            "theirs": {"outputs": "theirs.jsonl"},
            "mine": {"python": f"{name}:add"},
        },
    )
    found = figures(report)
    assert {
        arm: (one.kind, one.n, one.accuracy.estimate) for arm, one in found.items() if one.kind != "baseline"
    } == {
        "two": ("pipeline", 20, 1.0),
        "theirs": ("outputs", 20, 0.5),
        "mine": ("python", 20, 1.0),
        CHEAP: ("model", 20, 0.8),
        STRONG: ("model", 20, 0.95),
    }
    assert found["two"].cost == pytest.approx(20 * 0.001 + 4 * 0.01)
    assert (found["two"].escalated, found["two"].delegated) == (pytest.approx(0.2), pytest.approx(0.9))
    assert found["mine"].cost == pytest.approx(5.0)
    assert (found["theirs"].failed, found["theirs"].cost) == (10, None)
    assert report.analysis.best_single == STRONG
    ceiling, mixing = report.analysis.baselines
    assert ceiling.arm == "oracle router"
    assert mixing.arm == "random mixing at the cost of two (22% to scripted/strong, else scripted/cheap)"
    assert mixing.cost == pytest.approx(found["two"].cost)


def test_items_come_in_random_order_and_side_by_side(items: Items, bench: Bench) -> None:
    items(30)
    asked: list[list[int]] = []
    for _ in range(2):
        both: list[int] = []

        def script(request: Request, both: list[int] = both) -> Any:
            both.append(sum_of(request))
            return knowing(lambda total: False)(request)

        arms = {"a": {"model": CHEAP}, "b": {"model": STRONG}}
        options = {"concurrency": 1}
        bench([model(CHEAP, script), model(STRONG, script)], arms=arms, options=options, out=f"out{len(asked)}")
        asked.append(both)
    first = asked[0]
    assert first == asked[1]
    assert first[::2] == first[1::2]
    assert first[::2] != sorted(first[::2])
    assert sorted(first[::2]) == list(range(0, 60, 2))


def test_no_arm_ever_sees_a_gold_answer(items: Items, bench: Bench, module: Any, tmp_path: Path) -> None:
    secret = "the-gold-answer-xyzzy"
    rows = [{"id": f"q{n}", "prompt": f"What is {n}+1?", "about": "sums", "gold": f"{secret}-{n}"} for n in range(5)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "all.yaml").write_text(
        "inputs: {question: A question., about: {default: ''}}\n"
        "stages:\n"
        "  all: {kind: generate, role: bulk, prompt: '{{ inputs | string }} / {{ request }} / {{ inputs.about }}'}\n"
        "  then: {kind: map, over: '[1, 2]', role: frontier, prompt: '{{ inputs | string }} / {{ all }}'}\n"
        "output: then\n"
    )
    name = module("def look(*given, **named):\n    assert 'xyzzy' not in repr((given, named))\n    return 'seen'\n")
    models = [model(CHEAP, lambda request: "so it is"), model(STRONG, lambda request: "so it is")]
    report = bench(
        models,
        tasks={"sums": {"file": "sums.jsonl", "inputs": ["about"]}},
        scorer="exact",
        arms={
            "all": {"pipeline": "all.yaml", "roles": {"bulk": CHEAP, "frontier": STRONG}},
            "look": {"python": f"{name}:look"},
        },
    )
    assert report.results.items[0].prompt == "What is 0+1?"
    assert not any(one.failure for one in report.results.outcomes)
    requests = [request for one in models for request in one.requests]
    assert len(requests) >= 5 * (1 + 2 + 2)
    assert not any(secret in repr(request) for request in requests)
    assert any("sums" in said(request) for request in requests)
    assert secret not in (tmp_path / "out" / "answers.jsonl").read_text()


def test_each_epoch_samples_anew(items: Items, bench: Bench) -> None:
    items(4)
    asked = cheap()
    report = bench([asked], arms={"a": {"model": CHEAP}}, epochs=3, seeds=[7, 8])
    assert Counter(request.seed for request in asked.requests) == {7: 4, 8: 8 - 4, 1007: 4}
    assert {one.seed for one in report.results.outcomes} == {7, 8, 1007}
    assert figures(report)["a"].cost == pytest.approx(4 * 0.001)


def test_simulated_prices_are_used_and_labelled(items: Items, bench: Bench) -> None:
    items(4)
    report = bench([cheap()], arms={"a": {"model": CHEAP}}, prices={CHEAP: {"input": 2, "output": 30}})
    assert figures(report)["a"].cost == pytest.approx(4 * (1000 * 2 + 100 * 30) / 1e6)
    assert report.results.arms[0].price_source == "simulated: the suite says so"


def test_arms_share_the_calls_that_are_the_same_and_each_pays_for_all_of_its_own(items: Items, bench: Bench) -> None:
    items(20)
    arms = {"two": {"pipeline": "two.yaml"}, "a": {"model": CHEAP}, "b": {"model": STRONG}}
    given: dict[str, Any] = {"arms": arms, "max_tokens": 100, "baselines": []}
    apart = bench([cheap(), strong()], out="apart", **given)
    small, large = cheap(), strong()
    report = bench([small, large], store=True, **given)
    assert (len(small.requests), len(large.requests)) == (20, 20)
    for name, one in figures(report).items():
        other = figures(apart)[name]
        assert (one.cost, one.tokens, one.calls, one.accuracy) == (
            other.cost,
            other.tokens,
            other.calls,
            other.accuracy,
        )
        assert (one.escalated, one.delegated) == (other.escalated, other.delegated)
    assert sum(one.reused for one in report.results.outcomes) == 24
    assert not any("latency" in note for note in report.analysis.notes)


def test_what_is_shared_draws_on_the_budget_once(items: Items, bench: Bench) -> None:
    items(20)
    arms = {"two": {"pipeline": "two.yaml"}, "a": {"model": CHEAP}, "b": {"model": STRONG}}
    given: dict[str, Any] = {"arms": arms, "max_tokens": 100, "baselines": [], "store": True}
    report = bench([cheap(), strong()], budget={"calls": 40}, **given)
    assert (len(report.results.items), report.results.stopped) == (20, "")
    again = bench([cheap(), strong()], budget={"calls": 40}, **given)
    assert again.results.outcomes == report.results.outcomes


def test_epochs_share_nothing(items: Items, bench: Bench) -> None:
    items(4)
    asked = cheap()
    bench([asked], arms={"a": {"model": CHEAP}}, epochs=2, seeds=[5, 5], store=True)
    assert len(asked.requests) == 8


# Baselines.


def test_self_consistency_of_models_that_are_too_dear_is_not_measured_and_that_is_said(
    items: Items, bench: Bench
) -> None:
    items(10)
    report = bench(
        [model(CHEAP, knowing(lambda total: False), "0.009"), strong()], arms={"two": {"pipeline": "two.yaml"}}
    )
    assert not any(one.kind == "baseline" for one in report.analysis.figures)
    said_of_it = (
        "Self-consistency at equal dollars is not measured: no single model can be asked twice for what two costs."
    )
    assert said_of_it in report.analysis.notes


def test_self_consistency_is_measured_where_it_can_be(items: Items, bench: Bench, tmp_path: Path) -> None:
    items(10)
    (tmp_path / "dear.yaml").write_text(
        "inputs: {question: A question.}\n"
        "stages:\n"
        "  one: {kind: generate, role: bulk, prompt: generate/pass-through}\n"
        "  two: {kind: generate, role: frontier, prompt: '{{ request }} Not {{ one }}'}\n"
        "output: two\n"
    )
    asked = cheap()
    arm = {"pipeline": "dear.yaml", "roles": {"bulk": CHEAP, "frontier": STRONG}}
    report = bench([asked, strong()], arms={"dear": arm})
    (baseline,) = [one for one in report.analysis.figures if one.kind == "baseline"]
    assert baseline.arm == "self-consistency, 11 of scripted/cheap"
    assert "Self-consistency takes 11 answers of scripted/cheap for the cost of dear." in report.analysis.notes
    assert baseline.cost == pytest.approx(10 * 11 * 0.001)
    assert baseline.accuracy.estimate == 0.8
    assert len(asked.requests) == 10 * (1 + 1 + 11)
    assert {request.temperature for request in asked.requests} == {None, 0.7}
    (pair,) = report.analysis.at_equal_dollars
    assert (pair.arm, pair.against, pair.only_arm, pair.only_other) == ("dear", baseline.arm, 2, 1)
    assert f"## Against {baseline.arm}" in report.markdown()
    assert f"<h2>Against {baseline.arm}</h2>" in report.page()


def test_a_baseline_that_is_left_out_is_said(items: Items, bench: Bench) -> None:
    items(4)
    report = bench([cheap(), strong()], arms={"two": {"pipeline": "two.yaml"}}, baselines=["singles", "oracle"])
    assert "The suite leaves out baselines: self_consistency, random_mixing." in report.analysis.notes
    assert [one.arm for one in report.analysis.baselines] == ["oracle router"]


# What goes wrong.


def test_an_arm_that_fails_on_a_tenth_is_wrong_there_and_pays(items: Items, bench: Bench) -> None:
    items(20)

    def failing(request: Request) -> Any:
        if sum_of(request) in (10, 20):
            return ModelTimeoutError("no answer", model=STRONG)
        return knowing(lambda total: False)(request)

    report = bench([cheap(), model(STRONG, failing, "0.01")], arms={"a": {"model": CHEAP}, "b": {"model": STRONG}})
    one = figures(report)["b"]
    assert (one.n, one.failed, one.accuracy.estimate) == (20, 2, 0.9)
    assert one.cost is not None
    assert one.cost > 18 * 0.01
    (bounds,) = [note for note in report.analysis.notes if "upper bounds" in note]
    assert bounds.startswith(f"${one.cost - 18 * 0.01:.4f} of the cost of b are upper bounds")
    assert "b failed on 2 of 20: each counts as wrong." in report.analysis.notes


def test_a_function_that_raises_has_failed(items: Items, bench: Bench, module: Any) -> None:
    items(4)
    name = module("async def answer(prompt):\n    if '1+1' in prompt: raise KeyError('lost')\n    return 3\n")
    report = bench([cheap()], arms={"a": {"python": f"{name}:answer"}})
    messages = {one.failure.message for one in report.results.outcomes if one.failure is not None}
    assert messages == {"KeyError: 'lost'", "TypeError: expected the answer's text or a mapping with `text`, got int"}
    assert figures(report)["a"].failed == 4


def test_a_key_that_a_function_lets_out_is_kept_nowhere(
    items: Items, bench: Bench, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items(2)
    monkeypatch.setenv("OTHER_API_KEY", "sk-sentinel-0123456789")
    raising = "raise ValueError('401 for ' + os.environ['OTHER_API_KEY'])"
    name = module(
        f"import os\ndef answer(prompt):\n    if '1+1' in prompt: {raising}\n    return os.environ['OTHER_API_KEY']\n"
    )
    report = bench([cheap()], arms={"a": {"python": f"{name}:answer"}})
    assert {one.failure.message for one in report.results.outcomes if one.failure} == {
        "ValueError: 401 for [OTHER_API_KEY]"
    }
    kept = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file())
    assert b"sentinel" not in kept


def test_a_broken_scorer_ends_it_before_any_call(items: Items, bench: Bench, module: Any) -> None:
    items(4)
    asked = cheap()
    name = module("def score(answer, gold):\n    return 1 / 0\n")
    with pytest.raises(UsageError, match=r"the task set 'sums', before any call: .* ZeroDivisionError"):
        bench([asked], arms={"a": {"model": CHEAP}}, scorer=f"{name}:score")
    with pytest.raises(UsageError, match="no scorer 'nmber'; did you mean 'number'"):
        bench([asked], arms={"a": {"model": CHEAP}}, scorer="nmber")
    assert asked.requests == []


def test_a_scorer_that_breaks_later_loses_no_answer(items: Items, bench: Bench, module: Any) -> None:
    items(4)
    name = module("def score(answer, gold):\n    assert 'unsure' not in answer\n    return gold in answer\n")
    arms = {"a": {"model": CHEAP}}
    first, second = model(CHEAP, knowing(lambda total: total == 6)), cheap()
    with pytest.raises(UsageError, match=r"the answer of 'a' to the item 'q\d': .* the answers are kept: "):
        bench([first], arms=arms, scorer=f"{name}:score", store=True)
    assert first.requests
    report = bench([second], arms=arms, store=True)
    assert len(first.requests) + len(second.requests) == 4
    assert figures(report)["a"].accuracy.estimate == 0.75


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "a", "gold": "1"}, {"prompt": "b", "gold": ""}], r"no gold answer \('gold'\) in item 2"),
        ([{"prompt": "a", "gold": "1"}, {"prompt": "b"}], r"no gold answer \('gold'\) in item 2"),
        ([{"id": 1, "prompt": "a", "gold": "1"}, {"id": 1, "prompt": "b", "gold": "2"}], "duplicate ids: '1'"),
        ([{"prompt": "a", "gold": "seven"}], "before any call: the gold answer 'seven' is not a number"),
    ],
)
def test_items_that_cannot_be_scored_are_told_before_any_call(
    rows: list[dict[str, Any]], words: str, bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = cheap()
    with pytest.raises(UsageError, match=words):
        bench([asked], arms={"a": {"model": CHEAP}})
    assert asked.requests == []


def test_an_arm_that_cannot_answer_is_told_before_any_call(items: Items, bench: Bench, tmp_path: Path) -> None:
    items(4)
    asked = cheap()
    (tmp_path / "needs.yaml").write_text(
        "inputs: {question: A question., key: A key.}\n"
        "stages: {answer: {kind: generate, role: bulk, prompt: '{{ request }} {{ inputs.key }}'}}\noutput: answer\n"
    )
    (tmp_path / "other.jsonl").write_text('{"id": "other", "text": "7"}\n')
    (tmp_path / "twice.jsonl").write_text('{"id": "q1", "text": "7"}\n{"id": "q1", "text": "8"}\n{"id": "q2"}\n')
    for arm, words in (
        ({"pipeline": "needs.yaml", "roles": {"bulk": CHEAP}}, "needs the input 'key'|key"),
        ({"pipeline": "nowhere.yaml"}, "nowhere.yaml"),
        ({"model": "nobody/nothing"}, "no provider is known for the model 'nobody/nothing'"),
        ({"outputs": "other.jsonl"}, "no line is for an item of this benchmark"),
        ({"outputs": "twice.jsonl"}, "line 2: a second answer to the item 'q1'"),
        ({"outputs": "nowhere.jsonl"}, "cannot read the task set"),
        ({"python": "no.such.module:function"}, "no arm 'no.such.module:function': ModuleNotFoundError"),
    ):
        with pytest.raises(UsageError, match=words):
            bench([asked], arms={"a": {"model": CHEAP}, "b": arm})
    assert asked.requests == []


def test_what_a_report_needs_is_asked_for_before_any_call(
    items: Items, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    items(4)
    asked = cheap()
    for name in ("sympy", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="a benchmark needs matplotlib; install the extra"):
        bench([asked], arms={"a": {"model": CHEAP}})
    with pytest.raises(UsageError, match="a benchmark needs matplotlib and sympy"):
        bench([asked], arms={"a": {"model": CHEAP}}, scorer="math")
    assert asked.requests == []


def test_a_key_that_is_refused_ends_it(items: Items, bench: Bench) -> None:
    items(40)
    refusing = model(CHEAP, lambda request: AuthenticationError("wrong key", model=CHEAP))
    with pytest.raises(AuthenticationError, match="wrong key"):
        bench([refusing], arms={"a": {"model": CHEAP}}, options={"concurrency": 2})
    assert len(refusing.requests) < 10


def test_a_planted_cheat_is_flagged(items: Items, bench: Bench, module: Any, tmp_path: Path) -> None:
    items(100)
    name = module(
        "import json, pathlib\n"
        "from fusion.bench.tasks import Task, split_of\n"
        f"lines = pathlib.Path({str(tmp_path / 'sums.jsonl')!r}).read_text().splitlines()\n"
        "rows = [json.loads(line) for line in lines]\n"
        "known = {row['prompt']: row['gold'] for row in rows\n"
        "         if split_of(Task(id=row['id'], prompt=row['prompt'])) == 'dev'}\n"
        "def cheat(prompt):\n    return known.get(prompt, 'the answer is 7')\n"
    )
    report = bench([cheap(), strong()], arms={"cheat": {"python": f"{name}:cheat"}, "two": {"pipeline": "two.yaml"}})
    assert {gap.arm for gap in report.analysis.gaps if gap.flagged} == {"cheat"}
    assert "better on the items it was chosen on" in report.page()
    assert any(note.startswith("cheat is better on dev than on test") for note in report.analysis.notes)


# Budget.


def test_it_stops_at_its_cap_with_what_it_has(items: Items, bench: Bench) -> None:
    items(40)
    arms = {"two": {"pipeline": "two.yaml"}, "b": {"model": STRONG}}
    report = bench([cheap(), strong()], arms=arms, budget={"usd": "0.4"}, baselines=[], max_tokens=100)
    spent = sum(one.cost or Decimal(0) for one in report.results.outcomes)
    assert spent <= Decimal("0.4")
    assert 5 < len(report.results.items) < 40
    assert "of 40 items have all their answers" in report.results.stopped
    assert figures(report)["b"].failed == 0
    again = [cheap(), strong()]
    more = bench(again, arms=arms, budget={"usd": "10"}, baselines=[], max_tokens=100)
    assert (len(more.results.items), more.results.stopped) == (40, "")
    asked = sum(len(one.requests) for one in again)
    assert asked <= 40 + 8 + 40 - 2 * len(report.results.items)


def test_what_was_spent_before_counts(items: Items, bench: Bench) -> None:
    items(40)
    arms = {"b": {"model": STRONG}}
    first = bench([strong()], arms=arms, budget={"calls": 20}, options={"concurrency": 1})
    assert len(first.results.items) == 20
    asked = strong()
    again = bench([asked], arms=arms, budget={"calls": 20}, options={"concurrency": 1})
    assert asked.requests == []
    assert again.results.outcomes == first.results.outcomes


def test_a_budget_for_nothing_is_told(items: Items, bench: Bench) -> None:
    items(4)
    with pytest.raises(
        BudgetError, match="before any item had all its answers: a call to 'scripted/strong' would pass"
    ):
        bench([strong()], arms={"b": {"model": STRONG}}, budget={"usd": "0.0001"})


def test_time_that_is_over_ends_it(items: Items, bench: Bench) -> None:
    items(4)

    def script(request: Request) -> Any:
        return Say("The answer is 0", delay=3600 if sum_of(request) else 0)

    report = bench([model(CHEAP, script)], arms={"a": {"model": CHEAP}}, budget={"seconds": 3})
    assert [one.id for one in report.results.items] == ["q0"]
    assert report.results.stopped == "the 3 seconds of its budget are over; 1 of 4 items have all their answers"


# Progress.


def test_progress_says_how_far_it_is_and_what_it_will_come_to(items: Items, bench: Bench) -> None:
    items(10)
    seen: list[tuple[int, Decimal | None]] = []

    def watch(progress: Progress) -> None:
        seen.append((progress.done, progress.usd_at_end))

    bench([cheap()], arms={"a": {"model": CHEAP}}, options={"watch": watch, "concurrency": 1})
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0] == (0, None)
    assert seen[-1] == (10, Decimal("0.010"))
    assert (5, Decimal("0.010")) in seen
