"""Short types, JSON Schemas and files of them; data held to them."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion.core.errors import UsageError
from fusion.core.schema import check_shape, to_json_schema, validate

TEXT = {"type": "string", "maxLength": 20_000}


def test_short_types() -> None:
    shape = {
        "summary": "string",
        "figures": "list[number]",
        "status": "one of: open, closed",
        "author": {"name": "string", "age?": "integer"},
        "rows": [{"ok": "boolean"}],
        "note": "string?",
        "state": "one of: a, b?",
    }
    assert to_json_schema(shape) == {
        "type": "object",
        "properties": {
            "summary": TEXT,
            "figures": {"type": "array", "maxItems": 200, "items": {"type": "number"}},
            "status": {"type": "string", "enum": ["open", "closed"]},
            "author": {
                "type": "object",
                "properties": {"name": TEXT, "age": {"type": ["integer", "null"]}},
                "required": ["name"],
                "additionalProperties": False,
            },
            "rows": {
                "type": "array",
                "maxItems": 200,
                "items": {
                    "type": "object",
                    "properties": {"ok": {"type": "boolean"}},
                    "required": ["ok"],
                    "additionalProperties": False,
                },
            },
            "note": {"type": ["string", "null"], "maxLength": 20_000},
            "state": {"type": ["string", "null"], "enum": ["a", "b", None]},
        },
        "required": ["summary", "figures", "status", "author", "rows"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("shape", "flaws"),
    [
        ({"a": "strng"}, ["a: unknown type 'strng'; did you mean 'string'?"]),
        (
            {"a": 5, "b": {"c": []}, "d": "list[x]"},
            [
                "a: expected a type, got 5; there are: string, integer, number, boolean, list[…], one of: a, b",
                "b.c: a list of a shape holds one type, as [string] or [{name: string}], or the words",
                "d: unknown type 'x'; there are: boolean, integer, list[…], number, one of: …, string",
            ],
        ),
        ({}, ["a shape needs at least one field"]),
        ({"a": "one of:"}, ["a: 'one of:' needs values: 'one of: open, closed'"]),
        ({"a": "?"}, ["a: unknown type ''; there are: string, integer, number, boolean, list[…], one of: a, b"]),
        ({"type": "objct", "properties": {}}, ["type: unknown type 'objct'; there are: "]),
        ({"type": "object", "properties": {"a": {"type": "strng"}}}, ["properties.a.type: not a JSON Schema: "]),
        ({"type": "string", "pattern": "("}, ["pattern: invalid regular expression '(': "]),
        ({"$ref": "http://localhost:9/x.json"}, ["$ref: 'http://localhost:9/x.json' is not fetched; put what"]),
        ({"$ref": "#/$defs/none", "$defs": {}}, ["$ref: there is no schema at '#/$defs/none'"]),
        ("string", ["'string' is not a schema file (.json, .yaml); write short types as a mapping"]),
        ("gone.json", ["there is no file 'gone.json' beside the pipeline"]),
        ("../x.json", ["'../x.json' is outside of the pipeline's folder; put the schema beside the pipeline"]),
        ("bad.json", ["bad.json:1:2: not JSON: "]),
        ("bad.yaml", ["bad.yaml:2:1 a: duplicate key 'a'; first in line 1"]),
    ],
)
def test_every_flaw_of_a_shape_is_said_with_its_key(shape: object, flaws: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (tmp_path / "x.json").write_text("{}")
    (folder / "bad.json").write_text("{x")
    (folder / "bad.yaml").write_text("a: string\na: string")
    found = [str(flaw) for flaw in check_shape(shape, near=folder)]  # type: ignore[arg-type]
    for flaw, begin in zip(found, flaws, strict=False):
        assert flaw.startswith(begin)
    assert found
    with pytest.raises(UsageError, match="schema: "):
        to_json_schema(shape, near=folder)  # type: ignore[arg-type]


def test_a_mapping_of_keywords_is_a_json_schema_and_is_bounded() -> None:
    given = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"$ref": "#/$defs/t"}},
            "b": {"type": "string", "maxLength": 5},
        },
        "$defs": {"t": {"type": ["string", "null"]}},
    }
    assert to_json_schema(given) == {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 200},
            "b": {"type": "string", "maxLength": 5},
        },
        "$defs": {"t": {"type": ["string", "null"], "maxLength": 20_000}},
    }


def test_a_json_schema_may_hold_keywords_of_others() -> None:
    given = {"type": "object", "properties": {"a": {"type": "integer"}}, "discriminator": {"propertyName": "a"}}
    assert to_json_schema(given) == given


@pytest.mark.parametrize("shape", [{"type": "string", "title": "string"}, {"type": "string", "amount": "number"}])
def test_a_field_may_be_called_type(shape: dict[str, str]) -> None:
    assert to_json_schema(shape)["required"] == list(shape)


@pytest.mark.parametrize("name", ["shape.json", "shape.yaml"])
def test_a_file_beside_the_pipeline(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps({"total": "number"}))
    assert to_json_schema(name, near=tmp_path) == to_json_schema({"total": "number"})


def test_all_errors_of_data_in_words() -> None:
    schema = to_json_schema({"rows": [{"total": "number"}], "state": "one of: a, b", "note": "string?"})
    data = {"rows": [{"total": 1}, {"total": "x", "totl": 2}, {}], "state": "c", "note": "n" * 30_000}
    assert validate(data, schema) == [
        "$.note: a text of 30000 characters; at most 20000 are wanted",
        "$.rows[1]: 'totl' is not a field of it; did you mean 'total'?",
        "$.rows[1].total: expected number, got 'x'",
        "$.rows[2]: 'total' is missing",
        "$.state: expected one of 'a', 'b', got 'c'",
    ]
    assert validate({"rows": [], "state": "a"}, schema) == []
    assert validate({"rows": [], "state": "a", "note": None}, schema) == []
    assert validate([], schema) == ["$: expected object, got []"]


def test_a_schema_that_refers_to_itself_without_end_is_said() -> None:
    schema = to_json_schema({"$ref": "#"})
    assert validate({}, schema) == ["$: the data is nested too deep, or its schema refers to itself without end"]


@pytest.mark.parametrize("shape", [["a", "b"], ["invoice", "offer", "a long word"], ["on", "off?"], ["a", "a", "b"]])
def test_a_list_of_words_is_a_choice(shape: list[str]) -> None:
    schema = to_json_schema({"kind": shape})
    assert schema["properties"]["kind"] == {"type": "string", "enum": list(dict.fromkeys(shape))}
    assert to_json_schema({"type": shape})["properties"]["type"] == schema["properties"]["kind"]
    assert "enum" in to_json_schema({"rows": [{"kind": shape}]})["properties"]["rows"]["items"]["properties"]["kind"]
    assert to_json_schema({"kind?": shape})["properties"]["kind"]["enum"][-1] is None


@pytest.mark.parametrize("shape", [["string", "number"], [1, 2], ["a", {"b": "string"}], ["list[string]", "b"], []])
def test_another_list_says_what_a_list_may_hold(shape: list[Any]) -> None:
    (flaw,) = check_shape({"kind": shape})
    assert "one type, as [string]" in flaw.message
    assert "[open, closed]" in flaw.message
