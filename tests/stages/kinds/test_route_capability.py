"""route by capability, and conditions on learned figures: the choice, its reasons, and what a resumed run keeps."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import PipelineError, UsageError
from fusion.bench.report.learned import keep_answers
from fusion.core.errors import ContentFilterError
from fusion.core.events import Decided, Noted
from fusion.models.catalog.learned import Answered, keep_learned
from tests.conftest import pipeline, run

ROUTE = """
inputs: {task: what is wanted}
stages:
  way:
    kind: route
    routes: {cheap: bulk, middle: second, strong: frontier}
    by: capability
    default: strong
    %s
output: way
"""
MATH = "Solve the equation of the polynomial."
LABELLED = "rules: [{matches: sum, label: sums}, {matches: poem, use: middle}]"


@pytest.fixture
def learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keeps figures: (right, of, dollars an item) of the roles' models, on a label."""
    monkeypatch.setenv("FUSION_STORE", str(tmp_path / "runs.db"))

    def keep(label: str, **figures: tuple[int, int, str | None]) -> None:
        answers = {
            f"scripted/{role}": {
                f"q{n}": Answered(float(n < right), None if usd is None else Decimal(usd)) for n in range(of)
            }
            for role, (right, of, usd) in figures.items()
        }
        keep_learned(tmp_path / "learned.json", {label: answers})

    return keep


def routed(fusion: Any, options: str, prompt: str = "a sum", **more: Any) -> tuple[Any, str, list[str]]:
    """Result, reason of the decision, and notes."""
    made = fusion({"bulk": "bulk", "second": "second", "frontier": "frontier"})
    result, events = run(made, prompt, pipeline=pipeline(ROUTE % options), **more)
    decided = next((event for event in events if isinstance(event, Decided)), None)
    return result, decided.reason if decided else "", [one.message for one in events if isinstance(one, Noted)]


@pytest.mark.parametrize(
    ("figures", "enough", "taken", "says"),
    [
        # The cheapest that is shown to be good enough.
        (
            {"bulk": (95, 100, "0.001"), "second": (97, 100, "0.002"), "frontier": (99, 100, "0.01")},
            "0.85",
            "bulk",
            "the cheapest of 3 that reach 0.85 on 'sums': 95.0% of 100 right (88.8 to 97.8), $0.001000 an item",
        ),
        (
            {"bulk": (85, 100, "0.001"), "second": (97, 100, "0.002"), "frontier": (99, 100, "0.01")},
            "0.85",
            "second",
            "the cheapest of 2",
        ),
        # Too few items show nothing.
        ({"bulk": (5, 5, "0.001"), "frontier": (96, 100, "0.01")}, "0.85", "frontier", "the cheapest of 1"),
        (
            {"bulk": (5, 5, "0.001"), "second": (9, 9, "0.002")},
            "0.85",
            "frontier",
            "none of 2 is shown to reach 0.85",
        ),
        # Ties: the more accurate of equally cheap ones, then the first; an unknown cost is the dearest.
        ({"bulk": (95, 100, "0.001"), "second": (96, 100, "0.001")}, "0.85", "second", "the cheapest of 2"),
        ({"bulk": (95, 100, "0.001"), "second": (95, 100, "0.001")}, "0.85", "bulk", "the cheapest of 2"),
        ({"bulk": (95, 100, None), "second": (95, 100, "5")}, "0.85", "second", "the cheapest of 2"),
        # Without `enough`, the most accurate; of equally accurate ones the cheaper, then the first.
        ({"bulk": (95, 100, "0.001"), "frontier": (96, 100, "0.01")}, None, "frontier", "the most accurate of 2"),
        ({"bulk": (9, 9, "0.001"), "frontier": (90, 100, "0.01")}, None, "frontier", "the most accurate of 2"),
        ({"second": (95, 100, "0.001"), "frontier": (95, 100, "0.01")}, None, "second", "the most accurate of 2"),
        ({"bulk": (95, 100, None), "frontier": (95, 100, None)}, None, "bulk", "the most accurate of 2"),
    ],
)
def test_figures_on_the_label_choose_the_route(
    fusion: Any, learn: Any, figures: dict[str, Any], enough: str | None, taken: str, says: str
) -> None:
    learn("sums", **figures)
    options = LABELLED if enough is None else f"{LABELLED}\n    enough: {enough}"
    result, reason, _ = routed(fusion, options)
    assert result.text == taken
    assert says in reason
    assert "(rule 1: matches sum)" in reason


@pytest.mark.parametrize(
    ("options", "prompt", "taken", "says"),
    [
        (LABELLED, "a poem", "second", "rule 2: matches poem"),
        (LABELLED, MATH, "bulk", "on 'math'"),
        (LABELLED, "hello", "frontier", "the default: the text has no label"),
        ("examples: [{text: add these up, label: sums}]", "please add up", "second", "example 1 is the nearest"),
        ("examples: [{text: add these up, use: middle}]", "please add up", "second", "example 1 is the nearest"),
        ("examples: [{text: add these up, label: sums}]", "hello", "frontier", "the default: the text has no label"),
        ("rules: [{longer: 3, label: other}]", "hello", "frontier", "no route has learned figures of 'other'"),
        ("rules: [{when: \"'x' in inputs.task\", label: sums}]", "x and y", "second", "on 'sums'"),
    ],
)
def test_the_label_comes_from_rules_examples_or_the_words(
    fusion: Any, learn: Any, options: str, prompt: str, taken: str, says: str
) -> None:
    learn("sums", second=(95, 100, "1"))
    learn("math", bulk=(95, 100, "1"))
    result, reason, _ = routed(fusion, options, prompt)
    assert (result.text, says in reason) == (taken, True), reason


def test_without_figures_the_default_is_taken_with_a_note_of_what_to_run(fusion: Any, learn: Any) -> None:
    result, _, notes = routed(fusion, LABELLED)
    assert result.text == "frontier"
    note = next(one for one in notes if "no learned figures of 'sums'" in one)
    assert "the default route is taken" in note
    assert "`fusion bench ITEMS -m scripted/bulk -m scripted/second -m scripted/frontier` measures them" in note


def test_a_route_without_figures_is_named_and_the_others_decide(fusion: Any, learn: Any) -> None:
    learn("sums", bulk=(90, 100, "1"))
    result, _, notes = routed(fusion, LABELLED)
    assert result.text == "bulk"
    assert any("for scripted/second, scripted/frontier: the others decide" in one for one in notes)


def test_items_are_routed_by_their_labels_and_a_note_comes_once(fusion: Any, learn: Any) -> None:
    learn("sums", bulk=(90, 100, "1"))
    text = ROUTE.replace("    kind: route", "    kind: route\n    over: inputs.task.split(',')") % LABELLED
    text = text.replace("task: what is wanted", "task: {material: false}").replace("output: way", "output: way.items")
    made = fusion({"bulk": "bulk", "second": "second", "frontier": "frontier"})
    result, events = run(made, "a sum,a poem,the sum,hello,hi", pipeline=pipeline(text))
    assert [item.value for item in result.items] == ["bulk", "second", "bulk", "frontier", "frontier"]
    assert "on 'sums'" in result.items[0].reason
    notes = [one.message for one in events if isinstance(one, Noted)]
    assert sum("has no label" in one for one in notes) == 1


def test_inner_stages_of_one_role_are_chosen_by_its_model(fusion: Any, learn: Any) -> None:
    learn("sums", bulk=(90, 100, "1"), frontier=(80, 100, "2"))
    text = (ROUTE % LABELLED).replace("cheap: bulk", "cheap: {kind: generate, role: bulk, prompt: Say it.}")
    result, _ = run(fusion({"bulk": "from within", "second": "2", "frontier": "3"}), "a sum", pipeline=pipeline(text))
    assert result.text == "from within"


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("routes: {a: bulk}, default: a, by: capabilities", "by"),
        (
            "routes: {a: bulk}, default: a, rules: [{longer: 1, label: x}]",
            "`label` has an effect with `by: capability`",
        ),
        ("routes: {a: bulk}, default: a, rules: [{longer: 1, use: a}], enough: 0.9", "`enough` has an effect with"),
        ("routes: {a: bulk}, default: a, by: capability, classifier: bulk", "both choose if no rule holds"),
        ("routes: {a: bulk}, default: a, by: capability, rules: [{longer: 1}]", "give `use`"),
        ("routes: {a: bulk}, default: a, by: capability, rules: [{longer: 1, use: a, label: x}]", "give `use`"),
        ("routes: {a: bulk}, default: a, by: capability, enough: 1.5", "enough"),
        (
            "routes: {a: bulk}, default: a, by: capability, rules: [{when: learned.sums.bulk.acuracy > 1, use: a}]",
            "no figure 'acuracy'; did you mean 'accuracy'?",
        ),
        (
            "routes: {a: {kind: cascade, tiers: [x, y], accept: {judge: z}}}, default: a, by: capability",
            "chooses among routes of one role each",
        ),
    ],
)
def test_what_is_wrong_is_said_at_validation(fusion: Any, stage: str, says: str) -> None:
    text = f"inputs: {{task: {{}}}}\nstages: {{way: {{kind: route, {stage}}}}}\noutput: way"
    with pytest.raises(PipelineError) as error:
        fusion({"bulk": "x"}).complete("x", pipeline=pipeline(text))
    assert says in str(error.value)


# Conditions that read learned figures.

WHEN = """
inputs: {task: what is wanted}
stages:
  answer: {kind: generate, role: [{when: %s, use: bulk}, {use: frontier}], prompt: "{{ request }}"}
output: answer
"""


@pytest.mark.parametrize(
    ("when", "taken"),
    [
        ("learned.sums.bulk.accuracy >= 0.9", "bulk"),
        ("learned.sums.bulk.accuracy >= 0.91", "frontier"),
        ("learned.sums.bulk.low > learned.sums.frontier.high", "frontier"),
        ("\"learned['long-sums'].bulk.n >= 10\"", "bulk"),
        ("learned.items.bulk.usd < 0.01", "bulk"),
        ("learned.unknown.bulk.accuracy > 0.1", "frontier"),
        ("learned.unknown.bulk.accuracy <= 0.1", "frontier"),
        ("learned.unknown.bulk.n == 0", "bulk"),
        ("learned.sums.frontier.usd < 1000", "frontier"),
        ("learned.sums.bulk.seconds < 1", "frontier"),
    ],
)
def test_a_role_is_chosen_by_a_condition_on_learned_figures(fusion: Any, learn: Any, when: str, taken: str) -> None:
    learn("sums", bulk=(90, 100, "0.001"), frontier=(95, 100, None))
    learn("long-sums", bulk=(10, 10, "0.001"))
    learn("items", bulk=(10, 10, "0.001"))
    made = fusion({"bulk": "bulk", "frontier": "frontier"})
    result, events = run(made, "x", pipeline=pipeline(WHEN % when))
    assert result.text == taken
    notes = " ".join(one.message for one in events if isinstance(one, Noted))
    assert ("no learned figures of 'unknown' for bulk (scripted/bulk)" in notes) == ("unknown" in when)
    assert ("learned figures of 'sums' for bulk (scripted/bulk): 90.0% of 100 right" in notes) == (
        "sums.bulk" in when
    )


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("learned.sums.blk.accuracy > 0.9", "no role 'blk'; did you mean 'bulk'?"),
        ("learned.sums.bulk.acc > 0.9", "no figure 'acc'"),
        ("\"learned['sums'].bulk.cost > 0.9\"", "no figure 'cost'"),
    ],
)
def test_a_wrong_name_in_a_condition_is_said_at_validation(fusion: Any, when: str, says: str) -> None:
    with pytest.raises(PipelineError) as error:
        fusion({"bulk": "b", "frontier": "f"}).complete("x", pipeline=pipeline(WHEN % when))
    assert says in str(error.value)


def test_a_stage_named_learned_is_read_as_before(fusion: Any, learn: Any) -> None:
    text = """
inputs: {task: what is wanted}
stages:
  learned: {kind: generate, role: bulk, prompt: "{{ request }}", schema: {sums: integer}}
  answer: {kind: generate, role: [{when: learned.data.sums > 3, use: bulk2}, {use: frontier}], prompt: Go.}
output: answer
"""
    made = fusion({"bulk": {"sums": 4}, "bulk2": "more", "frontier": "less"})
    result, _ = run(made, "x", pipeline=pipeline(text))
    assert result.text == "more"


def test_other_stages_are_skipped_by_learned_figures(fusion: Any, learn: Any) -> None:
    text = """
inputs: {task: what is wanted}
stages:
  draft: {kind: generate, role: bulk, prompt: "{{ request }}"}
  better: {kind: generate, role: frontier, prompt: "{{ draft }}", when: learned.sums.bulk.low < 0.9, default: none}
output: {draft: draft, better: better}
"""
    learn("sums", bulk=(100, 100, "1"))
    made = fusion({"bulk": "draft", "frontier": "better"})
    assert run(made, "x", pipeline=pipeline(text))[0].data == {"draft": "draft", "better": "none"}
    learn("sums", bulk=(50, 101, "1"))
    assert run(made, "x", pipeline=pipeline(text))[0].data == {"draft": "draft", "better": "better"}


# Runs that go on.


@pytest.mark.parametrize(
    "text",
    [
        ROUTE % LABELLED,
        ROUTE % f"{LABELLED}\n    enough: 0.8",
        WHEN % "learned.sums.bulk.accuracy >= 0.9",
        (ROUTE % LABELLED)
        .replace("    kind: route", "    kind: route\n    over: '[request]'")
        .replace("output: way", "output: way.items"),
        (ROUTE % "rules: [{when: learned.sums.bulk.n < 150, use: cheap}]"),
    ],
)
def test_a_resumed_run_keeps_the_figures_that_it_began_with(
    fusion: Any, learn: Any, text: str, tmp_path: Path
) -> None:
    learn("sums", bulk=(90, 100, "0.001"), frontier=(80, 100, "1"))
    refused = [True]

    def bulk(request: Any) -> Any:
        return ContentFilterError("no", model="scripted/bulk") if refused[0] else "bulk"

    made = fusion({"bulk": bulk, "second": "second", "frontier": "frontier"}, store=tmp_path / "runs.db")
    first, _ = run(made, "a sum", pipeline=pipeline(text))
    assert first.status == "failed"
    refused[0] = False
    learn("sums", bulk=(0, 200, "0.001"), frontier=(200, 200, "0.0001"))
    assert made.resume(first.run_id).text.strip('[]"') == "bulk"
    assert run(made, "a sum", pipeline=pipeline(text))[0].text.strip('[]"') == "frontier"


def test_rows_of_a_map_are_not_run_again_because_figures_changed(fusion: Any, learn: Any, tmp_path: Path) -> None:
    learn("sums", bulk=(90, 100, "0.001"), frontier=(80, 100, "1"))
    made = fusion({"bulk": "bulk", "second": "second", "frontier": "frontier"}, store=tmp_path / "runs.db")
    given: dict[str, Any] = {"pipeline": pipeline(ROUTE % LABELLED), "id": "rows"}
    before = [one.text for one in made.map([{"task": "a sum"}, {"task": "the sum"}], **given)]
    learn("sums", bulk=(0, 200, "0.001"), frontier=(200, 200, "0.0001"))
    rows = made.map([{"task": "a sum"}, {"task": "the sum"}, {"task": "sum it"}], **given)
    assert before == ["bulk", "bulk"]
    assert [one.text for one in rows] == ["bulk", "bulk", "frontier"]


def test_a_damaged_file_is_said_before_any_call_and_concerns_no_other_pipeline(
    fusion: Any, learn: Any, tmp_path: Path
) -> None:
    (tmp_path / "learned.json").write_text("{")
    made = fusion({"bulk": "bulk", "second": "second", "frontier": "frontier"})
    with pytest.raises(UsageError, match="is damaged"):
        made.complete("a sum", pipeline=pipeline(ROUTE % LABELLED))
    plain = WHEN % "request"
    assert made.complete("x", pipeline=pipeline(plain)).text == "bulk"


def test_a_quote_and_a_preview_follow_the_figures(fusion: Any, learn: Any) -> None:
    learn("sums", bulk=(90, 100, "0.001"), frontier=(80, 100, "1"))
    made = fusion({"bulk": "bulk", "second": "second", "frontier": "frontier"})
    shown = made.preview("a sum", pipeline=pipeline(ROUTE % LABELLED))
    assert [call.role for stage in shown.stages for call in stage.calls] == ["bulk"]
    assert made.quote("a sum", pipeline=pipeline(ROUTE % LABELLED)).calls.likely == 1


def test_figures_of_a_search_are_kept_by_one_call(fusion: Any, learn: Any) -> None:
    made = fusion({"bulk": "bulk", "second": "second", "frontier": "frontier"})
    answers = {"scripted/second": {f"q{n}": Answered(1.0, Decimal("0.1")) for n in range(50)}}
    assert keep_answers(made.settings, {"sums": answers}, run="search") == ""
    result, _ = run(made, "a sum", pipeline=pipeline(ROUTE % LABELLED))
    assert result.text == "second"
