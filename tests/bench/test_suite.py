"""Suites: what a file says, and every mistake in it at its place."""

import jsonschema
import pytest

from fusion.bench.report.gate import Gate
from fusion.bench.suite import Suite, json_schema
from fusion.core.errors import PipelineError
from fusion.core.yaml import read_yaml

WHOLE = """\
name: recorded
tasks:
  gsm8k: {file: gsm8k.jsonl, prompt: question, gold: answer, sample: 100}
  crux:
    file: crux.jsonl
    id: id
    prompt: "{{ code }} on {{ input }}"
    gold: [output]
scorer:
  gsm8k: number
  crux: {by: code, path: answer}
arms:
  cheap: {model: openai/gpt-4o-mini}
  mine: {pipeline: agree-or-escalate, roles: {bulk: openai/gpt-4o-mini}}
  theirs: {outputs: theirs.jsonl}
  python: {python: my.module:answer}
baselines: [singles, oracle]
epochs: 2
seeds: [0, 1]
margin: 0.005
budget: {usd: 3}
gate: accuracy >= best_single - 0.5pp and cost <= 0.5*best_single
"""


def test_a_gate_of_many_terms_is_read() -> None:
    terms = "+".join(["0"] * 900)
    suite = Suite.from_yaml(WHOLE.replace("accuracy >= best_single - 0.5pp", f"accuracy >= best_single + {terms}"))
    assert suite.gate is not None
    gate = Gate(suite.gate)
    assert gate.judge("mine", {"mine": {"accuracy": 1, "cost": 1}, "best_single": {"accuracy": 1, "cost": 2}}).passed


def test_a_suite_is_read() -> None:
    suite = Suite.from_yaml(WHOLE)
    assert suite.name == "recorded"
    assert suite.scoring("gsm8k").by == "number"
    assert suite.scoring("crux").path == "answer"
    assert suite.tasks["crux"].golds == ("output",)
    assert suite.arms["mine"].roles == {"bulk": "openai/gpt-4o-mini"}
    assert (suite.on, suite.split.dev, suite.resamples) == ("test", 0.5, 10_000)
    assert Suite.model_validate(suite.model_dump()) == suite


def test_the_schema_takes_what_is_read() -> None:
    jsonschema.validate(read_yaml(WHOLE, file="x")[0], json_schema())
    short = "tasks: {a: {file: a.csv}}\nscorer: exact\narms: {a: {model: x/y}}\n"
    jsonschema.validate(read_yaml(short, file="x")[0], json_schema())
    assert Suite.from_yaml(short).scoring("a").by == "exact"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"tasks": {}}, json_schema())


def test_every_mistake_is_told_at_its_place() -> None:
    text = """\
tasks:
  a: {file: a.csv, prmpt: question, sample: 0}
scorer: {a: exact, b: exact}
arms:
  one: {model: x/y, pipeline: z}
  two: {python: nothing}
  three: {}
  four: {model: x/y, roles: {bulk: x/y}}
epochs: true
margin: -1
gate: accuracy => 1
budgt: {usd: 1}
"""
    with pytest.raises(PipelineError) as caught:
        Suite.from_yaml(text, file="s.yaml")
    assert str(caught.value).splitlines() == [
        "s.yaml:2:20 tasks.a.prmpt: unknown key 'prmpt'; did you mean 'prompt'?",
        "s.yaml:2:45 tasks.a.sample: expected at least 1, got 0",
        "s.yaml:5:8 arms.one: an arm is one of pipeline, model, python and outputs; it has pipeline and model",
        "s.yaml:6:17 arms.two.python: invalid function 'nothing'; write it as module:function",
        "s.yaml:7:10 arms.three: an arm is one of pipeline, model, python and outputs; it has none",
        "s.yaml:8:9 arms.four: `profile` and `roles` have an effect with a pipeline only",
        "s.yaml:10:9 margin: expected at least 0, got -1",
        "s.yaml:11:7 gate: gate 'accuracy => 1': cannot read '=> 1'",
        "s.yaml:12:1 budgt: unknown key 'budgt'; did you mean 'budget'?",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("  crux: {by: code, path: answer}\n", ""), "no scorer for the task set 'crux'"),
        (("  gsm8k: number\n", "  gsm8k: number\n  more: exact\n"), "a scorer for 'more', which is not a task set"),
        (("epochs: 2", "epochs: true"), "epochs: expected a number, got true"),
        (("baselines: [singles, oracle]", "baselines: [judge]"), "baselines.0: expected 'singles'"),
        (("epochs: 2", "confirm: more.jsonl"), "`confirm` is one file, and there are several task sets"),
        (("epochs: 2", "confirm: {gsm: more.jsonl}"), "`confirm` has a file for 'gsm', which is not a task set"),
        (("epochs: 2", "confirm: {}"), "confirm: expected 1 or more entries, got 0"),
        (
            ("epochs: 2", "confirm: {gsm8k: a, crux: b}\nsplit: {dev: 0.3}"),
            "`split.dev` has no effect with `confirm`",
        ),
        (("epochs: 2", "confirm: {gsm8k: a, crux: b}\nsplit: {column: c}"), "`split.column` has no effect with"),
        (("epochs: 2", "split: {dev: 0.3, column: side}"), "`dev` has no effect with `column`"),
        (("epochs: 2", "split: {column: ''}"), "split.column: expected text of at least 1 characters"),
    ],
)
def test_what_does_not_fit_together_is_told(change: tuple[str, str], words: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Suite.from_yaml(WHOLE.replace(*change))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("", "the file is empty"), ("- a", "expected a mapping"), ("a: [", "not YAML")]
)
def test_a_file_of_another_form_is_refused(text: str, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        Suite.from_yaml(text)


@pytest.mark.parametrize("given", ["0.5%", "5 %", "0.01", "2", "1e-3"])
def test_a_tolerance_of_numbers_is_read_and_counts(given: str) -> None:
    text = (
        "tasks: {sums: {file: sums.jsonl}}\n"
        f"scorer: {{by: number, tolerance: {given}}}\narms: {{a: {{model: scripted/cheap}}}}\n"
    )
    scoring = Suite.from_yaml(text).scoring("sums")
    assert str(scoring.tolerance) in (given, str(float(given.rstrip(" %"))))


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("{by: number, tolerance: 0}", "expected a share such as 0.5%, or an amount such as 0.01"),
        ("{by: number, tolerance: 200%}", "above 0 and below 100%; got '200%'"),
        ("{by: number, tolerance: true}", "got True"),
        ("{by: exact, tolerance: 1%}", "`tolerance` has an effect with `by: number` only"),
        ("{by: judge, model: a/b, tolerance: 1%}", "`tolerance` has an effect with `by: number` only"),
    ],
)
def test_a_tolerance_that_cannot_be_is_named_with_its_line(scorer: str, words: str) -> None:
    text = f"tasks: {{sums: {{file: sums.jsonl}}}}\nscorer: {scorer}\narms: {{a: {{model: scripted/cheap}}}}\n"
    with pytest.raises(PipelineError, match=r":2:\d+ scorer") as caught:
        Suite.from_yaml(text)
    assert words in str(caught.value)
