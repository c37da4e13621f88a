"""YAML as data and places: what is read, what is refused, and where."""

import time

import pytest

from fusion.core.yaml import MAX_BYTES, read_yaml


def problems_of(text: str) -> list[str]:
    return [str(problem) for problem in read_yaml(text, file="f.yaml")[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("017", 17),
        ("0o17", 15),
        ("0xff", 255),
        ("-3", -3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        (".", "."),
        ("-", [None]),
        ("'5'", "5"),
        ("+a", "+a"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    data, problems, _ = read_yaml(f"a: {text}" if text != "-" else "a:\n-", file="f")
    assert problems == []
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["f.yaml: the file is empty"]),
        ("# only words\n", ["f.yaml: the file is empty"]),
        (
            "a: 1\na: 2\nb: {c: 1, c: 2, c: 3}\n",
            [
                "f.yaml:2:1 a: duplicate key 'a'; first in line 1",
                "f.yaml:3:11 b.c: duplicate key 'c'; first in column 5",
                "f.yaml:3:17 b.c: duplicate key 'c'; first in column 5",
            ],
        ),
        (
            "a: !!python/object x",
            ["f.yaml:1:4 a: the tag 'tag:yaml.org,2002:python/object' is not supported; remove it"],
        ),
        ("a: 1\n--- \nb: 2", ["f.yaml:2:1: a second document; a file holds one, without `---` between"]),
        (
            "1: x\ntrue: y\n: z",
            [
                "f.yaml:1:1: a key has to be text, got 1; put it in quotes",
                "f.yaml:2:1: a key has to be text, got true; put it in quotes",
                "f.yaml:3:1: a key has to be text, got nothing; put it in quotes",
            ],
        ),
        ("a: {{ x }}", ["f.yaml:1:5 a: a key has to be text; text with {{ … }} needs quotes"]),
        ("a: &x [1]\n<<: *x", ["f.yaml:2:1: merge keys (<<) are not part of YAML 1.2; write the keys out"]),
        ("a: *x", ["f.yaml:1:4 a: the alias *x has no anchor &x that ends before it"]),
        ("a: &x [*x]", ["f.yaml:1:8 a.0: the alias *x has no anchor &x that ends before it"]),
        ("a:\n\t- b", ["f.yaml:2:1: not YAML: a tab cannot indent; use spaces"]),
        ("a: b: c", ["f.yaml:1:5: not YAML: a second ': ' in this line; put text that holds ': ' in quotes"]),
        (
            "a: [1",
            ["f.yaml:1:6: not YAML: expected ',' or ']', but got '<stream end>' while parsing a flow sequence"],
        ),
        (
            "a: -.inf\nb: .NaN",
            [
                "f.yaml:1:4 a: -.inf is not a finite number",
                "f.yaml:2:4 b: .NaN is not a finite number",
            ],
        ),
        ("a: " + "9" * 200, ["f.yaml:1:4 a: a number of more than 100 digits; put it in quotes if it is text"]),
        ("a: 1\nb: x\x07", ["f.yaml:2:5: the character '\\x07' is not allowed in text; is this a binary file?"]),
        ('a: "\\ud800"', ["f.yaml:1:4 a: a lone surrogate is not a character; write the character itself"]),
        ("x" * (MAX_BYTES + 1), ["f.yaml: a file of 262,145 bytes; the most is 262,144"]),
    ],
)
def test_every_mistake_of_form_has_its_place(text: str, expected: list[str]) -> None:
    assert problems_of(text) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "? " * 100_000])
def test_deep_files_are_refused_where_they_become_too_deep(text: str) -> None:
    (problem,) = problems_of(text)
    assert problem.endswith("nested deeper than 32 levels")


def test_an_alias_cannot_nest_deeper_than_a_file_may() -> None:
    lines = ["a0: &a0 [[[[[[[[[[x]]]]]]]]]]", *(f"a{n}: &a{n} [[[[[[[[[*a{n - 1}]]]]]]]]]" for n in range(1, 4))]
    (problem,) = problems_of("\n".join(lines))
    assert problem == "f.yaml:4:18: nested deeper than 32 levels"


def test_alias_bombs_are_refused_before_they_grow() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8)
    )
    begin = time.process_time()
    (problem,) = problems_of(bomb)
    assert problem == "f.yaml:5:11: more than 50 aliases, or more than 20,000 values by aliases"
    assert time.process_time() - begin < 1


def test_too_many_values_are_refused() -> None:
    assert problems_of("- a\n" * 30_000) == ["f.yaml:20000:3: more than 20,000 values"]


def test_a_few_aliases_are_written_out() -> None:
    data, problems, positions = read_yaml("a: &x {k: [1]}\nb: *x\nc: *x", file="f")
    assert problems == []
    assert data == {"a": {"k": [1]}, "b": {"k": [1]}, "c": {"k": [1]}}
    assert positions.at(("b",)) == (1, 4)
    assert positions.key(("b",)) == (2, 1)


def test_positions_are_of_values_and_keys() -> None:
    _, _, positions = read_yaml("a:\n  b: [1, 2]\n  c: |\n    text\n", file="f")
    assert positions.at(()) == (1, 1)
    assert positions.key(("a",)) == (1, 1)
    assert positions.at(("a",)) == (2, 3)
    assert positions.at(("a", "b", 1)) == (2, 10)
    assert positions.key(("a", "c")) == (3, 3)
    assert positions.at(("a", "missing", "deeper")) == (1, 1)
    assert positions.at(("nowhere",)) == (1, 1)


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: one{}two\nb: 1\n", "one{}two"),
        ("a: |\n  one{}two\n  three\nb: 1\n", "one{}two\nthree\n"),
        ("a: >\n  one{}two\n  three\nb: 1\n", "one{}two three\n"),
        ('a: "one{}two"\nb: 1\n', "one{}two"),
        ("a: 'one{}  two'\nb: 1\n", "one{}  two"),
        ("# a{}comment: 2\na: one\nb: 1\n", "one"),
        ("a: [one{}two]\nb: 1\n", ["one{}two"]),
    ],
)
def test_a_line_ends_at_line_feeds_only(mark: str, text: str, value: object) -> None:
    data, problems, positions = read_yaml(text.replace("{}", mark), file="f.yaml")
    assert not problems
    value = [one.replace("{}", mark) for one in value] if isinstance(value, list) else str(value).replace("{}", mark)
    assert data == {"a": value, "b": 1}
    assert positions.at(("b",))[0] == text.count("\n")
