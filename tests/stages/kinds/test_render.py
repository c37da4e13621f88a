"""render: texts, tables, sums and JSON out of what others made, without a model."""

import json
from typing import Any

import pytest

from tests.conftest import pipeline, run

RENDER = """
inputs: {rows: {default: []}}
stages:
  work:
    kind: map
    over: inputs.rows
    schema: {name: string, euros: number}
    prompt: "{{ item.source | json }}"
    min_ok: 0
  it:
    kind: render
    template: %s%s
output: %s
"""
ROWS = [{"name": "a|b", "euros": 0.1}, {"name": "c", "euros": 0.2}]


def rendered(fusion: Any, template: str, *, rows: Any = ROWS, options: str = "", output: str = "it") -> Any:
    text = RENDER % (json.dumps(template), f"\n    {options}" if options else "", output)
    result, _ = run(fusion({"bulk": _echo}), None, pipeline=pipeline(text), inputs={"rows": rows})
    return result


def _echo(request: Any) -> str:
    return str(request.messages[-1].content.split("\n")[0])


def test_sums_of_money_are_exact(fusion: Any) -> None:
    result = rendered(
        fusion, "{{ work | sum(attribute='value.euros') }} {{ work | sum(attribute='value.euros') | decimals }}"
    )
    assert result.text == "0.3 0.30"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("[1, 2] | sum", "3"),
        ("[] | sum", "0"),
        ("[0.1] * 3 | sum", "0.3"),
        ("['12.50', ' 7 '] | sum", "19.5"),
        ("[1180.50, 640, 2315.75, 498.20] | sum", "4634.45"),
        ("[[1], [2, 3]] | sum(start=[])", "[1, 2, 3]"),
        ("2.005 | decimals(2)", "2.01"),
        ("'7' | decimals(0)", "7"),
        ("[{'a': 1}, {'b': 2}] | table", "| a | b |\n| --- | --- |\n| 1 |  |\n|  | 2 |"),
        ("[{'a': 'x\\ny', 'b': 2}] | table(columns=['b', 'a'])", "| b | a |\n| --- | --- |\n| 2 | x y |"),
    ],
)
def test_filters(fusion: Any, expression: str, value: str) -> None:
    expression = expression.replace("[0.1] * 3 | sum", "([0.1] * 3) | sum")
    assert rendered(fusion, "{{ work[:0] | join }}{{ " + expression + " }}").text == value


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("['n/a'] | sum", "sum takes numbers such as 1180.5, not 'n/a'"),
        ("['1,180.50'] | sum", "not '1,180.50'"),
        ("[none] | sum", "not None"),
        ("[true] | sum", "not True"),
        ("['1e999999'] | sum", "sum takes numbers"),
        ("[[1], 2] | sum(start=[])", "joins lists, not 2"),
        ("[1] | table", "rows with named fields, not 1"),
        ("1 | decimals(99)", "0 to 20 places"),
    ],
)
def test_what_is_no_number_or_row_is_said(fusion: Any, expression: str, says: str) -> None:
    result = rendered(fusion, "{{ work[:0] | join }}{{ " + expression + " }}")
    assert (result.status, result.error.reason) == ("failed", "PromptError")
    assert says in result.error.message


def test_a_table_of_items(fusion: Any) -> None:
    result = rendered(fusion, "{{ work | table }}")
    assert result.text == "| name | euros |\n| --- | --- |\n| a\\|b | 0.1 |\n| c | 0.2 |"


def test_a_failed_item_is_there_and_never_counted_as_nothing(fusion: Any) -> None:
    rows = [*ROWS, "no record"]
    whole = rendered(fusion, "{{ work | sum(attribute='value.euros') }}", rows=rows)
    assert whole.status == "failed"
    usable = rendered(
        fusion,
        "{{ work | selectattr('ok') | sum(attribute='value.euros') }} {{ work | rejectattr('ok') | list | length }}",
        rows=rows,
    )
    assert (usable.status, usable.text) == ("partial", "0.3 1")


def test_json_becomes_data(fusion: Any) -> None:
    names, total = "work | map(attribute='value.name') | list", "work | sum(attribute='value.euros')"
    template = f"{{{{ {{'names': {names}, 'total': {total}}} | json }}}}"
    for options in ("parse: json", 'schema: {names: "list[string]", total: number}'):
        result = rendered(fusion, template, options=options)
        assert result.data == {"names": ["a|b", "c"], "total": 0.3}
    assert rendered(fusion, template, options="parse: json", output="it.data.total").data == 0.3


@pytest.mark.parametrize(
    ("template", "options", "says"),
    [
        ("{{ work | length }}}", "parse: json", "the rendered text is not JSON: Extra data"),
        ("{{ work[:0] | join }}NaN", "parse: json", "NaN is not JSON"),
        (
            '{{ work[:0] | join }}{"a": "x"}',
            "schema: {a: number}",
            "does not match the schema: $.a: expected number",
        ),
        ("{% message %}{{ work }}{% endmessage %}", "", "message blocks are not allowed in a text"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(fusion: Any, template: str, options: str, says: str) -> None:
    result = rendered(fusion, template, options=options)
    assert result.status == "failed"
    assert says in result.error.message


def test_data_that_is_never_made_is_a_mistake_of_the_pipeline(fusion: Any) -> None:
    with pytest.raises(Exception, match=r"'it\.data' is empty"):
        rendered(fusion, "{{ work }}", output="it.data")
    with pytest.raises(Exception, match="leave `parse` out"):
        rendered(fusion, "{{ work }}", options="parse: text\n    schema: {a: number}")
