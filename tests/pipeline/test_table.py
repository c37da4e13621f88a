"""A table as the output: rows of CSV or JSONL, their columns, and what is said of a wrong one."""

import csv
import io
import json
from typing import Any

import pytest

from fusion import FusionError, Pipeline, Price, ScriptedModel
from fusion.core.errors import ContentFilterError
from tests.conftest import pipeline, run, said

ROWS = """
inputs: {rows: {format: jsonl}, title: {default: Tickets}}
stages:
  sort: {kind: map, over: inputs.rows, role: a, prompt: "SORT {{ item.text }}"%s}
output: %s
"""
SCHEMA = ", schema: {team: [billing, sales], tags: 'list[string]', sure: number}"


def echo(request: Any) -> Any:
    words = said(request).partition("SORT ")[2]
    if words.startswith("lost"):
        return ContentFilterError("not this", model="a")
    return {"team": "billing", "tags": ["a", "b"], "sure": 0.5} if request.json_schema else words


def table(fusion: Any, output: str, texts: list[Any], *, schema: str = "", script: Any = echo) -> Any:
    rows = [text if isinstance(text, dict) else {"id": f"T{at}", "text": text} for at, text in enumerate(texts, 1)]
    model = ScriptedModel(script, name="scripted/a")
    return run(fusion({"a": model}), None, inputs={"rows": rows}, pipeline=pipeline(ROWS % (schema, output)))[0]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


# Cells.

TEXTS = [
    "plain",
    "one, two",
    'she said "no"',
    "two\nlines",
    "two\r\nlines",
    "tab\there",
    "åäö 日本語 🙂",
    "",
    " spaces ",
    "semicolon; and 'quotes'",
    "a\x0bb\u2028c",
    "trailing\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was(fusion: Any, text: str) -> None:
    output = "{format: csv, columns: {id: item.id, text: item.text}}"
    result = table(fusion, output, [text], script="ok")
    assert cells(result.text) == [["id", "text"], ["T1", text]]
    assert result.data == [{"id": "T1", "text": text}]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+49 30 1234", "'+49 30 1234"),
        ("-cmd", "'-cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-12.50", "-12.50"),
        ("+3", "+3"),
        ("-1,180.50", "-1,180.50"),
        ("1-2", "1-2"),
    ],
)
def test_a_text_that_may_be_a_formula_is_guarded_in_csv_alone(fusion: Any, text: str, cell: str) -> None:
    assert cells(table(fusion, "{format: csv, columns: [text]}", [text]).text)[1] == [cell]
    assert cells(table(fusion, "{format: csv, columns: [text], guard: false}", [text]).text)[1] == [text]
    lines = table(fusion, "{format: jsonl, columns: [text]}", [text])
    assert json.loads(lines.text) == {"text": text} == lines.data[0]


def test_the_header_is_guarded_and_quoted_too(fusion: Any) -> None:
    result = table(fusion, "{format: csv, columns: {'=id': item.id, 'a, b': item.text}}", ["x"])
    assert cells(result.text)[0] == ["'=id", "a, b"]
    assert result.data == [{"=id": "T1", "a, b": "x"}]


def test_numbers_lists_and_nothing_have_one_form(fusion: Any) -> None:
    columns = "{sure: item.value.sure, tags: item.value.tags, all: item.value, none: none, yes: item.ok, n: -3}"
    columns = columns.replace("n: -3", "n: '-3'")
    result = table(fusion, f"{{format: csv, columns: {columns}}}", ["x"], schema=SCHEMA)
    value = {"team": "billing", "tags": ["a", "b"], "sure": 0.5}
    assert cells(result.text)[1] == ["0.5", '["a", "b"]', json.dumps(value), "", "true", "-3"]
    assert result.data == [{"sure": 0.5, "tags": ["a", "b"], "all": value, "none": None, "yes": True, "n": -3}]


def test_money_is_a_number(fusion: Any) -> None:
    text = """
inputs: {rows: {format: jsonl}}
stages:
  sort: {kind: cascade, over: inputs.rows, tiers: [a, b], accept: {checks: {contains: '5'}}, prompt: "{{ item.id }}"}
output: {format: %s, columns: [id, tier, agreement, usd, cost, by]}
"""
    price = Price(input="0.001", output="0.001")
    model = ScriptedModel("5", name="scripted/a", price=price)
    rows = {"rows": [{"id": "T1", "text": "x"}]}
    made = fusion({"a": model, "b": "6"})
    result, _ = run(made, None, inputs=rows, pipeline=pipeline(text % "csv"))
    (row,) = result.data
    usd = float(result.items[0].usd)
    assert (row["tier"], row["agreement"], row["by"], row["usd"]) == (1, None, "scripted/a", usd)
    assert row["cost"] == {"usd": usd, "measured": 0, "estimated": usd, "unknown_calls": 0}
    assert float(cells(result.text)[1][3]) == usd
    lines, _ = run(made, None, inputs=rows, pipeline=pipeline(text % "jsonl"))
    assert json.loads(lines.text) == lines.data[0] == row


# Rows.


def test_rows_are_in_the_order_of_the_items_also_those_that_failed(fusion: Any) -> None:
    output = "{format: csv, columns: {id: item.id, team: item.value.team, failure: item.failure}}"
    result = table(fusion, output, ["x", "lost", "y"], schema=SCHEMA)
    assert cells(result.text) == [
        ["id", "team", "failure"],
        ["T1", "billing", ""],
        ["T2", "", "ContentFilterError: not this"],
        ["T3", "billing", ""],
    ]
    assert result.status == "partial"
    assert [item.ok for item in result.items] == [True, False, True]
    assert result.data[1] == {"id": "T2", "team": None, "failure": "ContentFilterError: not this"}


def test_fields_are_of_the_item_then_the_answer_then_the_row(fusion: Any) -> None:
    rows = [{"id": 1, "text": "x", "team": "old", "by": "a clerk"}, {"id": 2, "text": "y", "note": "=1"}]
    output = "{format: csv, columns: [index, id, team, by, note, failure]}"
    result = table(fusion, output, rows, schema=SCHEMA)
    assert cells(result.text)[1:] == [
        ["0", "1", "billing", "scripted/a", "", ""],
        ["1", "2", "billing", "scripted/a", "'=1", ""],
    ]


def test_the_rows_may_be_a_list_or_a_part_of_the_items(fusion: Any) -> None:
    output = "{format: csv, over: inputs.rows, columns: {id: item.id, n: sort | length, title: inputs.title}}"
    assert cells(table(fusion, output, ["x", "y"]).text)[1:] == [["T1", "2", "Tickets"], ["T2", "2", "Tickets"]]
    output = "{format: csv, over: \"sort | rejectattr('ok') | list\", columns: [id]}"
    assert table(fusion, output, ["x", "lost"]).data == [{"id": "T2"}]


def test_no_rows_are_a_header(fusion: Any) -> None:
    result = table(fusion, "{format: csv, columns: [id, team]}", [])
    assert (result.text, result.data) == ("id,team\n", [])
    assert table(fusion, "{format: jsonl, columns: [id]}", []).text == ""


def test_the_items_of_the_last_stage_are_the_rows(fusion: Any) -> None:
    text = """
inputs: {rows: {format: jsonl}}
stages:
  one: {kind: map, over: inputs.rows, role: a, prompt: "{{ item.text }}"}
  two: {kind: map, over: one, role: a, prompt: "again {{ item }}"}
  page: {kind: render, template: "{{ two | length }}"}
output: {format: csv, columns: {id: item.id, value: item.value, page: page}}
"""
    model = ScriptedModel(said, name="scripted/a")
    given = {"rows": [{"id": 1, "text": "x"}]}
    result, _ = run(fusion({"a": model}), None, inputs=given, pipeline=pipeline(text))
    assert result.data == [{"id": 1, "value": "again x", "page": "1"}]


def test_a_thousand_rows_are_written(fusion: Any) -> None:
    result = table(
        fusion, "{format: csv, columns: {id: item.id, text: item.value}}", [f"{n}, x" for n in range(1000)]
    )
    assert [row[1] for row in cells(result.text)[1:]] == [f"{n}, x" for n in range(1000)]


def test_a_pipeline_within_another_gives_its_table_as_text_and_data(fusion: Any, tmp_path: Any) -> None:
    inner = tmp_path / "inner.yaml"
    inner.write_text(ROWS % ("", "{format: csv, columns: [id]}"))
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        "inputs: {rows: {format: jsonl}}\nstages:\n  sorted: {kind: pipeline, pipeline: inner.yaml, "
        "inputs: {rows: inputs.rows}}\noutput: {text: sorted.text, n: sorted.data | length}\n"
    )
    made = fusion({"a": ScriptedModel(echo, name="scripted/a")})
    rows = [{"id": "T1", "text": "x"}]
    assert run(made, None, inputs={"rows": rows}, pipeline=outer)[0].data == {"text": "id\nT1\n", "n": 1}


# What is said of a wrong one.


@pytest.mark.parametrize(
    ("output", "place", "says"),
    [
        ("{format: csv}", "output", "the key 'columns' is missing"),
        ("{format: cvs, columns: [id]}", "output.format", "expected 'csv' or 'jsonl', got 'cvs'"),
        ("{format: csv, column: [id]}", "output.column", "unknown key 'column'; did you mean 'columns'?"),
        ("{format: csv, columns: []}", "output.columns", "1 or more"),
        ("{format: csv, columns: {}}", "output.columns", "1 or more"),
        ("{format: csv, columns: [id, id]}", "output.columns", "two columns are named 'id'"),
        ("{format: csv, columns: {id: item.id, 'id ': item.id}}", "output.columns", "two columns are named 'id'"),
        ("{format: csv, columns: {id: item.id, id: item.text}}", "output.columns.id", "id"),
        ("{format: csv, columns: [id, ' ']}", "output.columns", "a column has no name"),
        ("{format: csv, columns: {id: 5}}", "output.columns.id", "expected text, got 5"),
        ("{format: csv, columns: id}", "output", "columns"),
        ("{format: jsonl, columns: [id], guard: false}", "output", "`guard` has an effect with `format: csv` only"),
        ("{format: csv, columns: [id], over: sorr}", "output.over", "no stage 'sorr'; did you mean 'sort'?"),
        ("{format: csv, columns: [id], over: sort.itms}", "output.over", "no field 'itms'; did you mean 'items'?"),
        ("{format: csv, columns: [id], over: inputs}", "output.over", "is not a list"),
        (
            "{format: csv, columns: {id: itm.id}}",
            "output.columns.id",
            "no stage or variable 'itm'; did you mean 'item'?",
        ),
        ("{format: csv, columns: {id: item.id +}}", "output.columns.id", "expression"),
        ("{format: csv, columns: {team: item.value.teem}}", "output.columns.team", "did you mean 'team'?"),
        (
            "{format: csv, columns: {id: item.idd}}",
            "output.columns.id",
            "'rows' has a column 'idd'; did you mean 'id'?",
        ),
        ("{format: csv, columns: [id, teem]}", "", "no item has a field 'teem'; did you mean 'team'?"),
    ],
)
def test_a_mistake_is_named_with_its_place(fusion: Any, output: str, place: str, says: str) -> None:
    try:
        result = table(fusion, output, ["x"], schema=SCHEMA)
        words = f"{result.error.reason}: {result.error.message}"
    except FusionError as error:
        words = str(error)
    assert says in words
    assert place in words


def test_an_expression_that_fails_names_column_and_item(fusion: Any) -> None:
    result = table(fusion, "{format: csv, columns: {id: item.id, half: item.text | int / 0}}", ["x", "y"])
    assert result.status == "failed"
    assert "column 'half' of item 1" in result.error.message
    assert result.items


def test_a_value_that_is_no_list_is_refused(fusion: Any) -> None:
    result = table(fusion, "{format: csv, over: sort | length, columns: {id: item.id}}", ["x"])
    assert "is int, not a list" in result.error.message


def test_a_mapping_without_a_format_of_tables_stays_one_of_names(fusion: Any) -> None:
    result = table(fusion, "{format: sort, columns: sort | length}", ["x"])
    assert result.data == {"format": ["x"], "columns": 1}


@pytest.mark.parametrize(
    "output", ["{format: csv, columns: [id]}", "{format: jsonl, over: sort, columns: {a b: item.id}}"]
)
def test_a_table_is_written_back_as_it_was_read(output: str) -> None:
    read = pipeline(ROWS % ("", output))
    assert Pipeline.from_yaml(read.to_yaml(), file="test.yaml") == read
    assert Pipeline.from_data(read.to_data()) == read
