"""Output as JSONL: appended in whole lines, read back, replaced."""

import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.outputs import OutputRow, open_output
from fusion.core.errors import UsageError
from fusion.core.types import Failure

KEYS = ["a", "b,c", 'd"e', "f\ng", "ü 日本 \u2028", "=1+1", "'=1", "", " g "]


def row(key: str, text: str = "an answer", **more: Any) -> OutputRow:
    return OutputRow(key, "ok", text, usd=Decimal("0.0012"), run_id=f"m-{key}", **more)


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    output.append([row(key) for key in KEYS[:4]])
    output.append([row(key) for key in KEYS[4:]])
    output.close()
    again = open_output(path)
    assert [(one.key, one.run_id, one.status, one.usd) for one in again.present()] == [
        (key, f"m-{key}", "ok", "0.0012") for key in KEYS
    ]
    again.close()


def test_a_line_has_the_same_keys_whatever_came_of_the_row(tmp_path: Path) -> None:
    output = open_output(tmp_path / "out.jsonl")
    output.append(
        [
            row("1", '{"team": "ü"}', data={"team": "ü"}),
            OutputRow("2", "partial", "half", run_id="m-2", usd=Decimal(0), unknown_calls=3),
            OutputRow("3", "failed", "", run_id="m-3", failure=Failure(reason="StageError", message="no")),
        ]
    )
    output.close()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [
        ["key", "status", "answer", "usd", "unknown_calls", "run", "failure"]
    ] * 3
    assert [line["answer"] for line in lines] == [{"team": "ü"}, "half", None]
    assert [line["usd"] for line in lines] == [0.0012, 0, None]
    assert lines[2]["failure"] == {"reason": "StageError", "message": "no"}


def test_lines_are_replaced_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    output.append([row(key) for key in "abc"])
    path.chmod(0o640)
    output.replace(lambda key: {"a": None, "b": "drop", "c": row("c", "anew")}[key])  # type: ignore[return-value]
    output.append([row("d")])
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == [
        "an answer",
        "anew",
        "an answer",
    ]
    assert [one.key for one in output.present()] == ["a", "c", "d"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_path_lines_go_to_standard_output() -> None:
    out = io.BytesIO()
    output = open_output(None, stdout=out)
    assert list(output.present()) == []
    output.append([row("a"), row("b")])
    assert [json.loads(line)["key"] for line in out.getvalue().splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ('{"id": 1}\n', "line 1 is no row of a map: it lacks `key`, `status` or `run`; name another file with -o"),
        ("a,b\n1,2\n", "line 1 is not JSON"),
        ("my notes", "has no end, and no map wrote it"),
        ('{"key": "a", "status": "ok", "run": "m-a"}\nnotes', "has no end, and no map wrote it"),
        ('{"key": 1, "status": "ok", "run": "m-a"}\n', "line 1 is no row of a map"),
        ("[1]\n", "line 1 is no row of a map"),
    ],
)
def test_a_file_that_no_map_wrote_stays_as_it_is(tmp_path: Path, raw: str, says: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(raw)
    with pytest.raises(UsageError) as caught:
        list(open_output(path).present())
    assert says in str(caught.value)
    assert path.read_text() == raw
