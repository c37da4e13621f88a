"""route: which way is taken and why, and what each kind of way gives."""

from pathlib import Path
from typing import Any

import pytest

from fusion import PipelineError, ScriptedModel
from fusion.core.errors import AuthenticationError
from fusion.core.events import Decided
from fusion.stages.text.classify import capabilities, language, nearest
from tests.conftest import frontier, pipeline, run, said

ROUTE = """
inputs: {task: {}}
stages: {way: {kind: route, routes: {easy: bulk, hard: frontier}, default: easy, %s}}
output: way
"""


def routed(fusion: Any, options: str, prompt: str = "do it", *, text: str = ROUTE, **models: Any) -> Any:
    """Result, decision and events of one route."""
    roles = {"bulk": "by bulk", "frontier": "by frontier", **models}
    result, events = run(fusion(roles), prompt, pipeline=pipeline(text % options if "%s" in text else text))
    return result, next((event for event in events if isinstance(event, Decided)), None)


@pytest.mark.parametrize(
    ("rule", "prompt", "holds"),
    [
        ("longer: 10", "a" * 11, True),
        ("longer: 10", "a" * 10, False),
        ("shorter: 10", "a" * 9, True),
        ("shorter: 10", "a" * 10, False),
        ('matches: "(?i)\\\\bprove\\\\b"', "Prove it.", True),
        ('matches: "(?i)\\\\bprove\\\\b"', "Improve it.", False),
        ("language: [de, fr]", "Wie viele Eier legt die Ente in der Woche?", True),
        ("language: de", "How many eggs does the duck lay in a week?", False),
        ("capability: math", "Solve the equation for x.", True),
        ("capability: code", "Solve the equation for x.", False),
        ("when: \"'!' in inputs.task\"", "Do it!", True),
        ("when: \"'!' in inputs.task\"", "Do it.", False),
        ("longer: 3, shorter: 6", "abcd", True),
        ("longer: 3, shorter: 6", "abcdef", False),
    ],
)
def test_a_rule_holds_where_all_that_it_says_does(fusion: Any, rule: str, prompt: str, holds: bool) -> None:
    result, decision = routed(fusion, f"rules: [{{{rule}, use: hard}}]", prompt)
    assert result.text == ("by frontier" if holds else "by bulk")
    assert decision.decision == ("hard" if holds else "easy")
    assert decision.reason.startswith("rule 1: " if holds else "the default: no rule holds")


def test_the_first_rule_that_holds_counts(fusion: Any) -> None:
    rules = "rules: [{longer: 100, use: hard}, {longer: 2, use: easy}, {longer: 1, use: hard}]"
    _, decision = routed(fusion, rules)
    assert (decision.decision, decision.reason) == ("easy", "rule 2: longer 2")


def test_another_text_than_the_request_can_be_looked_at(fusion: Any) -> None:
    result, _ = routed(fusion, "text: 'inputs.task[:2]', rules: [{longer: 2, use: hard}]")
    assert result.text == "by bulk"


def test_a_classifier_chooses_one_of_the_routes_and_no_other(fusion: Any) -> None:
    judge = ScriptedModel({"route": "hard"}, name="scripted/judge")
    result, decision = routed(fusion, "classifier: judge, meaning: {hard: proofs}", judge=judge)
    assert result.text == "by frontier"
    assert (decision.decision, decision.reason) == ("hard", "'scripted/judge' chose it")
    (request,) = judge.requests
    assert request.json_schema["properties"]["route"]["enum"] == ["easy", "hard"]
    assert request.key.step == "classify"
    assert "- hard: proofs" in said(request)
    assert "<request " in said(request)


def test_a_classifier_that_fails_leaves_the_default_and_that_is_said(fusion: Any) -> None:
    for script in ("hard, I think", {"route": "harder"}):
        result, decision = routed(fusion, "classifier: judge", judge=script)
        assert result.text == "by bulk"
        assert decision.reason.startswith("the default: the classifier named no route")
    result, _ = routed(fusion, "classifier: judge", judge=AuthenticationError("wrong key", model="judge"))
    assert "wrong key" in result.error.message


def test_rules_come_before_the_classifier(fusion: Any) -> None:
    judge = ScriptedModel({"route": "easy"}, name="scripted/judge")
    result, _ = routed(fusion, "rules: [{longer: 2, use: hard}], classifier: judge", judge=judge)
    assert (result.text, judge.requests) == ("by frontier", [])


EXAMPLES = (
    """examples: [{text: "translate this letter into French", use: easy}, {text: "prove this theorem", use: hard}]"""
)


def test_the_nearest_example_by_words_says_which(fusion: Any) -> None:
    _, decision = routed(fusion, EXAMPLES, "Please prove the theorem of Fermat")
    assert decision.decision == "hard"
    assert decision.reason.startswith("example 2 is the nearest, with 0.")
    _, decision = routed(fusion, EXAMPLES.replace("easy", "hard"), "cook soup")
    assert decision.decision == "easy"
    assert "and 0.1 is needed" in decision.reason


def test_a_way_can_be_a_stage_of_its_own_or_a_pipeline(fusion: Any) -> None:
    text = """
    inputs: {task: {}}
    stages:
      first: {kind: generate, role: bulk, prompt: "first {{ inputs.task }}"}
      way:
        kind: route
        routes:
          list: {kind: map, over: "[1, 2]", role: bulk, prompt: "do {{ item.source }} with {{ first }}"}
          data: {kind: generate, role: bulk, schema: {n: integer}}
          plan: {kind: pipeline, pipeline: plan-execute-review}
        rules: [{matches: list, use: list}, {matches: data, use: data}]
        default: plan
    output: %s
    """

    def bulk(request: Any) -> Any:
        return {"n": 1} if request.json_schema else f"<{said(request)}>"

    result, decision = routed(fusion, "way", "a list", text=text, bulk=bulk)
    assert result.text == "<do 1 with <first a list>>\n\n<do 2 with <first a list>>"
    assert decision.decision == "list"
    assert [item.value for item in result.stages["way/list"].items] == result.text.split("\n\n")
    assert "way/data" not in result.stages
    result, _ = routed(fusion, "way.data", "some data", text=text, bulk=bulk)
    assert result.data == {"n": 1}
    result, _ = routed(fusion, "way", "a bridge", text=text, bulk=bulk, frontier=frontier(2))
    assert result.text == "the answer"
    assert result.stages["way/plan/work"].status == "ok"
    assert {line.stage for line in result.receipt.lines} >= {"first", "way/plan/plan", "way/plan/work"}


def test_what_fails_in_a_way_fails_the_route_and_is_named_once(fusion: Any) -> None:
    from fusion.core.errors import ContentFilterError

    text = """
    inputs: {task: {}}
    stages:
      way: {kind: route, routes: {a: {kind: generate, role: bulk%s}}, rules: [{longer: 1, use: a}], default: a}
    output: way
    """
    for more, message in (("", "no"), (", on_error: skip", "there is no answer")):
        result, _ = routed(fusion, more, text=text, bulk=ContentFilterError("no", model="bulk"))
        assert message in result.error.message
        assert result.failed[0].stage == "way/a"
        assert len(result.failed) == 1


def test_a_way_keeps_its_own_budget(fusion: Any) -> None:
    text = """
    inputs: {task: {}}
    stages:
      way:
        kind: route
        routes: {a: {kind: map, over: "[1, 2, 3]", role: bulk, budget: {calls: 2}}}
        rules: [{longer: 1, use: a}]
        default: a
    output: way
    """
    result, _ = routed(fusion, "", text=text)
    assert "the calls limit of 'way/a'" in result.error.message


def test_where_the_route_is_skipped_its_default_is_no_value(fusion: Any) -> None:
    text = ROUTE.replace("output: way", "output: {way: way}").replace(
        "%s", "when: inputs.task == 'x', classifier: bulk"
    )
    result, _ = routed(fusion, "", text=text)
    assert result.status == "failed"
    assert "way was skipped" in result.error.message


def test_a_role_answers_in_a_shape(fusion: Any) -> None:
    text = ROUTE.replace("output: way", "output: way.data")
    result, _ = routed(fusion, "rules: [{longer: 1, use: easy}], schema: {n: integer}", text=text, bulk={"n": 3})
    assert result.data == {"n": 3}


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("routes: {a: bulk}, classifier: bulk", "the key 'default' is missing"),
        (
            "routes: {a: bulk}, default: a",
            "nothing decides the route; give `rules`",
        ),
        ("routes: {}, default: a, classifier: bulk", "expected 1 or more entries"),
        ("routes: {easy: bulk}, default: esy, classifier: bulk", "no route 'esy'; did you mean 'easy'?"),
        ("routes: {a: bulk}, default: a, rules: [{longer: 1, use: b}]", "no route 'b'"),
        ("routes: {a: bulk}, default: a, rules: [{use: a}]", "a rule without a condition always holds"),
        ('routes: {a: bulk}, default: a, rules: [{matches: "(", use: a}]', "invalid regular expression"),
        ("routes: {a: bulk}, default: a, classifier: bulk, examples: [{text: t, use: a}]", "give one of them"),
        ("routes: {a: bulk}, default: a, rules: [{longer: 1, use: a}], meaning: {a: x}", "with `classifier` only"),
        ("routes: {a: {kind: generat}}, default: a, classifier: bulk", "no kind 'generat'; did you mean 'generate'?"),
        ("routes: {a: {role: bulk}}, default: a, classifier: bulk", "the key 'kind' is missing"),
        (
            "routes: {a: {kind: generate, promt: x}}, default: a, classifier: bulk",
            "unknown key 'promt'; did",
        ),
        ("routes: {a: {kind: generate, when: x}}, default: a, classifier: bulk", "`when` of the route 'a'"),
        ('routes: {a: {kind: generate, prompt: "{{ nobdy }} x"}}, default: a, classifier: bulk', "variable 'nobdy'"),
        ("routes: {a: {kind: generate, prompt: no/such}}, default: a, classifier: bulk", "no template 'no/such'"),
        ("routes: {a: {kind: pipeline, pipeline: none}}, default: a, classifier: bulk", "no pipeline 'none'"),
        ("routes: {a: {kind: generate, schema: {n: intger}}}, default: a, classifier: bulk", "intger"),
    ],
)
def test_what_is_wrong_with_a_route_is_said_at_validation(fusion: Any, stage: str, says: str) -> None:
    text = f"inputs: {{task: {{}}}}\nstages: {{way: {{kind: route, {stage}}}}}\noutput: way"
    with pytest.raises(PipelineError) as error:
        fusion().complete("x", pipeline=pipeline(text))
    assert says in str(error.value)


def test_a_route_comes_back_from_yaml_as_it_was() -> None:
    text = ROUTE.replace("hard: frontier", "hard: {kind: generate, role: frontier}") % "classifier: bulk"
    once = pipeline(text)
    assert pipeline(once.to_yaml()) == once


def test_a_file_that_routes_to_itself_is_found(tmp_path: Path) -> None:
    from fusion.pipeline.loader import check_file
    from fusion.prompts.library import Library

    path = tmp_path / "a.yaml"
    path.write_text(ROUTE.replace("hard: frontier", "hard: {kind: pipeline, pipeline: a.yaml}") % "classifier: bulk")
    (problem,) = check_file(path, Library.standard()).problems
    assert "the pipeline includes itself: a -> a" in str(problem)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("How many eggs does the duck lay in a week?", "en"),
        ("Combien d'œufs la cane pond-elle par semaine, et pour qui sont-ils ?", "fr"),
        ("¿Cuántos huevos pone la pata en una semana?", "es"),
        ("Quante uova fa l'anatra in una settimana? Sono per la famiglia.", "it"),
        ("Hoeveel eieren legt de eend in een week?", "nl"),
        ("Сколько яиц несёт утка в неделю?", "ru"),
        ("鸭子一周下几个蛋？", "zh"),
        ("アヒルは一週間に卵をいくつ産みますか", "ja"),
        ("오리는 일주일에 알을 몇 개 낳습니까?", "ko"),
        ("12 + 30", None),
        ("", None),
        ("xyzzy plugh", None),
    ],
)
def test_languages_are_told_by_script_and_small_words(text: str, code: str | None) -> None:
    assert language(text) == code


def test_capabilities_are_told_by_signs() -> None:
    assert capabilities("```python\nprint(1)\n```") == {"code"}
    assert capabilities("def f(x):\n    return x") == {"code"}
    assert capabilities(r"Find $\frac{1}{2} + x^2$.") == {"math"}
    assert capabilities('Answer with JSON: {"a": 1}') == {"json"}
    assert capabilities("Write a poem about the sea.") == set()


def test_the_nearest_text_shares_the_rare_words() -> None:
    texts = ["the cat sat on the mat", "the dog sat on the log", "the cat ate the fish"]
    assert nearest("the fish of the cat", texts).at == 2
    assert nearest("the dog", texts).at == 1
    assert nearest("the cat sat on the mat", texts).similarity == pytest.approx(1)
    assert nearest("zebra", texts) == (0, 0.0)
