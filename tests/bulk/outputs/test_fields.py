"""Fields of answers, read off a pipeline before any run."""

from typing import Any

import pytest

from fusion.bulk.outputs import OutputRow, answer_fields
from fusion.bulk.outputs.flat import FlatRows, field_of
from fusion.pipeline.loader import Loader
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library

PLAIN = "{team: string, urgent: boolean, tags: 'list[string]'}"
NESTED = "{team: string, by: {name: string, at: {day: string}}, items: [{name: string}]}"
OPTIONAL = "{team: string?, by?: {name: string}}"
JSON = "{type: object, properties: {a: {type: string}, b: {type: object}}, required: [a]}"
OPEN = "{type: object, properties: {a: {type: string}}, additionalProperties: {type: string}}"
CLASS = (
    "{type: object, properties: {by: {$ref: '#/$defs/P'}, or: {anyOf: [{$ref: '#/$defs/P'}, {type: 'null'}]}}, "
    "$defs: {P: {type: object, properties: {name: {type: string}}}}}"
)
DEEP = "{a: {b: {c: {d: {e: string}}}}}"
TREE = (
    "{type: object, properties: {node: {$ref: '#/$defs/N'}}, "
    "$defs: {N: {type: object, properties: {left: {$ref: '#/$defs/N'}}}}}"
)


def fields(schema: str | None, output: str) -> tuple[str, ...] | None:
    with_schema = "" if schema is None else f", schema: {schema}"
    text = f"stages: {{answer: {{kind: generate, role: bulk, prompt: hi{with_schema}}}}}\noutput: {output}\n"
    return answer_fields(Loader(Library.standard()).load(Pipeline.from_yaml(text)))


@pytest.mark.parametrize(
    ("schema", "output", "expected"),
    [
        (None, "answer", None),
        (PLAIN, "answer", ("team", "urgent", "tags")),
        (PLAIN, "answer.data", ("team", "urgent", "tags")),
        (PLAIN, "answer.data.team", None),
        (PLAIN, "answer.data | tojson", None),
        (NESTED, "answer", ("team", "by.name", "by.at.day", "items")),
        (NESTED, "answer.data.by", ("name", "at.day")),
        (OPTIONAL, "answer", ("team", "by.name")),
        (JSON, "answer", ("a", "b")),
        (OPEN, "answer", None),
        (CLASS, "answer", ("by.name", "or.name")),
        (DEEP, "answer", ("a.b.c.d",)),
        (TREE, "answer", ("node.left.left.left",)),
        (None, "{short: answer, words: answer | length}", ("short", "words")),
        (PLAIN, "{short: answer, all: answer.data}", ("short", "all.team", "all.urgent", "all.tags")),
        (NESTED, "{by: answer.data.by, team: answer.data.team}", ("by.name", "by.at.day", "team")),
    ],
)
def test_fields_are_known_before_a_run(schema: str | None, output: str, expected: tuple[str, ...] | None) -> None:
    assert fields(schema, output) == expected


def test_fields_of_a_map_stage_are_a_list_of_unknown_form() -> None:
    text = "inputs: {rows: {format: csv}}\nstages: {work: {kind: map, over: inputs.rows, role: bulk, prompt: hi, "
    loaded = Loader(Library.standard()).load(Pipeline.from_yaml(text + f"schema: {PLAIN}}}}}\noutput: work\n"))
    assert answer_fields(loaded) is None


@pytest.mark.parametrize(
    ("data", "field", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a": {"b": 2}}, "a.b", 2),
        ({"a.b": 3, "a": {"b": 2}}, "a.b", 3),
        ({"a.b": {"c": 4}}, "a.b.c", 4),
        ({"a": None}, "a.b", None),
        ({"a": [1]}, "a.b", None),
        (["a"], "a", None),
        ("a", "a", None),
    ],
)
def test_a_dotted_name_finds_its_value(data: Any, field: str, value: Any) -> None:
    assert field_of(data, field) == value


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (None, ["answer"]),
        (["team"], ["team"]),
        (["key", "run"], ["answer.key", "answer.run"]),
        (["status", "answer.status"], ["answer.status", "answer.answer.status"]),
        (["a", "a"], ["a", "answer.a"]),
    ],
)
def test_columns_have_names_of_their_own(names: list[str] | None, columns: list[str]) -> None:
    flat = FlatRows(names)
    assert list(flat.columns) == ["key", *columns, "status", "usd", "unknown_calls", "run", "failure"]
    values = flat.values(OutputRow("k", "ok", "t", data={"status": 1, "key": 2, "a": 3}))
    assert len(values) == len(flat.columns)
