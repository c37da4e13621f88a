"""Structured output: slips that are mended, values that are asked for again, and text that only looks like JSON."""

import json
import random
import re
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fusion import RunFailed, ScriptedModel
from fusion.core.types import Reply, Usage
from fusion.models.structured import read
from tests.conftest import pipeline, run
from tests.watchdog import watched

pytestmark = pytest.mark.usefixtures("without_pauses")

SHAPE = """
inputs: {{q: what}}
stages:
  a: {{kind: generate, role: bulk, schema: {schema}, prompt: "{{{{ inputs.q }}}}"}}
output: a.data
"""
RIGHT = {"total": 7, "name": "right", "rows": [{"a": 1}]}
FIELDS = "{total: number, name?: string, rows?: [{a: integer}], ok?: boolean}"


def asked(fusion: Any, replies: list[str], schema: str = FIELDS) -> tuple[Any, int, Any]:
    """The data of a run whose model gives these replies in turn, the number of requests, and the error."""
    model = ScriptedModel(replies, name="scripted/bulk", respect_limit=False)
    result, _ = run(fusion({"bulk": model}), pipeline=pipeline(SHAPE.format(schema=schema)))
    return result.data, len(model.requests), result.error


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        ("{'total': 3, 'name': 'it\\'s'}", {"total": 3, "name": "it's"}),
        ('{"total": 3, "rows": [{"a": 1},],}', {"total": 3, "rows": [{"a": 1}]}),
        ('```json\n{"total": 3\n```', {"total": 3}),
        ('```\n{"total": 3}', {"total": 3}),
        ('{"total": 3.50, "name": "two\nlines",}', {"total": 3.5, "name": "two\nlines"}),
        ('{total: 3, name: "x"}', {"total": 3, "name": "x"}),
        ("{“total”: 3, “name”: “x”}", {"total": 3, "name": "x"}),
        ('{"total": 3 "name": "x"}', {"total": 3, "name": "x"}),
        ('{"total": 3, "name": "x"', {"total": 3, "name": "x"}),
        ('{"total": 3, "rows": [{"a": 1} {"a": 2}]}', {"total": 3, "rows": [{"a": 1}, {"a": 2}]}),
        ("{'total': 3, 'ok': True}", {"total": 3, "ok": True}),
        ('\ufeff{"total": 3}}', {"total": 3}),
        ('With {count} filled in: {"total": 3}', {"total": 3}),
        (r'{"total": 3, "name": "\(x\)"}', {"total": 3, "name": r"\(x\)"}),
        (r'{"total": 3, "name": "\sqrt{2} \cdot \\"}', {"total": 3, "name": "\\sqrt{2} \\cdot \\"}),
        (r'{"total": 3, "name": "\underline{a}"}', {"total": 3, "name": r"\underline{a}"}),
        (r'{"total": 3, "name": "\u00e9 \d+"}', {"total": 3, "name": r"é \d+"}),
        (r'{"total": 3, "name": "C:\data"}', {"total": 3, "name": r"C:\data"}),
    ],
)
def test_a_slip_of_structure_is_mended(fusion: Any, reply: str, data: Any) -> None:
    assert asked(fusion, [reply]) == (data, 1, None)


@pytest.mark.parametrize(
    "reply",
    [
        '{"total": 1 180}',
        '{"total": 1.180,50}',
        '{"total": 1,180}',
        '{"total": 1_180}',
        '{"total": 12…}',
        '{"total": 12',
        '{"total": 12.',
        '{"total": 1180,50, "name": "x"}',
        '{"total": about 12}',
        '{"total": 12 EUR}',
        '{"total": +12}',
        '{"total": 012}',
        '{"total": .5}',
        '{"total": 0x1F}',
        '{"total": "12" "13"}',
        '{"total": 12, "name": "x}',
        '{"total": 12, "name": yes}',
        '{"total": 12, "name": }',
        '{"total": 12, "name"}',
        '{"total": 12, ',
        '{"total": 12, "rows": [{"a": 1}, {"a": 2}',
        '{"total": 12, "rows": [{"a": 1},, {"a": 2}]}',
        '{"total": 12, "rows": [{"a": 1}, …]}',
        '{"total": 12, "rows": [{"a": 1}}',
        '{"value": {"total": 12} oops}',
        '{"first" {"total": 12}}',
        '{"total": 12, {"name": "x"}}',
        '{"total": 12, "total": 13}',
        "{'total': 12, 'total': 13,}",
        '{"total": NaN}',
        '{"total": -Infinity}',
        '{"total": 1e999}',
        '{"total": 1e-999}',
        '{"total": 12, "name": "said "yes" to it"}',
        '```json\n{"```json\n{"total": 12}\n```',
        "{" * 3_000,
        '{"a":' * 3_000,
        "[" * 100_000,
        '{"total": 12} or {"total": 13}',
        '{"total": 12} or {"total": 1',
    ],
)
def test_a_value_that_would_be_guessed_is_asked_for_again(fusion: Any, reply: str) -> None:
    data, calls, error = asked(fusion, [reply, json.dumps(RIGHT)])
    assert (data, calls, error) == (RIGHT, 2, None)


def test_after_two_such_replies_the_run_fails_with_both_faults_named(fusion: Any) -> None:
    data, calls, error = asked(fusion, ['{"total": 1 180}', '{"total": 1 180}'])
    assert (data, calls) == (None, 2)
    assert error.reason == "ShapeError"
    assert "line 1 column 13; the answer begins: '{\"total\": 1 180}'" in error.message


WHOLE = {"total": -12.5, "name": 'a "b"\\', "rows": [{"a": 1}, {"a": 22}], "ok": False}
SCHEMA = {
    "type": "object",
    "properties": {
        "total": {"type": "number"},
        "name": {"type": "string"},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        "ok": {"type": "boolean"},
    },
    "required": ["total", "name", "rows", "ok"],
}


def taken(text: str) -> Any:
    return read(Reply(text=text, finish_reason="stop", usage=Usage(), asked="", served=""), SCHEMA)[0]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_reply_cut_anywhere_is_whole_or_refused(indent: int | None) -> None:
    text = json.dumps(WHOLE, indent=indent)
    assert {json.dumps(taken(text[:end])) for end in range(len(text) + 1)} <= {"null", json.dumps(WHOLE)}


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def scalars(data: Any) -> Any:
    match data:
        case dict():
            yield from (part for pair in data.items() for one in pair for part in scalars(one))
        case list():
            yield from (part for one in data for part in scalars(one))
        case bool() | None:
            return
        case _:
            yield data


def test_whatever_is_read_out_of_a_mutated_reply_is_written_in_it() -> None:
    chance, text = random.Random(11), json.dumps(WHOLE)
    for _ in range(2_000):
        letters = list(text)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(letters))
            letters[at : at + chance.randint(0, 2)] = chance.choice(
                ['"', "'", ",", "}", "]", " ", "1", "\\", "\n", ""]
            )
        mutated = "".join(letters)
        for value in scalars(taken(mutated)):
            if isinstance(value, str):
                assert value in mutated.replace('\\"', '"').replace("\\\\", "\\").replace("\\n", "\n")
            else:
                assert any(
                    float(token) == value for token in re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", mutated)
                )


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("date", "3 May 2026", "2026-05-03"),
        ("date", "2026-02-30", "2026-02-28"),
        ("date-time", "2026-05-03 at ten", "2026-05-03T10:00:00Z"),
        ("date-time", "2026-05-03T10:00:00", "2026-05-03T10:00:00+02:00"),
        ("time", "half past ten", "10:30:00Z"),
        ("duration", "two days", "P2D"),
        ("email", "ada at example.org", "ada@example.org"),
        ("uuid", "42", "123e4567-e89b-12d3-a456-426614174000"),
        ("uri", "example.org", "https://example.org/a?b=c"),
        ("uri", "http://exa mple.org", "mailto:ada@example.org"),
        ("ipv4", "10.0.0.256", "10.0.0.255"),
        ("ipv6", "10.0.0.1", "::1"),
        ("hostname", "-a.example", "a.example.org"),
        ("json-pointer", "a/b", "/a/b~1c"),
        ("regex", "(", "a+"),
    ],
)
def test_a_format_is_checked(fusion: Any, kind: str, wrong: str, right: str) -> None:
    schema = f"{{type: object, properties: {{v: {{type: string, format: {kind}}}}}, required: [v]}}"
    replies = [json.dumps({"v": wrong}), json.dumps({"v": right})]
    assert asked(fusion, replies, schema) == ({"v": right}, 2, None)


def test_decimal_multiples_are_exact(fusion: Any) -> None:
    schema = "{type: object, properties: {v: {type: number, multipleOf: 0.01}}, required: [v]}"
    assert asked(fusion, ['{"v": 1180.55}'], schema) == ({"v": 1180.55}, 1, None)
    assert asked(fusion, ['{"v": 1180.555}', '{"v": 1e300}'], schema) == ({"v": 1e300}, 2, None)


class Kind(Enum):
    INVOICE = "invoice"
    OFFER = "offer"


class Line(BaseModel):
    model_config = ConfigDict(strict=True)
    amount: Decimal = Field(gt=0)


class Note(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    kind: Kind
    lines: tuple[Line, ...] = ()

    @field_validator("day")
    @classmethod
    def _is_this_year(cls, day: date) -> date:
        if day.year != 2026:
            raise ValueError("the year is not 2026")
        return day


NOTE = Note(day=date(2026, 5, 3), kind=Kind.OFFER, lines=(Line(amount=Decimal("1180.50")),))
GOOD = '{"day": "2026-05-03", "kind": "offer", "lines": [{"amount": "1180.50"}]}'


def noted(fusion: Any, replies: list[str]) -> tuple[Any, ScriptedModel]:
    model = ScriptedModel(replies, name="scripted/bulk")
    text = """
inputs: {q: what}
stages:
  a: {kind: generate, role: bulk, prompt: "{{ inputs.q }}"}
output: a
"""
    return fusion({"bulk": model}).complete("?", pipeline=pipeline(text), schema=Note).data, model


def test_a_strict_class_is_satisfied_from_json(fusion: Any) -> None:
    data, model = noted(fusion, [GOOD])
    assert data == NOTE
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (GOOD.replace("2026-05-03", "3 May 2026"), "$.day: Input should be a valid date"),
        (GOOD.replace("2026", "2025"), "$.day: Value error, the year is not 2026"),
        (GOOD.replace("offer", "bill"), "$.kind: expected one of"),
        (GOOD.replace("1180.50", "-1"), "$.lines[0].amount: Input should be greater than 0"),
        (GOOD.replace('"1180.50"', '"much"'), "$.lines[0].amount"),
    ],
)
def test_a_class_takes_part_in_asking_once_more(fusion: Any, wrong: str, said: str) -> None:
    data, model = noted(fusion, [wrong, GOOD])
    assert data == NOTE
    assert said in model.requests[1].messages[-1].content


def test_a_class_that_is_never_satisfied_fails_the_run(fusion: Any) -> None:
    with pytest.raises(RunFailed, match="the year is not 2026"):
        noted(fusion, [GOOD.replace("2026", "2025")] * 2)


N = 300_000
HOSTILE = {
    "a fence and newlines": "```json" + "\n" * N,
    "spaces": '{"total":' + " " * N,
    "backticks": "`" * N,
    "braces": "{" * N,
    "brackets": "[" * N,
    "quotes": '"' * N,
    "names": '{"' * (N // 2),
    "single quotes": "{''" * (N // 3),
    "backslashes": '{"name": "' + "\\" * N,
    "thoughts": "<think>" * (N // 7),
    "digits": '{"total": ' + "1" * N,
    "commas": '{"total": ' + "," * N,
    "objects": '{"a":1},' * (N // 8),
    "members": "{" + '"a":1 ' * (N // 6),
    "nested": '{"a":' * (N // 5),
    "citations": "[1 " * (N // 3),
    "words": "{a " * (N // 3),
    "a long text": '{"total": 1, "name": "' + "x" * N + '"}',
    "many rows": '{"total": 1, "rows": [' + '{"a": 1},' * (N // 10) + '{"a": 1}]}',
    "many faults": '{"total": 1, "rows": [' + '{"a": "x"},' * (N // 10) + '{"a": 1}]}',
    "strange names": "{" + ",".join(f'"name {n}": 1' for n in range(N // 15)) + "}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_reply_holds_the_event_loop(fusion: Any, name: str) -> None:
    asked(fusion, ['{"total": 1}'])  # all is loaded
    with watched() as watch:
        data, calls, error = asked(fusion, [HOSTILE[name], '{"total": 2}'])
    assert (data, calls, error) == ({"total": 2}, 2, None)
    assert not watch.slow


def of(value: dict[str, Any], **defs: Any) -> str:
    """The schema of an object with the field `v`, as YAML."""
    return json.dumps({"type": "object", "properties": {"v": value}, "$defs": defs})


LOOP = {"$ref": "#/$defs/loop"}
LISTS = {"type": "array", "items": LOOP}
SCHEMAS: dict[str, tuple[str, Any]] = {
    "unique": (of({"type": "array", "maxItems": 9999, "uniqueItems": True}), [{"a": n} for n in range(9_000)]),
    "a large choice": (of({"type": "array", "maxItems": 999, "items": {"enum": list(range(2_000))}}), [1999] * 500),
    "a catastrophic pattern": (of({"type": "string", "pattern": "^(a|a)*$"}), "a" * 40 + "!"),
    "a pattern of names": (of({"patternProperties": {"^(a|a)*$": {}}}), {"a" * 40 + "!": 1}),
    "a pattern over long text": (
        of({"type": "string", "maxLength": 999_999, "pattern": "(.*x){9}y$"}),
        "x" * 100_000,
    ),
    "references without end": (of(LOOP, loop={"anyOf": [LOOP, LOOP]}), 1),
    "deep alternatives": (of(LOOP, loop={"anyOf": [LISTS, LISTS]}), json.loads("[" * 30 + "1" + "]" * 30)),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_schema_holds_the_event_loop(fusion: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.models.structured.replies.SECONDS", 2.0)
    schema, value = SCHEMAS[name]
    asked(fusion, ['{"total": 1}'])
    with watched() as watch:
        data, _, error = asked(fusion, [json.dumps({"v": value})] * 2, schema)
    assert not watch.slow
    assert (data is None) == (error is not None)
    assert (error is None) == (name in ("unique", "a large choice"))
