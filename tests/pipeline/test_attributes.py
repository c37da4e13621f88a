"""Attributes that do not exist: found by validate where the shape is known, else named at run time."""

from typing import Any

import pytest

from fusion import Fusion, Pipeline, ScriptedModel
from fusion.core.errors import ContentFilterError, InputError
from fusion.core.types import Request
from tests.conftest import run, said

PARTS = """
inputs: {{t: {{format: csv, description: rows}}, lines: {{default: ""}}, word: {{default: x}}}}
stages:
  read:
    {{kind: map, over: {over}, role: bulk, schema: {{supplier: string, total: {{net: number}}}}, prompt: '{read}'}}
  check: {{kind: review, over: read, role: bulk, criteria: right, prompt: '{check}'}}
  sum: {{kind: generate, role: bulk, schema: {{words: string}}, prompt: '{sum}'}}
output: {{a: '{output}', b: sum.data.words}}
"""
RIGHT = {
    "over": "inputs.t",
    "read": "{{ item.name }} {{ item.source }}",
    "check": "{{ item.value.supplier }} {{ item.value.total.net }} {{ item.source }}",
    "sum": "{{ check | length }} {{ inputs.word }}",
    "output": 'check | selectattr("ok") | map(attribute="value.total.net") | list',
}


def flaws(**parts: str) -> str:
    with Fusion(profile="local") as fusion:
        try:
            fusion.load(Pipeline.from_yaml(PARTS.format(**{**RIGHT, **parts}), file="test.yaml"))
        except Exception as error:
            return str(error)
    return ""


def test_what_is_right_is_right() -> None:
    assert flaws() == ""


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"check": "{{ item.value.suplier }} {{ item.source }}"}, "no field 'suplier'; did you mean 'supplier'?"),
        ({"check": "{{ item.value.total.gros }} {{ item.source }}"}, "no field 'gros'; there are: net"),
        ({"check": '{{ item["value"]["suplier"] }} {{ item.source }}'}, "no field 'suplier'"),
        ({"output": 'check | map(attribute="value.totl") | list'}, "no field 'totl'; did you mean 'total'?"),
        ({"output": 'check | selectattr("ok") | sum(attribute="value.total.nett")'}, "no field 'nett'"),
        ({"over": "inputs.lines.splitlines()", "read": "{{ item.sorce }}"}, "did you mean 'source'?"),
        ({"over": "inputs.lines.split()", "read": "{{ item.source }} {{ item.title }}"}, "no field 'title'"),
    ],
)
def test_validate_finds_what_no_producer_gives(parts: dict[str, str], says: str) -> None:
    assert says in flaws(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"check": "{% if item.value.suplier is defined %}x{% endif %} {{ item.source }}"},
        {"check": "{{ item.value.suplier | default('none') }} {{ item.source }}"},
        {"check": "{% for key, value in item.value.items() %}{{ key }}{% endfor %} {{ item.source }}"},
        {"over": "inputs.lines.splitlines()", "read": "{{ item.source.strip() }} {{ item.index }} {{ item.ok }}"},
        {"read": "{{ item.anything }}"},  # rows are not known before the run
    ],
)
def test_validate_leaves_alone_what_may_be_right(parts: dict[str, str]) -> None:
    parts = {key: value.replace("'none'", '"none"') for key, value in parts.items()}
    assert flaws(**parts) == ""


ROWS = """
inputs: {t: {format: csv, description: rows}}
stages:
  read: {kind: map, over: inputs.t, role: bulk, prompt: "PROMPT"}
output: read
"""


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("{{ item.sorce }}", "item.sorce: no row of 't' has a column 'sorce'; did you mean 'source'?"),
        ("{{ item.nam }}", "no row of 't' has a column 'nam'; did you mean 'name'?"),
        ("{{ item.source.nam }}", "no row of 't' has a column 'nam'; did you mean 'name'?"),
        ("{{ item['amout'] }}", "no row of 't' has a column 'amout'; did you mean 'amount'?"),
        ("{{ item.xyz }}", "no row of 't' has a column 'xyz'; there are: amount, "),
    ],
)
@pytest.mark.parametrize("rows", ["name,amount\na,1\nb,2\n", [{"name": "a"}, {"amount": 2}]])
def test_a_column_that_no_row_has_is_said_before_any_call(prompt: str, says: str, rows: Any) -> None:
    model = ScriptedModel("fine")
    with Fusion(model=model) as fusion, pytest.raises(InputError) as raised:
        fusion.complete(pipeline=Pipeline.from_yaml(ROWS.replace("PROMPT", prompt)), inputs={"t": rows})
    assert says in str(raised.value)
    assert model.requests == []


def test_a_column_that_some_rows_lack_fails_those_alone(fusion: Any) -> None:
    pipeline = Pipeline.from_yaml(ROWS.replace("PROMPT", "{{ item.name }}"))
    result, _ = run(fusion({"bulk": said}), None, pipeline=pipeline, inputs={"t": [{"name": "a"}, {"nam": "b"}]})
    failed = result.stages["read"].items[1].failure if result.stages["read"].items else None
    message = failed.message if failed is not None else result.error.message
    assert "an item has no field 'name'" in message


def torn(request: Request) -> Any:
    return ContentFilterError("no such thing") if "bad" in said(request) else '{"total": 5}'


@pytest.mark.parametrize(
    ("output", "wanted", "says"),
    [
        ('read | selectattr("value.total", "gt", 3) | list | length', "2", None),
        ('read | rejectattr("value.total", "gt", 3) | list | length', "0", None),
        ('read | selectattr("value.total") | map(attribute="value.total") | list', "[5, 5]", None),
        ('read | selectattr("ok") | map(attribute="value.total") | sum', "10", None),
        ('read | map(attribute="value.total") | list', "", "map: item 2 failed (ContentFilterError)"),
        ('read | sum(attribute="value.total")', "", "sum: item 2 failed (ContentFilterError)"),
        ('read | groupby("value.total") | list', "", "groupby: item 2 failed (ContentFilterError)"),
        ('(read | max(attribute="value.total")).value.total', "", "max: item 2 failed (ContentFilterError)"),
        ("read[1].value.total", "", "pass items that failed over with `selectattr"),
    ],
)
def test_a_failed_item_is_passed_over_or_named(fusion: Any, output: str, wanted: str, says: str | None) -> None:
    text = f"""
inputs: {{words: words}}
stages:
  read:
    kind: map
    over: inputs.words.split(',')
    role: bulk
    on_error: skip
    schema: {{total: number}}
    prompt: "{{{{ item.source }}}}"
output: '{output}'
"""
    result, _ = run(fusion({"bulk": torn}), "good,bad,good", pipeline=Pipeline.from_yaml(text))
    assert "has no attribute" not in f"{result.error} {result.text}"
    if says is None:
        assert (result.status, result.text) == ("partial", wanted)
    else:
        assert result.error is not None
        assert says in result.error.message
