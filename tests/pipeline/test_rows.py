"""Inputs of rows: CSV and JSONL become a list, each row an item whose fields a template reads."""

from pathlib import Path
from typing import Any

import pytest

from fusion.core.errors import InputError
from fusion.pipeline.rows import rows_of
from tests.cli.conftest import apart
from tests.conftest import pipeline, run, said

ROWS = """
inputs: {rows: {format: %s}}
stages:
  work: {kind: map, over: inputs.rows, prompt: "{{ item.name }} is {{ item.age }};"}
output: work
"""


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("csv", "name,age\nAda,36\nBob,7\n"),
        ("csv", '\ufeffname;age\r\n\r\nAda;36\r\n"Bob";7\r\n'),
        ("csv", "\nname\tage\nAda\t36\nBob\t7"),
        ("jsonl", '{"name": "Ada", "age": 36}\n\n{"name": "Bob", "age": 7}'),
        ("jsonl", '\ufeff{"name": "Ada", "age": 36}\r\n{"age": 7, "name": "Bob"}\r\n'),
    ],
)
def test_each_row_is_an_item_with_its_fields(fusion: Any, form: str, text: str) -> None:
    one = fusion({"bulk": lambda request: said(request)})
    for given in ({"inputs": {"rows": text}}, {"prompt": text}):
        result, _ = run(one, pipeline=pipeline(ROWS % form), **{"prompt": None, **given})
        assert result.data == ["Ada is 36;", "Bob is 7;"]


def test_from_python_rows_are_a_list(fusion: Any) -> None:
    rows = [{"name": "Ada", "age": 36}]
    one = fusion({"bulk": lambda request: said(request)})
    result, _ = run(one, None, pipeline=pipeline(ROWS % "csv"), inputs={"rows": rows})
    assert result.data == ["Ada is 36;"]


def test_values_hold_what_quotes_allow() -> None:
    text = 'a,b\n"x, ""y""","two\nlines"\n,\n1,2\n'
    rows = rows_of(text, "csv", where="t.csv")
    assert rows == [{"a": 'x, "y"', "b": "two\nlines"}, {"a": "1", "b": "2"}]
    with pytest.raises(InputError, match=r"t\.csv line 6: 1 values"):
        rows_of(text + "3\n", "csv", where="t.csv")


@pytest.mark.parametrize(
    ("form", "text", "says"),
    [
        ("csv", "a,b\n1,2\n1,2,3\n", "f line 3: 3 values for 2 columns; put values that hold the delimiter"),
        ("csv", "a,b\n1,2\n1\n", "f line 3: 1 values for 2 columns; fill the row"),
        ("csv", "a,,b\n", "f line 1: column 2 has no name"),
        ("csv", "a,b,a\n", "f line 1: two columns are named 'a'"),
        ("csv", 'a,b\n1,"2\n', "f line 2: not CSV: unexpected end of data"),
        ("csv", "sep=;\na;b\n1;2;3\n", "f line 3: 3 values for 2 columns; put values that hold the delimiter"),
        ("jsonl", '{"a": 1}\n{"a": 1', "f line 2: not JSON: Expecting ',' delimiter, column 8"),
        ("jsonl", "[1]", "f line 1: list, not an object"),
        ("jsonl", '{"a": NaN}', "f line 1: NaN is not JSON"),
        ("jsonl", '{"a": 1}\n{"a": 1e999}', "f line 2: the number 1e999 is out of range"),
        ("jsonl", '{"a": -Infinity}', "f line 1: -Infinity is not JSON"),
        ("jsonl", '{"a": [{"b": -1e400}]}', "f line 1: the number -1e400 is out of range"),
        ("jsonl", '{"a": 1, "a": 2}', "f line 1: duplicate key 'a'"),
        ("jsonl", '\n{"a": "\\ud800"}', "f line 2: half of a surrogate pair"),
        ("jsonl", "[" * 100_000, "f line 1: nested too deep"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_its_line(form: Any, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(text, form, where="f")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\na;b,c\n1;2,50\n",
        "\ufeffsep=;\r\na;b,c\r\n1;2,50\r\n",
        '"sep=;"\na;b,c\n1;2,50\n',
        "SEP=|\n\na|b,c\n1|2,50\n",
        "sep=\t\na\tb,c\n1\t2,50\n",
        "\nsep=;;;\na;b,c\n1;2,50\n",
    ],
)
def test_a_first_line_names_the_delimiter(text: str) -> None:
    assert rows_of(text, "csv", where="f") == [{"a": "1", "b,c": "2,50"}]


@pytest.mark.parametrize("size", [131_072, 131_073, 1_000_000])
def test_a_cell_holds_a_document(size: int) -> None:
    rows = rows_of("title,text\nlong," + "y" * size + '\nquoted,"' + "z\n" * (size // 2) + '"\n', "csv", where="f")
    assert [len(row["text"]) for row in rows] == [size, size // 2 * 2]


def test_a_file_is_named_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(ROWS % "csv")
    (tmp_path / "people.csv").write_text("name,age\nAda\n")
    ran = apart("run", str(tmp_path / "p.yaml"), "-i", f"rows=@{tmp_path / 'people.csv'}")
    assert ran.code == 2
    assert "people.csv line 2: 1 values for 2 columns" in ran.err
