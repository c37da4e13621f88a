"""Ways of cascades: `search` in place of the tiers, and models over a file of items."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, ScriptedModel
from fusion.bench import Over, Report, Tuned, run, tune
from fusion.bench.suite import Suite
from fusion.core.errors import BudgetError, PipelineError, UsageError
from fusion.core.types import Limits
from tests.bench.conftest import knowing, model, sum_of, write_sums

Said = Callable[[int], str | None]
"""The text of a model about n+n; None for no record."""

PRICES = {"a": 1, "b": 1, "c": 1, "strong": 30, "level": 20}
KNOWN: dict[str, Said] = {
    "a": lambda n: "7" if n % 4 == 0 else str(2 * n),
    "b": lambda n: "9" if n % 4 == 2 else str(2 * n),
    "c": lambda n: "8" if n % 3 == 0 else str(2 * n),
    "strong": lambda n: str(2 * n),
}
ALL = (*KNOWN,)


def record(
    folder: Path,
    models: Mapping[str, Said] = KNOWN,
    *,
    count: int = 160,
    name: str = "sums",
    ask: str = "What is {n}+{n}?",
    prices: Mapping[str, float] = PRICES,
) -> Path:
    """Write a recording of some models, and the prices of their tokens."""
    lines = []
    for n in range(count):
        texts = {one: text for one, say in models.items() if (text := say(n)) is not None}
        said = {one: {"text": text, "prompt_tokens": 10, "completion_tokens": 2} for one, text in texts.items()}
        lines.append(json.dumps({"id": f"q{n}", "prompt": ask.format(n=n), "gold": str(2 * n), "responses": said}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    both = {
        one: {f"{side}_usd_per_million_tokens": usd for side in ("input", "output")} for one, usd in prices.items()
    }
    (folder / "prices.json").write_text(json.dumps({"models": both}))
    return folder / f"{name}.jsonl"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusion.bench.report.report.figure", lambda *given, **options: b"")
    return tmp_path


def over(*models: str, **more: Any) -> Over:
    return Over(models=models, **{"scorer": "number", **more})


def searched(file: Path, *models: str, **more: Any) -> tuple[Tuned, Report | None]:
    own = {name: more.pop(name) for name in ("budget", "at_least", "confirm", "split", "out") if name in more}
    return tune(f"replay:{file}", over=over(*models, **more), learn=False, **own)


# Models over a file of items.


def test_the_cheapest_way_that_is_as_good_is_chosen_and_confirmed_once(here: Path) -> None:
    tuned, report = searched(record(here))
    (found,) = tuned.searched
    way = found.ways["answer"]
    assert (set(way.cheap), way.last) == ({"a", "b", "c"}, "strong")
    assert (found.difference, found.fit, found.considered) == (0, True, 4 + 12 + 12)
    assert 0.2 < found.cost_ratio < 0.3
    assert (tuned.named, tuned.best_single) == (found.name, "strong")
    assert report is not None
    assert {item.side for item in report.results.items} == {"test"}
    confirmed = next(one for one in report.analysis.pairings if one.arm == "tuned")
    assert (confirmed.against, confirmed.difference.estimate) == ("strong", 0)
    assert confirmed.cost_ratio is not None
    assert 0.2 < confirmed.cost_ratio.estimate < 0.3


def test_the_file_has_plain_tiers_that_run_and_compares_as_the_scorer_does(here: Path) -> None:
    tuned, _ = searched(record(here))
    text = Path(str(tuned.choice.file)).read_text()
    assert "search" not in text
    stage = Pipeline.load(str(tuned.choice.file)).stages["answer"]
    assert stage.accept.agree == 2  # type: ignore[attr-defined] # a Cascade
    assert stage.accept.extract.read == "number"  # type: ignore[attr-defined] # a Cascade
    assert [len(tier.roles) for tier in stage.tiers] == [3, 1]  # type: ignore[attr-defined] # a Cascade
    assert "cross-validated" in text
    with Fusion(profile="local") as fusion:
        assert fusion.complete("What is 4+4?", pipeline=str(tuned.choice.file)).text == "8"
    saved = Tuned.model_validate_json((here / "fusion-tune" / "sums" / "tuned.json").read_text())
    assert saved == tuned


@pytest.mark.parametrize(
    ("more", "cheap", "last"),
    [
        ({"max_tiers": 1}, 0, "strong"),
        ({"max_tiers": 2}, 2, "strong"),
        ({"max_tiers": 3}, 3, "strong"),
        ({"agree": 3, "max_tiers": 2}, 3, "strong"),
        ({"last": ("strong",)}, 3, "strong"),
        ({"last": ("a", "strong")}, 3, "strong"),
    ],
)
def test_the_options_of_the_search_narrow_its_ways(more: Any, cheap: int, last: str, here: Path) -> None:
    tuned, _ = searched(record(here), **more)
    way = tuned.searched[0].ways["answer"]
    assert (len(way.cheap), way.last) == (cheap, last)


def test_the_table_says_what_the_engine_does(here: Path) -> None:
    """The chosen way on dev through the engine has the score and the dollars of its held-out items."""
    file = record(here)
    tuned, _ = searched(file)
    suite = Suite.model_validate(
        {
            "name": "again",
            "tasks": {"sums": {"file": str(file)}},
            "scorer": "number",
            "arms": {"way": {"pipeline": str(tuned.choice.file)}},
            "on": "dev",
            "baselines": (),
            "resamples": 2000,
        }
    )
    report = run(suite, learn=False)
    (figures,) = report.analysis.figures
    assert figures.accuracy.estimate == tuned.choice.accuracy
    assert figures.cost == pytest.approx(tuned.choice.cost * tuned.items, rel=0.02)


def test_a_lower_aim_takes_a_cheaper_way_and_a_higher_one_none(here: Path) -> None:
    file = record(here)
    cheaper, _ = searched(file, at_least=-0.3, out="low")
    assert cheaper.choice.cost < 0.5 * searched(file, out="level")[0].choice.cost
    tuned, report = searched(file, at_least=0.2, out="high")
    assert (tuned.named, tuned.searched[0].fit, report) == ("strong", False, None)


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ({**KNOWN, "a": KNOWN["strong"]}, "a"),
        ({"a": KNOWN["a"], "strong": KNOWN["strong"], "level": KNOWN["strong"]}, "level"),
        ({"a": lambda n: "1", "b": lambda n: "2", "strong": KNOWN["strong"]}, "strong"),
        ({"a": lambda n: "I do not know", "b": lambda n: "No idea", "strong": KNOWN["strong"]}, "strong"),
        ({"a": lambda n: "1", "b": lambda n: "1", "strong": KNOWN["strong"]}, "strong"),
    ],
    ids=["a cheap one is as good", "level singles", "always wrong", "no answer to compare", "wrong alike"],
)
def test_a_single_model_is_named_where_no_cascade_is_better(models: dict[str, Said], named: str, here: Path) -> None:
    tuned, report = searched(record(here, models), max_tiers=2)
    assert tuned.named == named
    assert (report is None) == (named == tuned.best_single)


def test_single_models_within_half_a_point_are_all_named(here: Path) -> None:
    near = lambda n: "0" if n == 1 else str(2 * n)  # noqa: E731 - beside the others
    tuned, _ = searched(record(here, {**KNOWN, "level": near}, count=800))
    assert set(tuned.searched[0].level) == {"strong", "level"}
    assert set(tuned.level) == {"strong", "level"}
    assert tuned.best_single in tuned.level


def test_answers_that_are_all_empty_choose_no_way(here: Path) -> None:
    empty = record(here, dict.fromkeys(("a", "b", "strong"), lambda n: ""))
    tuned, report = searched(empty)
    assert (tuned.named, report) == (tuned.best_single, None)
    assert all(one.accuracy == 0 for one in tuned.finalists)


@pytest.mark.parametrize("scorer", ["exact", "number", "math", "code", "f1", "answer == gold", "exact_match"])
def test_every_scorer_has_a_comparison(scorer: str, here: Path) -> None:
    tuned, _ = searched(record(here, count=60), scorer=scorer)
    assert tuned.searched[0].fit
    assert len(tuned.searched[0].ways["answer"].cheap) >= 2


# Several task sets.


def both_sets(here: Path, models: Mapping[str, Said], others: Mapping[str, Said]) -> str:
    folder = here / "rec"
    folder.mkdir()
    record(folder, models, name="sums", count=120)
    record(folder, others, name="twice", ask="Double [{n}].", count=120)
    return f"replay:{folder}"


def test_each_task_set_has_a_way_of_its_own_where_a_pattern_tells_it_apart(here: Path) -> None:
    weak: Said = lambda n: "7" if n % 8 == 0 else str(2 * n)  # noqa: E731 - beside the others
    swapped = {"a": KNOWN["strong"], "b": lambda n: "1", "c": lambda n: "2", "strong": weak}
    data = both_sets(here, KNOWN, swapped)
    tuned, report = tune(data, over=over(routes={"twice": r"\["}), learn=False)
    ways = tuned.searched[0].ways
    assert (ways["answer/twice"].cheap, ways["answer/twice"].last) == ((), "a")
    assert len(ways["answer/sums"].cheap) >= 2
    assert report is not None
    one = next(one for one in report.analysis.pairings if one.arm == "tuned")
    assert one.difference.estimate > -0.05
    with Fusion(profile="local") as fusion:
        assert fusion.complete("Double [4].", pipeline=str(tuned.choice.file)).text == "8"


def test_a_model_counts_on_the_sets_where_it_has_answers(here: Path) -> None:
    missing = {**KNOWN, "b": lambda n: None}
    tuned, _ = tune(both_sets(here, KNOWN, missing), over=over(routes={"twice": r"\["}), learn=False)
    ways = tuned.searched[0].ways
    assert "b" in ways["answer/sums"].cheap
    assert "b" not in (*ways["answer/twice"].cheap, ways["answer/twice"].last)
    assert any(re.match(r"b has recorded answers to \d+ of \d+ items", note) for note in tuned.left_out)
    assert "b" not in {one.name for one in tuned.finalists}


def test_without_a_pattern_all_sets_have_one_way(here: Path) -> None:
    tuned, _ = tune(both_sets(here, KNOWN, KNOWN), over=over(), learn=False)
    assert [*tuned.searched[0].ways] == ["answer"]


@pytest.mark.parametrize("holes", [1, 2, 40, 120])
def test_a_hole_in_a_recording_is_unknown_and_not_wrong(holes: int, here: Path) -> None:
    """With 99% of its answers a model counts; a hole is then wrong, since something must be answered."""
    models = {**KNOWN, "level": lambda n: None if n < holes else str(2 * n)}
    tuned, _ = searched(record(here, models, count=400))
    kept = {one.name for one in tuned.finalists} | {one.name for one in tuned.dropped}
    assert ("level" in kept) == (holes < 3)


# What cannot be searched.


@pytest.mark.parametrize(
    ("models", "more", "words"),
    [
        (("a",), {}, "1 models to choose from: give 2 to 24"),
        (("a", "b", "a"), {"last": ("zz",)}, "'zz' is not among the `models` of the search"),
        (("a", "nowhere"), {}, "no role 'nowhere'"),
        (ALL, {"routes": {"nosuch": "x"}}, "a route for 'nosuch', which is no task set"),
        (ALL, {"routes": {"sums": "("}}, "sums"),
        (ALL, {"scorer": "numbr"}, "did you mean 'number'"),
        (ALL, {"prompt": "nosuch"}, "no column 'nosuch'"),
        (ALL, {"gold": "prompt"}, "is the gold answer and may be nothing else"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_call(
    models: tuple[str, ...], more: dict[str, Any], words: str, here: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        searched(record(here), *models, **more)
    assert words in str(caught.value)
    assert not (here / "fusion-tune").exists()


def test_sets_that_are_scored_differently_need_a_route(here: Path) -> None:
    data = both_sets(here, KNOWN, KNOWN)
    scorer = {"sums": "number", "twice": "exact"}
    with pytest.raises(
        UsageError, match=r"answer: its items are scored in 2 ways, and it can compare answers in one"
    ):
        tune(data, over=over(scorer=scorer), learn=False)
    tuned, _ = tune(data, over=over(scorer=scorer, routes={"sums": "What"}), out="routed", learn=False)
    assert tuned.searched[0].fit


def test_25_models_are_too_many(here: Path) -> None:
    many = {f"m{n}": KNOWN["a"] for n in range(25)}
    file = record(here, many, count=6, prices=dict.fromkeys(many, 1))
    with pytest.raises(UsageError, match="25 models to choose from: give 2 to 24"):
        searched(file)


# Sides, caps and going on.


def test_a_confirming_file_and_a_column_give_the_sides(here: Path) -> None:
    record(here, count=100)
    rows = [json.loads(line) for line in (here / "sums.jsonl").read_text().splitlines()]
    for name, part in (("choose", rows[:70]), ("confirm", rows[70:])):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    models = [f"replay:sums.jsonl#{name}" for name in ALL]
    tuned, report = tune("choose.jsonl", over=over(*models), confirm="confirm.jsonl", learn=False)
    assert tuned.items == 70
    assert report is not None
    assert len(report.results.items) == 30
    sided = [{**row, "part": "dev" if n < 60 else "test"} for n, row in enumerate(rows)]
    (here / "sided.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sided))
    tuned, report = tune("sided.jsonl", over=over(*models), split="part", learn=False)
    assert tuned.items == 60
    with pytest.raises(UsageError, match="`confirm` and `split` both give"):
        tune("sided.jsonl", over=over(*models), split="part", confirm="confirm.jsonl", learn=False)


def scripted() -> list[ScriptedModel]:
    return [
        model("scripted/a", knowing(lambda total: total % 8 == 0, text="7")),
        model("scripted/b", knowing(lambda total: total % 8 == 4, text="9"), "0.0005"),
        model("scripted/strong", knowing(lambda total: False), "0.01"),
    ]


def begin(folder: Path, asked: list[ScriptedModel], **options: Any) -> tuple[Tuned, Report | None]:
    given = {one.info.id: one for one in asked}
    options = {"out": folder / "out", "learn": False, **options}
    with Fusion(profile="local", models=given, store=folder / "runs.db") as fusion:
        return tune(folder / "sums.jsonl", over=over(*given), fusion=fusion, **options)


def test_each_model_is_asked_once_on_dev_and_the_way_is_free_of_more(here: Path) -> None:
    write_sums(here / "sums.jsonl", 120)
    asked = scripted()
    tuned, report = begin(here, asked)
    assert {*tuned.searched[0].ways["answer"].cheap} == {"scripted/a", "scripted/b"}
    assert report is not None
    for one in asked:
        assert max(Counter(map(sum_of, one.requests)).values()) == 1
    on_test = {int(item.id[1:]) * 2 for item in report.results.items}
    dev = [one for each in asked for one in each.requests if sum_of(one) not in on_test]
    assert len(dev) == 3 * tuned.items
    assert tuned.spent == sum((Decimal(part) * tuned.items for part in ("0.001", "0.0005", "0.01")), Decimal(0))


def test_a_cap_in_the_middle_is_said_and_the_search_goes_on_without_paying_twice(here: Path) -> None:
    write_sums(here / "sums.jsonl", 120)
    asked, again = scripted(), scripted()
    first, report = begin(here, asked, budget=Limits(calls=100), concurrency=1)
    assert "calls" in first.stopped
    assert 20 < first.items < 40
    assert report is None
    whole, report = begin(here, again)
    assert not whole.stopped
    assert report is not None
    for one, other in zip(asked, again, strict=True):
        assert max(Counter(map(sum_of, (*one.requests, *other.requests))).values()) == 1


def test_a_cap_that_bears_no_item_is_said(here: Path) -> None:
    write_sums(here / "sums.jsonl", 20)
    with pytest.raises(BudgetError, match="before any item had all its answers"):
        begin(here, scripted(), budget=Limits(calls=1), concurrency=1)


# `search` in a pipeline.

SEARCH = """\
inputs: {question: A question.}
defaults: {max_tokens: 5000}
stages:
  answer:
    kind: cascade
    prompt: generate/pass-through
    tiers: {search: {models: [a, b, c, strong]}}
    accept: {extract: number}
output: answer
"""
SUITE = """\
tasks: {sums: {file: sums.jsonl}}
scorer: number
arms:
  mine:
    pipeline: open.yaml
    roles:
      a: replay:sums.jsonl#a
      b: replay:sums.jsonl#b
      c: replay:sums.jsonl#c
      strong: replay:sums.jsonl#strong
resamples: 2000
"""


def suite_of(here: Path, pipeline: str = SEARCH, suite: str = SUITE, **options: Any) -> tuple[Tuned, Report | None]:
    if not (here / "sums.jsonl").exists():
        record(here)
    (here / "open.yaml").write_text(pipeline)
    (here / "suite.yaml").write_text(suite)
    return tune(here / "suite.yaml", out=here / "out", learn=False, **options)


def test_a_search_takes_roles_and_keeps_their_names(here: Path) -> None:
    tuned, report = suite_of(here)
    assert set(tuned.searched[0].ways["answer"].cheap) == {"a", "b", "c"}
    made = Pipeline.load(str(tuned.choice.file))
    assert {*made.roles} == {"a", "b", "c", "strong"}
    assert report is not None


def test_a_search_takes_ids(here: Path) -> None:
    ids = ", ".join(f"'replay:{here}/sums.jsonl#{name}'" for name in ALL)
    suite = SUITE.replace(SUITE[SUITE.index("    roles:") : SUITE.index("resamples")], "")
    tuned, _ = suite_of(here, SEARCH.replace("a, b, c, strong", ids), suite)
    assert tuned.searched[0].fit
    assert {*Pipeline.load(str(tuned.choice.file)).roles} == {"a", "b", "c", "strong"}


def test_cascades_of_a_route_are_chosen_together_on_the_items_that_its_rules_send_there(here: Path) -> None:
    routed = """\
inputs: {question: A question.}
defaults: {max_tokens: 5000}
stages:
  answer:
    kind: route
    rules: [{matches: '[02468]\\+', use: even}, {longer: 1000, use: none_comes}]
    default: odd
    routes:
      even: {kind: cascade, prompt: generate/pass-through, tiers: {search: {models: [a, b, c, strong]}}}
      odd: {kind: cascade, prompt: generate/pass-through, tiers: {search: {models: [strong, a], max_tiers: 1}}}
      none_comes: {kind: cascade, prompt: generate/pass-through, tiers: {search: {models: [a, strong]}}}
output: answer
"""
    tuned, report = suite_of(here, routed)
    ways = tuned.searched[0].ways
    assert {*ways} == {"answer/even", "answer/odd"}
    assert (ways["answer/odd"].cheap, ways["answer/odd"].last) == ((), "a")
    assert len(ways["answer/even"].cheap) == 3
    stage: Any = Pipeline.load(str(tuned.choice.file)).stages["answer"]
    assert (stage.routes["odd"].kind, stage.routes["even"].kind) == ("generate", "cascade")
    assert report is not None
    assert next(one for one in report.analysis.figures if one.arm == "tuned").accuracy.estimate == 1


def test_a_prompt_of_its_own_is_asked_of_each_model_alone(here: Path) -> None:
    write_sums(here / "sums.jsonl", 60)
    asked = scripted()
    pipeline = SEARCH.replace("prompt: generate/pass-through", "prompt: 'Say it shortly. {{ request }}'").replace(
        "a, b, c, strong", "scripted/a, scripted/b, scripted/strong"
    )
    suite = SUITE.replace(SUITE[SUITE.index("    roles:") : SUITE.index("resamples")], "")
    given = {one.info.id: one for one in asked}
    with Fusion(profile="local", models=given, store=here / "runs.db") as fusion:
        tuned, report = suite_of(here, pipeline, suite, fusion=fusion)
    assert report is not None
    assert "Say it shortly" in Path(str(tuned.choice.file)).read_text()
    for one in asked:
        counts = Counter(each.messages[-1].content for each in one.requests if each.temperature is None)
        assert max(counts.values()) == 1
        assert {text.startswith("Say it shortly") for text in counts} == {True, False}


def test_a_search_beside_an_open_value_is_made_for_each_of_them(here: Path) -> None:
    tuned, _ = suite_of(here, SEARCH.replace("max_tokens: 5000", "max_tokens: {any: [5000, 4000]}"))
    assert len(tuned.searched) == 2
    assert len({one.name for one in tuned.searched}) == 2


def test_a_better_model_outside_of_the_search_is_what_a_way_must_reach(here: Path) -> None:
    suite = SUITE.replace("resamples", '  strong: {model: "replay:sums.jsonl#strong"}\nresamples')
    tuned, report = suite_of(here, SEARCH.replace("[a, b, c, strong]", "[a, b, c]"), suite)
    assert (tuned.best_single, tuned.searched[0].fit, tuned.named) == ("strong", False, "strong")
    assert tuned.searched[0].difference < 0
    assert report is None


TIERS = "tiers: {search: {models: [a, b, c, strong]}}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            TIERS,
            "tiers: {search: {models: [a]}}",
            "open.yaml:7:30 stages.answer.tiers.search.models: expected 2",
        ),
        (TIERS, "tiers: {search: {models: []}}", "expected 2 or more entries, got 0"),
        (TIERS, "tiers: {search: {models: a}}", "stages.answer.tiers.search.models: expected a list, got 'a'"),
        (TIERS, "tiers: {search: {models: [a, a]}}", "'a' is named twice"),
        (TIERS, "tiers: {search: {models: [a, {b: c}]}}", "models.1: expected text, got a mapping"),
        (TIERS, "tiers: {search: {models: {any: [[a, b], a]}}}", "models.any.1: expected a list"),
        (TIERS, "tiers: {search: [a, b]}", "`search` is a mapping, as in {models: [bulk, second, frontier]}"),
        (TIERS, "tiers: {search: null}", "`search` is a mapping"),
        (TIERS, "tiers: {search: {}}", "the key 'models' is missing"),
        (TIERS, "tiers: {search: {models: [a, b]}, more: 1}", "`search` must be the only key of `tiers`"),
        (TIERS, "tiers: {search: {models: [a, b], agre: 2}}", "unknown key 'agre'; did you mean 'agree'?"),
        (TIERS, "tiers: {search: {models: [a, b], agree: 1}}", "agree: expected at least 2, got 1"),
        (TIERS, "tiers: {search: {models: [a, b], agree: two}}", "agree: expected a whole number, got 'two'"),
        (TIERS, "tiers: {search: {models: [a, b], max_tiers: 4}}", "max_tiers: expected at most 3, got 4"),
        (TIERS, "tiers: {search: {models: [a, b], else: [c]}}", "'c' is not among the `models` of the search"),
        (TIERS, f"tiers: {{search: {{models: {[f'm{n}' for n in range(25)]}}}}}", "expected at most 24 entries"),
        (TIERS, "tiers: {search: {models: [a, nosuch]}}", "no role 'nosuch'"),
        ("accept: {extract: number}", "accept: {judge: a}", "`accept` takes `extract` beside it, not 'judge'"),
        ("accept: {extract: number}", "accept: {extract: {reed: number}}", "accept.extract: expected text, number"),
        ("accept: {extract: number}", "accept: [1]", "stages.answer.accept: expected a mapping"),
        (TIERS, "tiers: {search: {models: [a, b, c], agree: 2}}\n    early_stop: false", "a `search` counts on"),
        (TIERS, f"{TIERS}\n    over: inputs.question", "a `search` is of a cascade that answers once"),
        ("kind: cascade", "kind: vote", "`search` is for the tiers of a `cascade`"),
        ("output: answer", "output: answer.confidence", "a `search` is of the answer: write `output: answer`"),
        (
            "stages:",
            "stages:\n  first: {kind: generate, role: a, prompt: Hi.}",
            "stages.first: asks a model; a `",
        ),
    ],
)
def test_every_mistake_in_a_search_is_told_at_its_place(old: str, new: str, words: str, here: Path) -> None:
    with pytest.raises(UsageError) as caught:
        suite_of(here, SEARCH.replace(old, new))
    assert words in str(caught.value)
    assert not (here / "out").exists()


def test_a_route_that_asks_a_model_for_the_way_is_refused(here: Path) -> None:
    routed = """\
inputs: {question: A question.}
stages:
  answer:
    kind: route
    classifier: a
    default: x
    routes: {x: {kind: cascade, tiers: {search: {models: [a, b]}}}}
output: answer
"""
    with pytest.raises(PipelineError, match="the route of a `search` decides by `rules` or `examples`; this asks a"):
        suite_of(here, routed)


def test_a_search_is_for_tune_only(here: Path) -> None:
    with pytest.raises(PipelineError, match=r"stages.answer.tiers: expected a list, got \{search: …\}, which is for"):
        Pipeline.from_yaml(SEARCH)
