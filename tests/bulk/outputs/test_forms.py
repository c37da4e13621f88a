"""Outputs of every form: appended, read back, replaced, gone on with."""

import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.outputs import OutputRow, open_output
from fusion.core.errors import UsageError
from fusion.core.types import Failure
from tests.bulk.outputs.conftest import FORMS, KEYS, keys, row, written


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_read_back_as_they_were_written(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.append([row(key, f"{key}\n,\"{key}'") for key in KEYS[:4]])
    output.append([row(key) for key in KEYS[4:]])
    expected = [(key, f"m-{len(key)}", "ok", "0.0012") for key in KEYS]
    assert [(one.key, one.run_id, one.status, one.usd) for one in output.present()] == expected
    output.close()
    again = open_output(path)
    assert [(one.key, one.run_id, one.status, one.usd) for one in again.present()] == expected
    again.close()
    assert written(path)[1]["answer"] == "b,c\n,\"b,c'"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", FORMS)
def test_a_later_start_goes_on(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    for key in KEYS:
        output = open_output(path, ["team", "score"])
        output.append([row(key, data={"team": key, "score": 1})])
        output.close()
    assert keys(path, fields=["team", "score"]) == KEYS
    assert len(written(path)) == len(KEYS)


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_replaced_and_dropped(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.append([row(key) for key in KEYS])
    output.close()
    path.chmod(0o640)
    output = open_output(path)
    output.replace(lambda key: "drop" if key == "b,c" else row(key, "anew") if key == "=1+1" else None)
    output.append([row("z")])
    output.replace(lambda key: row("Z", "last") if key == "z" else None)
    output.close()
    expected = [key for key in KEYS if key != "b,c"]
    assert keys(path) == [*expected, "Z"]
    assert [one["answer"] for one in written(path)] == [
        {"=1+1": "anew", "Z": "last"}.get(key, "an answer") for key in [*expected, "Z"]
    ]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", FORMS)
def test_replacing_in_nothing_and_of_everything(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.replace(lambda key: None)
    output.append([row("a"), row("b")])
    output.replace(lambda key: "drop")
    output.close()
    assert keys(path) == []
    output = open_output(path)
    output.append([row("c")])
    output.close()
    assert keys(path) == ["c"]


def test_a_line_of_jsonl_has_the_same_keys_whatever_came_of_the_row(tmp_path: Path) -> None:
    output = open_output(tmp_path / "out.jsonl", ["team"])
    output.append(
        [
            row("1", '{"team": "ü"}', data={"team": "ü"}),
            OutputRow("2", "partial", "half", run_id="m-2", usd=Decimal(0), unknown_calls=3),
            OutputRow("3", "failed", "", run_id="m-3", failure=Failure(reason="StageError", message="no")),
        ]
    )
    output.close()
    lines = written(tmp_path / "out.jsonl")
    assert [list(line) for line in lines] == [
        ["key", "status", "answer", "usd", "unknown_calls", "run", "failure"]
    ] * 3
    assert [line["answer"] for line in lines] == [{"team": "ü"}, "half", None]
    assert [line["usd"] for line in lines] == [0.0012, None, None]
    assert lines[2]["failure"] == {"reason": "StageError", "message": "no"}


FIELDS = ["team", "by.name", "tags", "status", "urgent", "score"]
DATA = {"team": "=x", "by": {"name": "Ada"}, "tags": ["a", "b"], "status": "open", "urgent": True, "score": 2.5}


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_fields_of_answers_become_columns(tmp_path: Path, form: str) -> None:
    output = open_output(tmp_path / f"out.{form}", FIELDS)
    output.append(
        [
            row("1", data=DATA),
            row("2", data={"team": None, "by": {}, "more": 1}),
            OutputRow("3", "failed", failure=Failure(reason="StageError", message="no\nmore"), unknown_calls=1),
            OutputRow("4", "partial", data={"team": "b", "by": None}, usd=Decimal("0.00000001"), unknown_calls=2),
        ]
    )
    output.close()
    head = [
        "key",
        "team",
        "by.name",
        "tags",
        "answer.status",
        "urgent",
        "score",
        "status",
        "usd",
        "unknown_calls",
        "run",
        "failure",
    ]
    rows = written(tmp_path / f"out.{form}")
    assert [list(one.values()) for one in rows] == [
        ["1", "'=x", "Ada", '["a", "b"]', "open", "true", "2.5", "ok", "0.0012", "0", "m-1", ""],
        ["2", "", "", "", "", "", "", "ok", "0.0012", "0", "m-1", ""],
        ["3", "", "", "", "", "", "", "failed", "", "1", "", "StageError: no\nmore"],
        ["4", "b", "", "", "", "", "", "partial", "0.00000001", "2", "", ""],
    ]
    assert list(rows[0]) == head
    assert (tmp_path / f"out.{form}").read_text().splitlines()[0] == ("," if form == "csv" else "\t").join(head)


def test_columns_of_parquet_have_the_types_of_their_values(tmp_path: Path) -> None:
    fields = ["team", "tags", "urgent", "score", "count", "mixed", "none", "large", "usd"]
    output = open_output(tmp_path / "out.parquet", fields)
    values: list[dict[str, Any]] = [
        {"team": "a", "tags": [1], "urgent": True, "score": 1, "count": 3, "mixed": "x", "large": 2**70, "usd": "y"},
        {"team": "b", "tags": [], "urgent": None, "score": 2.5, "count": None, "mixed": 1, "large": 1},
    ]
    output.append([row(str(number), data=data) for number, data in enumerate(values)])
    output.append([OutputRow("f", "failed", failure=Failure(reason="StageError", message="no"))])
    output.close()
    first, second, third = written(tmp_path / "out.parquet")
    assert first == {
        "key": "0",
        "team": "a",
        "tags": "[1]",
        "urgent": True,
        "score": 1.0,
        "count": 3,
        "mixed": "x",
        "none": None,
        "large": str(2**70),
        "answer.usd": "y",
        "status": "ok",
        "usd": 0.0012,
        "unknown_calls": 0,
        "run": "m-1",
        "failure": "",
    }
    assert (second["tags"], second["score"], second["count"], second["mixed"]) == ("[]", 2.5, None, "1")
    assert (third["team"], third["usd"], third["failure"]) == (None, None, "StageError: no")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(("data", "text"), [({"a": 1}, '{"a": 1}'), (["x"], '["x"]'), (None, "words"), (0, "0")])
def test_an_answer_of_unknown_form_is_one_column(tmp_path: Path, form: str, data: Any, text: str) -> None:
    output = open_output(tmp_path / f"out.{form}")
    output.append([row("1", "words", data=data), row("2", "words")])
    output.close()
    assert [one["answer"] for one in written(tmp_path / f"out.{form}")] == [text, "words"]


def test_without_a_path_lines_go_to_standard_output() -> None:
    out = io.BytesIO()
    output = open_output(None, stdout=out)
    assert list(output.present()) == []
    output.append([row("a")])
    output.append([row("b")])
    output.close()
    assert [json.loads(line)["key"] for line in out.getvalue().splitlines()] == ["a", "b"]


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_make_a_file_all_the_same(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.append([])
    output.close()
    assert written(path) == []
    assert keys(path) == []
    assert path.read_bytes() == {"csv": b"key,answer,status,usd,unknown_calls,run,failure\n"}.get(
        form, path.read_bytes()
    )


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_written_before_the_first_row(tmp_path: Path, form: str) -> None:
    output = open_output(tmp_path / f"out.{form}")
    assert list(output.present()) == []
    output.close()
    assert list(tmp_path.iterdir()) == []


HEAD = "key,answer,status,usd,unknown_calls,run,failure\n"
OURS = '{"key": "a", "status": "ok", "answer": "x", "usd": 0.1, "unknown_calls": 0, "run": "m-a", "failure": null}\n'


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("out.jsonl", '{"id": 1}\n', "line 1 is no row of a map: it lacks `key`, `status` or `run`; name"),
        ("out.jsonl", "a,b\n1,2\n", "line 1 is not JSON"),
        ("out.jsonl", "my notes", "has no end, and no map wrote it"),
        ("out.jsonl", f"{OURS}notes", "has no end, and no map wrote it"),
        ("out.jsonl", f"{OURS}\n", "line 2 is not JSON"),
        ("out.jsonl", '{"key": 1, "status": "ok", "run": "m-a"}\n', "line 1 is no row of a map"),
        ("out.jsonl", "[1]\n", "line 1 is no row of a map"),
        ("out.csv", "id,text\n1,x\n", "has the columns id, text; this map writes key, answer, status"),
        ("out.csv", "key,team,status,usd,unknown_calls,run,failure\na,b,ok,,0,m,\n", "has the columns key, team"),
        ("out.csv", HEAD.replace(",", ";"), "has the columns key;answer;status"),
        ("out.csv", OURS, "has the columns {"),
        ("out.csv", "my notes", "has no end, and no map wrote it"),
        ("out.csv", "my notes\nare\n", "has the columns my notes; this map writes key"),
        ("out.csv", HEAD + "a,b\n", "line 2: 2 values for 7 columns; name another file"),
        ("out.csv", HEAD + '"a"x,b,ok,,m,\n', "line 2: not CSV"),
        ("out.tsv", HEAD, "has the columns key,answer,status"),
        ("out.parquet", "key,answer\n", "is no Parquet file"),
        ("out.parquet.rows", "key,answer\n", "line 1 is not JSON"),
    ],
)
def test_a_file_that_no_map_wrote_stays_as_it_is(tmp_path: Path, name: str, raw: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(raw)
    with pytest.raises(UsageError) as caught:
        list(open_output(tmp_path / name.removesuffix(".rows")).present())
    assert says in str(caught.value)
    assert path.read_text() == raw
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_with_other_columns_stays_as_it_is(tmp_path: Path) -> None:
    output = open_output(tmp_path / "out.parquet", ["team"])
    output.append([row("a", data={"team": "x"})])
    output.close()
    before = (tmp_path / "out.parquet").read_bytes()
    with pytest.raises(
        UsageError, match=r"has the columns key, team, status, .*; this map writes key, answer, status"
    ):
        open_output(tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_a_table_that_a_spreadsheet_saved_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    output = open_output(path)
    output.append([row("a"), row("b")])
    output.close()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    output = open_output(path)
    output.append([row("c")])
    output.close()
    assert keys(path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out.txt", "out.txt': the name of an output ends in .jsonl, .ndjson, .csv, .tsv or .parquet"),
        ("out", "out': the name of an output ends in .jsonl"),
        ("gone/out.csv", "no folder '{}/gone' for '{}/gone/out.csv'; make it first"),
        ("folder.csv", "folder.csv' is a folder; name a file in it, such as '{}/folder.csv/out.jsonl'"),
        ("in.csv", "in.csv' is one of INPUTS, or would be at the next start; name another file with -o"),
        ("link.csv", "cannot write to '{}/link.csv': it is a link to "),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("folder.csv/x.csv")
    with pytest.raises(UsageError) as caught:
        open_output(tmp_path / name, read=lambda path: path.name == "in.csv")
    assert says.format(tmp_path, tmp_path) in str(caught.value)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_two_processes_do_not_write_to_one_file(tmp_path: Path, form: str) -> None:
    output = open_output(tmp_path / f"out.{form}")
    output.append([row("a")])
    with pytest.raises(UsageError, match="another process is writing to"):
        open_output(tmp_path / f"out.{form}").append([row("b")])
    output.close()
    assert keys(tmp_path / f"out.{form}") == ["a"]


def test_a_link_in_the_same_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "2026.jsonl").write_text("")
    (tmp_path / "out.jsonl").symlink_to("2026.jsonl")
    output = open_output(tmp_path / "out.jsonl")
    output.append([row("a"), row("b")])
    output.replace(lambda key: "drop" if key == "a" else None)
    output.close()
    assert (tmp_path / "out.jsonl").is_symlink()
    assert keys(tmp_path / "2026.jsonl") == ["b"]
