"""Tuning: what is left open is chosen on dev alone, nothing is asked twice, and the choice is confirmed on test."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, ScriptedModel
from fusion.bench import Report, Tuned, tune
from fusion.bench.tasks import Task, split_of
from fusion.core.errors import BudgetError, PipelineError, UsageError
from fusion.core.types import Limits
from tests.bench.conftest import knowing, model, sum_of, write_sums

CASCADE = """\
inputs: {question: A question.}
roles: {bulk: scripted/a, frontier: scripted/strong}
stages:
  answer:
    kind: cascade
    prompt: generate/pass-through
    max_tokens: 100
    tiers: [bulk, frontier]
    accept: {checks: {expression: {any: ["'unsure' not in value", "'The' in value"]}}}
output: answer
"""
SUITE = """\
tasks: {sums: {file: sums.jsonl}}
scorer: number
arms:
  two:
    pipeline: open.yaml
    roles: {bulk: {any: [scripted/a, scripted/b, scripted/bad]}, frontier: scripted/strong}
resamples: 2000
margin: 0.05
max_tokens: 100
"""


def models() -> list[ScriptedModel]:
    """`a` and `b` say what they do not know, `bad` knows nothing and is dearer than they; `strong` knows all."""
    return [
        model("scripted/a", knowing(lambda total: total % 10 == 8)),
        model("scripted/b", knowing(lambda total: total % 4 == 0), "0.0005"),
        model("scripted/bad", knowing(lambda total: True, text="1000001"), "0.002"),
        model("scripted/strong", knowing(lambda total: False), "0.01"),
    ]


Search = Callable[..., tuple[Tuned, Report | None]]


@dataclass(frozen=True)
class Searched:
    """A search over all that is left open, and the models that it asked."""

    tuned: Tuned
    report: Report | None
    asked: list[ScriptedModel]
    folder: Path


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Tunes a suite on scripted models, with one store for all searches of a test."""
    return partial(begin, tmp_path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder, asked = tmp_path_factory.mktemp("searched"), models()
    return Searched(*begin(folder, count=200, asked=asked), asked, folder)


def begin(
    folder: Path,
    suite: str = SUITE,
    pipeline: str = CASCADE,
    *,
    count: int = 160,
    asked: list[ScriptedModel] | None = None,
    **options: Any,
) -> tuple[Tuned, Report | None]:
    write_sums(folder / "sums.jsonl", count)
    (folder / "open.yaml").write_text(pipeline)
    (folder / "suite.yaml").write_text(suite)
    given = {one.info.id: one for one in asked or models()}
    with Fusion(profile="local", models=given, store=folder / "runs.db") as fusion:
        return tune(folder / "suite.yaml", out=folder / "out", fusion=fusion, **options)


def test_the_cheapest_that_is_not_worse_is_named_and_confirmed_on_items_that_nobody_saw(
    searched: Searched,
) -> None:
    tuned, report, asked = searched.tuned, searched.report, searched.asked
    assert tuned.best_single == "scripted/strong"
    assert tuned.choice.chosen["stages.answer.accept.checks.expression"] == "'unsure' not in value"
    assert tuned.choice.chosen["arms.two.roles.bulk"] in ("scripted/a", "scripted/b")
    assert tuned.choice.cost == min(one.cost for one in tuned.finalists if one.accuracy == 1.0)
    assert report is not None
    assert {item.side for item in report.results.items} == {"test"}
    found = {one.arm: one.accuracy.estimate for one in report.analysis.figures}
    assert (found["tuned"], found["scripted/strong"]) == (1, 1)
    assert report.analysis.best_single == "scripted/strong"
    on_test = {int(item.id[1:]) * 2 for item in report.results.items}
    assert not on_test & {
        sum_of(request) for one in asked if one.info.id == "scripted/bad" for request in one.requests
    }


def test_a_candidate_is_dropped_by_its_own_results_and_not_by_those_of_a_model_that_it_uses(
    searched: Searched,
) -> None:
    tuned, asked = searched.tuned, searched.asked
    out = {one.name: one for one in tuned.dropped}
    assert out["scripted/bad"].by in ("scripted/a", "scripted/b")
    users = {one.name for one in tuned.finalists if "scripted/bad" in one.models} | {*out} - {"scripted/bad"}
    raced = tuned.shares[0][1]
    assert raced == 6
    assert users
    bad = next(one for one in asked if one.info.id == "scripted/bad")
    assert max(Counter(map(sum_of, bad.requests)).values()) == 1


def test_a_voter_that_is_beaten_alone_stays_in_the_pair_that_wins(search: Callable[..., Any]) -> None:
    """`bad` alone is beaten in quality and cost; with `a`, where both agree, it is as good as `strong`."""
    dear = [
        model("scripted/a", knowing(lambda total: total % 16 == 0, text="9"), "0.001"),
        model("scripted/bad", knowing(lambda total: total % 4 == 2, text="7"), "0.0011"),
        model("scripted/b", knowing(lambda total: True, text="unsure"), "0.003"),
        model("scripted/strong", knowing(lambda total: False), "0.1"),
    ]
    pipeline = CASCADE.replace("tiers: [bulk, frontier]", "tiers: [{roles: [bulk, second]}, frontier]").replace(
        """{checks: {expression: {any: ["'unsure' not in value", "'The' in value"]}}}""",
        "{agree: 2, extract: number}",
    )
    suite = SUITE.replace(
        "{any: [scripted/a, scripted/b, scripted/bad]}", "scripted/a, second: {any: [scripted/bad, scripted/b]}"
    )
    tuned, report = search(suite, pipeline, asked=dear)
    assert "scripted/bad" in {one.name for one in tuned.dropped}
    assert tuned.choice.chosen == {"arms.two.roles.second": "scripted/bad"}
    assert report is not None
    for one in dear:
        once = [each for each in one.requests if each.temperature is None]
        assert max(Counter(map(sum_of, once)).values()) == 1


def test_nothing_is_asked_twice_and_shares_double(searched: Searched) -> None:
    tuned, asked = searched.tuned, searched.asked
    assert [items for items, _ in tuned.shares][:2] == [32, 64]
    counts = [count for _, count in tuned.shares]
    assert counts == sorted(counts, reverse=True)
    for one in asked:
        once = [
            each for each in one.requests if each.temperature is None
        ]  # the others are self-consistency's samples
        assert max(Counter(map(sum_of, once)).values()) == 1


def test_what_is_dropped_is_beaten_in_quality_and_no_cheaper(searched: Searched) -> None:
    tuned = searched.tuned
    assert tuned.dropped
    assert all(one.items >= 32 for one in tuned.dropped)
    cheapest = min(tuned.finalists, key=lambda one: one.cost)
    assert cheapest.name == "scripted/b"


def test_the_frontier_is_files_that_run(searched: Searched) -> None:
    tuned = searched.tuned
    assert tuned.frontier[0].accuracy < tuned.frontier[-1].accuracy
    with Fusion(profile="local", models={one.info.id: one for one in models()}) as fusion:
        for one in tuned.frontier:
            assert Pipeline.load(one.file).roles
            assert "The answer is" in fusion.complete("What is 3+4?", pipeline=one.file).text
    assert "points to the best single model" in Path(tuned.choice.file).read_text()
    assert Tuned.model_validate_json((searched.folder / "out" / "tuned.json").read_text()) == tuned


def test_the_search_keeps_its_cap_and_goes_on_with_more(search: Callable[..., Any]) -> None:
    asked = models()
    pipeline = CASCADE.replace("max_tokens: 100", "max_tokens: 90")
    first, _ = search(pipeline=pipeline, asked=asked, budget=Limits(calls=420), concurrency=1)
    assert "calls" in first.stopped
    assert first.items < 77
    again = models()
    whole, _ = search(pipeline=pipeline, asked=again)
    assert not whole.stopped
    for one, other in zip(asked, again, strict=True):
        requests = [each for each in (*one.requests, *other.requests) if each.temperature is None]
        both = Counter((sum_of(each), each.max_tokens) for each in requests)
        assert max(both.values()) == 1


def test_a_cap_that_bears_nothing_is_said(search: Callable[..., Any]) -> None:
    with pytest.raises(BudgetError, match="before any item had all its answers"):
        search(budget=Limits(calls=2), concurrency=1)


def test_where_nothing_beats_it_the_best_single_model_is_named(search: Callable[..., Any]) -> None:
    strict = SUITE.replace("margin: 0.05", "margin: 0").replace(
        "scripted/a, scripted/b, scripted/bad", "scripted/b, scripted/bad"
    )
    lying = CASCADE.replace("\"'unsure' not in value\", \"'The' in value\"", "\"'The' in value\", 'value'")
    tuned, report = search(strict, lying)
    assert tuned.named == tuned.best_single == "scripted/strong"
    assert report is None


def test_any_stands_in_place_of_any_value_numbers_and_lists_too(search: Callable[..., Any], tmp_path: Path) -> None:
    pipeline = CASCADE.replace("max_tokens: 100", "max_tokens: {any: [50, 100]}").replace(
        "tiers: [bulk, frontier]", "tiers: {any: [[bulk, frontier], [{roles: bulk, samples: 1}, frontier]]}"
    )
    suite = SUITE.replace("{any: [scripted/a, scripted/b, scripted/bad]}", "scripted/a")
    tuned, _ = search(suite, pipeline, count=80)
    assert len(list((tmp_path / "out" / "candidates").glob("two-*.yaml"))) == 8
    places = {place for one in tuned.finalists for place in one.chosen}
    assert {"stages.answer.max_tokens", "stages.answer.tiers"} <= places


def test_what_does_not_go_together_is_left_out_and_said(search: Callable[..., Any]) -> None:
    pipeline = CASCADE.replace("accept: {checks", "accept: {agree: {any: [2, 3]}, checks").replace(
        "tiers: [bulk, frontier]",
        "tiers: {any: [[{roles: bulk, samples: 2}, frontier], [{roles: bulk, samples: 3}, frontier]]}",
    )
    tuned, _ = search(
        SUITE.replace("scripted/a, scripted/b, scripted/bad", "scripted/a, scripted/b"), pipeline, count=40
    )
    assert any("3 answers of tier 1 must agree, and it has 2" in one for one in tuned.left_out)
    assert all("open.yaml:" in one for one in tuned.left_out)


@pytest.mark.parametrize(
    ("suite", "pipeline", "words"),
    [
        (
            ("{any: [scripted/a, scripted/b, scripted/bad]}", "{any: [scripted/a]}"),
            ("", ""),
            "suite.yaml:6:19 arms.two.roles.bulk: `any` is a list of two or more",
        ),
        (
            ("{any: [scripted/a, scripted/b, scripted/bad]}", "{any: [scripted/a, scripted/a]}"),
            ("", ""),
            "arms.two.roles.bulk: `any` has a value twice",
        ),
        (("scripted/b, scripted/bad", "{any: [b, c]}"), ("", ""), "an `any` within an `any`"),
        (
            ("", ""),
            ("{any: [\"'unsure'", "{or: 1, any: [\"'unsure'"),
            "open.yaml:9:35 stages.answer.accept.checks.expression: `any` must be the only key",
        ),
        (
            ("", ""),
            ("max_tokens: 100", "max_tokens: {any: [100, -5]}"),
            "open.yaml:7:29 stages.answer.max_tokens.any.1: expected more than 0, got -5",
        ),
        (("margin: 0.05", "margn: 0.05"), ("", ""), "suite.yaml:8:1 margn: unknown key 'margn'"),
        (("pipeline: open.yaml", "pipelin: open.yaml"), ("", ""), "arms.two.pipelin: unknown key"),
        (
            ("pipeline: open.yaml", "python: a:b"),
            ("", ""),
            "`profile` and `roles` have an effect with a pipeline only",
        ),
    ],
)
def test_every_mistake_is_told_at_its_place(
    suite: tuple[str, str], pipeline: tuple[str, str], words: str, search: Callable[..., Any]
) -> None:
    asked = models()
    with pytest.raises(PipelineError) as caught:
        search(SUITE.replace(*suite), CASCADE.replace(*pipeline) if pipeline[0] else CASCADE, asked=asked)
    assert words in str(caught.value)
    assert not any(one.requests for one in asked)


def test_too_much_and_nothing_left_open_are_refused(search: Callable[..., Any]) -> None:
    closed = CASCADE.replace("{any: [\"'unsure' not in value\", \"'The' in value\"]}", "value")
    suite = SUITE.replace("{any: [scripted/a, scripted/b, scripted/bad]}", "scripted/a")
    with pytest.raises(UsageError, match=r"no open value; write \{any:"):
        search(suite, closed)
    many = json.dumps(list(range(1, 1002)))
    with pytest.raises(UsageError, match="2,002 candidates; the most is 1,000"):
        search(suite, CASCADE.replace("max_tokens: 100", f"max_tokens: {{any: {many}}}"))


def test_templates_beside_the_pipeline_go_with_it(search: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "prompts" / "own").mkdir(parents=True)
    (tmp_path / "prompts" / "own" / "ask.md.j2").write_text("{{ request }}")
    tuned, _ = search(pipeline=CASCADE.replace("generate/pass-through", "own/ask"))
    assert "own/ask" in Path(tuned.choice.file).read_text()
    with Fusion(profile="local", models={one.info.id: one for one in models()}) as fusion:
        assert fusion.complete("What is 3+4?", pipeline=tuned.choice.file).text == "The answer is 7"


# Arms that are no pipelines: candidates as they are.


def with_arm(arm: str) -> str:
    return SUITE.replace("resamples: 2000\n", f"  {arm}\nresamples: 2000\n")


@pytest.fixture
def function(tmp_path: Path) -> Callable[..., str]:
    """Writes a function that knows every sum but those that are `wrong`, and gives its arm."""

    def write(wrong: str = "False", cost: str = "0.0001") -> str:
        name = f"other_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(
            "def add(prompt):\n    total = eval(prompt[8:-1])\n"
            f"    return {{'text': 'no' if {wrong} else str(total), 'cost': {cost}, 'calls': 1}}\n"
        )
        return f"mine: {{python: '{name}:add'}}"

    return write


def test_a_function_that_wins_is_named_without_a_file_and_confirmed(
    search: Callable[..., Any], function: Callable[..., str], tmp_path: Path
) -> None:
    tuned, report = search(with_arm(function()))
    assert (tuned.named, tuned.choice.kind, tuned.choice.file) == ("mine", "python", None)
    assert [(one.name, one.file is None) for one in tuned.frontier if one.name == "mine"] == [("mine", True)]
    assert len(list((tmp_path / "out" / "frontier").glob("*.yaml"))) == len(tuned.frontier) - 1
    assert report is not None
    assert {arm.name: arm.kind for arm in report.results.arms}["tuned"] == "python"
    assert {one.arm: one.accuracy.estimate for one in report.analysis.figures}["tuned"] == 1


def test_a_function_is_raced_and_dropped_as_any_other(
    search: Callable[..., Any], function: Callable[..., str]
) -> None:
    tuned, _ = search(with_arm(function(wrong="total % 4 == 0", cost="0.01")))
    assert "mine" in {one.name for one in tuned.dropped}
    assert tuned.choice.file is not None


def test_answers_of_a_file_stand_in_the_search_too(search: Callable[..., Any], tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "text": str(2 * n), "cost": 0.0001} for n in range(160)]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuned, report = search(with_arm("theirs: {outputs: theirs.jsonl}"))
    assert (tuned.named, tuned.choice.kind) == ("theirs", "outputs")
    assert report is not None
    assert report.results.arms[0].kind == "outputs"


def test_what_could_be_chosen_and_not_confirmed_is_refused_before_any_call(
    search: Callable[..., Any], function: Callable[..., str], tmp_path: Path
) -> None:
    asked = models()
    rows = [{"id": f"q{n}", "text": str(2 * n)} for n in range(160) if split_of(Task(id=f"q{n}", prompt="")) == "dev"]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="no line is for an item of this benchmark"):
        search(with_arm("theirs: {outputs: theirs.jsonl}"), asked=asked)
    with pytest.raises(UsageError, match="is on the side 'test' of the split"):
        search(SUITE + "split: {dev: 0.9999999}\n", asked=asked)
    alone = "tasks: {sums: {file: sums.jsonl}}\nscorer: number\narms:\n  "
    either = function().replace("mine: {python: ", "mine: {python: {any: [").replace("}", ", 'json:dumps']}}")
    with pytest.raises(UsageError, match="no single model to compare the candidates with; add one as an arm"):
        search(alone + either + "\n", asked=asked)
    assert not any(one.requests for one in asked)


# The sides that the author gives.


@pytest.mark.parametrize("way", ["confirm", "confirm by set", "column"])
def test_a_choice_is_confirmed_on_the_items_that_the_author_gives(
    way: str, search: Callable[..., Any], tmp_path: Path
) -> None:
    suite = SUITE.replace("scripted/a, scripted/b, scripted/bad", "scripted/a, scripted/b")
    write_sums(tmp_path / "more.jsonl", 140)
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()][100:]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if way == "column":
        sided = [
            {"id": f"q{n}", "prompt": f"What is {n}+{n}?", "gold": 2 * n, "part": "test" if n >= 100 else "dev"}
            for n in range(140)
        ]
        (tmp_path / "sided.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sided))
        suite = suite.replace("sums.jsonl", "sided.jsonl") + "split: {column: part}\n"
    else:
        suite += "confirm: more.jsonl\n" if way == "confirm" else "confirm: {sums: more.jsonl}\n"
    tuned, report = search(suite, count=100)
    assert tuned.items == 100
    assert report is not None
    assert {item.id for item in report.results.items} == {f"q{n}" for n in range(100, 140)}


def test_a_confirming_file_with_items_of_the_search_is_refused_before_any_call(
    search: Callable[..., Any], tmp_path: Path
) -> None:
    asked = models()
    write_sums(tmp_path / "more.jsonl", 3)
    with pytest.raises(UsageError, match=r"more.jsonl: the items q0, q1, q2 are among the items to choose by too"):
        search(SUITE + "confirm: more.jsonl\n", asked=asked)
    assert not any(one.requests for one in asked)
