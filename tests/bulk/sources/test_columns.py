"""Columns of INPUTS and the inputs of a pipeline: by name, by option, the only one, constants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.sources import Columns, RowSource, open_source
from fusion.bulk.sources.columns import reads_media
from fusion.core.errors import InputError
from fusion.pipeline.spec import Pipeline

ONE = "{ticket: The ticket.}"
TWO = "{ticket: The ticket., tone: {default: kind}}"
BOTH = "{ticket: The ticket., order: The order., tone: {default: kind}}"


def pipeline(inputs: str) -> Pipeline:
    text = f"name: triage\ninputs: {inputs}\nstages: {{answer: {{kind: generate, role: bulk, prompt: hi}}}}\n"
    return Pipeline.from_yaml(text + "output: answer\n")


def table(tmp_path: Path, text: str, name: str = "t.csv") -> RowSource:
    (tmp_path / name).write_text(text)
    return open_source(tmp_path / name)


def filled(of: str, source: RowSource, **options: Any) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    columns = Columns.of(pipeline(of), source, **options)
    return [columns.inputs(row) for row in source.rows()], columns.notes


@pytest.mark.parametrize(
    ("of", "text", "options", "inputs"),
    [
        (ONE, "ticket,id\nx,1\n", {}, {"ticket": "x"}),
        (TWO, "tone,ticket\nwarm,x\n", {}, {"ticket": "x", "tone": "warm"}),
        (TWO, "tone,ticket\n,x\n", {}, {"ticket": "x"}),
        (ONE, "body,id\nx,1\n", {"given": {"ticket": "body"}}, {"ticket": "x"}),
        (ONE, "body,ticket\nx,y\n", {"given": {"ticket": "body"}}, {"ticket": "x"}),
        (TWO, "ticket,tone\nx,y\n", {"constants": {"tone": "dry"}}, {"ticket": "x", "tone": "dry"}),
        (BOTH, "ticket\nx\n", {"constants": {"order": "o"}}, {"ticket": "x", "order": "o"}),
        (BOTH, "a\nx\n", {"given": {"ticket": "a", "order": "a"}}, {"ticket": "x", "order": "x"}),
    ],
)
def test_columns_go_to_inputs(
    tmp_path: Path, of: str, text: str, options: Mapping[str, Any], inputs: dict[str, Any]
) -> None:
    assert filled(of, table(tmp_path, text), **options) == ([inputs], ())


@pytest.mark.parametrize(
    ("of", "text", "options", "inputs", "note"),
    [
        (ONE, "body\nx\n", {}, {"ticket": "x"}, "the column 'body' goes to the input 'ticket'"),
        (ONE, "id,text\n1,x\n", {}, {"ticket": "x"}, "the column 'text' goes to the input 'ticket'"),
        (BOTH, "text,id\nx,1\n", {"constants": {"order": "o"}}, {"ticket": "x", "order": "o"}, "the column 'text'"),
    ],
)
def test_the_only_input_takes_the_only_column(
    tmp_path: Path, of: str, text: str, options: Mapping[str, Any], inputs: dict[str, Any], note: str
) -> None:
    rows, notes = filled(of, table(tmp_path, text), **options)
    assert rows == [inputs]
    assert len(notes) == 1
    assert notes[0].startswith(note)


@pytest.mark.parametrize(
    ("of", "text", "options", "says"),
    [
        (ONE, "a,b\n1,2\n", {}, "has no column for the input 'ticket' (The ticket.) of 'triage'; there are: a, b."),
        (ONE, "a,b\n1,2\n", {}, "Give `--input ticket=COLUMN`, or `--set ticket=VALUE` for one value in all rows"),
        (ONE, "tickets,b\n1,2\n", {}, "of 'triage'; did you mean 'tickets'?"),
        (BOTH, "body\nx\n", {}, "has no column for the input 'ticket'"),
        (TWO, "tone,text\nx,y\n", {}, "has no column for the input 'ticket'"),
        (ONE, "body,id\nx,1\n", {"given": {"ticket": "bdy"}}, "has no column 'bdy'; did you mean 'body'?"),
        (
            ONE,
            "ticket\nx\n",
            {"given": {"tiket": "ticket"}},
            "--input tiket=…: 'triage' has no input 'tiket'; did you",
        ),
        (
            ONE,
            "ticket\nx\n",
            {"constants": {"tune": "x"}},
            "--set tune=…: 'triage' has no input 'tune'; there are: t",
        ),
        (
            ONE,
            "ticket\nx\n",
            {"given": {"ticket": "ticket"}, "constants": {"ticket": "x"}},
            "the input 'ticket' is given twice, by `--input` and by `--set`",
        ),
    ],
)
def test_columns_that_fit_no_input_are_named(
    tmp_path: Path, of: str, text: str, options: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        filled(of, table(tmp_path, text), **options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("t.csv", "ticket,id\nx,1\n,2\n", "t.csv line 3"),
        ("t.jsonl", '{"ticket": "x"}\n{"id": 2}\n', "t.jsonl line 2"),
        ("t.jsonl", '{"ticket": "x"}\n\n{"ticket": null}\n', "t.jsonl line 3"),
        ("t.jsonl", '{"ticket": "x"}\n{"ticket": ""}\n', "t.jsonl line 2"),
    ],
)
def test_a_row_without_a_required_value_fails_alone(tmp_path: Path, name: str, text: str, where: str) -> None:
    source = table(tmp_path, text, name)
    columns = Columns.of(pipeline(ONE), source)
    first, second = source.rows()
    assert columns.inputs(first) == {"ticket": "x"}
    with pytest.raises(InputError) as caught:
        columns.inputs(second)
    assert str(caught.value).endswith(f"{where}: no value in the column 'ticket' for the input 'ticket'")


def test_values_of_jsonl_keep_their_types(tmp_path: Path) -> None:
    text = '{"ticket": {"id": 1}}\n{"ticket": [1, 2], "tone": 0}\n{"ticket": false}\n'
    rows, _ = filled(TWO, table(tmp_path, text, "t.jsonl"))
    assert rows == [{"ticket": {"id": 1}}, {"ticket": [1, 2], "tone": 0}, {"ticket": False}]


@pytest.mark.parametrize("given", [["a", "b"], iter(["a", "b"]), iter([{"body": "a"}, {"body": "b"}])])
def test_texts_from_python_go_to_the_only_input(given: Any) -> None:
    rows, _ = filled(TWO, open_source(given))
    assert rows == [{"ticket": "a"}, {"ticket": "b"}]


def test_a_later_row_of_an_iterator_may_have_other_columns() -> None:
    source = open_source(iter([{"ticket": "a"}, {"ticket": "b", "tone": "dry"}, {"x": 1, "y": 2}]))
    columns = Columns.of(pipeline(TWO), source)
    first, second, third = source.rows()
    assert [columns.inputs(first), columns.inputs(second)] == [{"ticket": "a"}, {"ticket": "b", "tone": "dry"}]
    with pytest.raises(InputError, match="row 3 of the inputs: 'the inputs' has no column for the input 'ticket'"):
        columns.inputs(third)


@pytest.mark.parametrize(
    ("of", "media", "inputs"),
    [
        (ONE, False, {"ticket": "text of a"}),
        ("{path: Its path., ticket: The ticket.}", False, {"path": "a.md", "ticket": "text of a"}),
        ("{text: The text.}", False, {"text": "text of a"}),
        ("{page: {format: file}}", True, {"page": "file"}),
        ("{photo: {format: image}, tone: {default: dry}}", True, {"photo": "file"}),
    ],
)
def test_a_file_goes_to_the_only_input(tmp_path: Path, of: str, media: bool, inputs: dict[str, Any]) -> None:
    (tmp_path / ("a.png" if media else "a.md")).write_bytes(b"\x89PNG\r\n\x1a\n" if media else b"text of a")
    assert reads_media(pipeline(of)) is media
    rows, _ = filled(of, open_source(tmp_path, media=media))
    assert [{name: value if isinstance(value, str) else "file" for name, value in rows[0].items()}] == [inputs]


@pytest.mark.parametrize(
    ("of", "constants", "media"),
    [
        ("{question: x, page: {format: file}}", ["question"], True),
        ("{document: x, logo: {format: image}}", ["logo"], False),
        ("{document: x, logo: {format: image, default: null}}", [], False),
        ("{page: {format: file}}", [], True),
        ("{}", [], False),
    ],
)
def test_files_are_media_where_a_required_input_takes_them(of: str, constants: list[str], media: bool) -> None:
    assert reads_media(pipeline(of), constants) is media


def test_a_file_with_a_problem_is_an_error_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"a\.bin: a binary file, not text; select the files with a pattern"):
        filled(ONE, open_source(tmp_path))
