"""A map reads INPUTS of every kind, and writes outputs of every form."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, ModelInfo, Pipeline, ScriptedModel, UsageError
from fusion.core.errors import StageError
from tests.bulk.outputs.conftest import written
from tests.bulk.test_map import Desk
from tests.conftest import said

READ = """
name: read
inputs: {document: A document.}
stages:
  answer:
    kind: generate
    role: bulk
    schema: {first: string, by: {status: string}, words: integer}
    prompt: "{{ inputs.document }}"
output: answer
"""
SEE = """
inputs: {photo: {format: image}}
stages: {answer: {kind: generate, role: bulk, prompt: "See {{ inputs.photo }}"}}
output: answer
"""
TEXTS = ["=one, two", 'three\n"four"', "fünf"]
Given = Callable[[Path], Any]


def csv(folder: Path) -> Path:
    quoted = "".join('"' + text.replace('"', '""') + '"\n' for text in TEXTS)
    (folder / "in.csv").write_text(f"text\n{quoted}")
    return folder / "in.csv"


def tsv(folder: Path) -> Path:
    quoted = "".join(f'{number}\t"' + text.replace('"', '""') + '"\n' for number, text in enumerate(TEXTS))
    (folder / "in.tsv").write_text(f"id\ttext\n{quoted}")
    return folder / "in.tsv"


def jsonl(folder: Path) -> Path:
    (folder / "in.jsonl").write_text("".join(json.dumps({"document": text}) + "\n" for text in TEXTS))
    return folder / "in.jsonl"


def packed(folder: Path) -> str:
    (folder / "in.jsonl.gz").write_bytes(gzip.compress(jsonl(folder).read_bytes()))
    return str(folder / "in.jsonl.gz")


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"document": TEXTS, "id": [1, 2, 3]}), folder / "in.parquet")
    return folder / "in.parquet"


def documents(folder: Path) -> Path:
    (folder / "docs/deep").mkdir(parents=True, exist_ok=True)
    for name, text in zip(["a.md", "b.txt", "deep/c.md"], TEXTS, strict=True):
        (folder / "docs" / name).write_text(text)
    return folder / "docs"


def pattern(folder: Path) -> str:
    return f"{documents(folder)}/**/*.*"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in documents(folder).rglob("*.*"))


def texts(folder: Path) -> list[str]:
    return TEXTS


def mappings(folder: Path) -> Any:
    return ({"document": text, "other": 1} for text in TEXTS)


class Reader(Desk):
    """A desk whose model answers with the first word of a document; `broken` ones fail."""

    def script(self, request: Any) -> Any:
        text = said(request)
        if not any(one in text for one in self.broken):
            self.asked[text] += 1
            return json.dumps({"first": text.split()[0], "by": {"status": "ü"}, "words": len(text.split())})
        raise StageError("cannot read this")

    def read(self, inputs: Any, **options: Any) -> Any:
        given = {"pipeline": READ, "key": None, **options}
        return self.map(inputs, **given)[1]


@pytest.fixture
def desk(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize(
    "given",
    [csv, tsv, jsonl, packed, parquet, documents, pattern, files, texts, mappings],
    ids=lambda one: one.__name__,
)
def test_inputs_of_every_kind_go_to_every_form(desk: Reader, tmp_path: Path, given: Given, form: str) -> None:
    desk.output = tmp_path / f"out.{form}"
    (tmp_path / "in").mkdir()
    report = desk.read(given(tmp_path / "in"))
    assert (report.status, report.rows, report.ok) == ("ok", 3, 3)
    before = desk.output.read_bytes()
    rows = written(desk.output)
    firsts = [row["answer"]["first"] if form == "jsonl" else row["first"] for row in rows]
    guarded = "'=one," if form in ("csv", "tsv") else "=one,"
    assert sorted(firsts) == sorted([guarded, "three", "fünf"])
    again = desk.read(given(tmp_path / "in"))
    assert (again.kept, again.rows) == (3, 3)
    assert desk.asked.total() == 3
    assert desk.output.read_bytes() == before


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
def test_failed_rows_have_a_line_and_a_changed_one_is_replaced(desk: Reader, tmp_path: Path, form: str) -> None:
    desk.output = tmp_path / f"out.{form}"
    desk.broken = {"three"}
    report = desk.read(documents(tmp_path))
    assert (report.ok, report.failed) == (2, 1)
    rows = {row["key"]: row for row in written(desk.output)}
    assert [row["status"] for _, row in sorted(rows.items())] == ["ok", "failed", "ok"]
    assert "cannot read this" in str(rows["b.txt"]["failure"])
    (tmp_path / "docs/a.md").write_text("changed")
    desk.broken = set()
    report = desk.read(tmp_path / "docs", retry_failed=True)
    assert (report.ok, report.failed, report.rows) == (3, 0, 3)
    rows = {row["key"]: row for row in written(desk.output)}
    assert {key: (row["answer"] if form == "jsonl" else row)["first"] for key, row in rows.items()} == {
        "a.md": "changed",
        "b.txt": "three",
        "deep/c.md": "fünf",
    }
    assert len(written(desk.output)) == 3


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_fields_of_the_answer_are_columns(desk: Reader, tmp_path: Path, form: str) -> None:
    desk.output = tmp_path / f"out.{form}"
    desk.read(csv(tmp_path))
    row = next(row for row in written(desk.output) if row["first"] == "three")
    assert list(row) == ["key", "first", "by.status", "words", "status", "usd", "unknown_calls", "run", "failure"]
    assert (row["by.status"], str(row["words"]), row["status"], float(row["usd"]) > 0) == ("ü", "2", "ok", True)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_of_unknown_cost_are_written_once(tmp_path: Path, form: str) -> None:
    model = ScriptedModel("yes", info=ModelInfo(id="some/model", provider="some"))
    with Fusion(roles={"bulk": model}, store=tmp_path / "runs.db") as fusion:
        text = READ.replace("schema", "# schema")
        options: Any = {"pipeline": Pipeline.from_yaml(text), "id": "m", "output": tmp_path / f"out.{form}"}
        list(fusion.map(TEXTS, **options))
        before = (tmp_path / f"out.{form}").stat()
        list(fusion.map(TEXTS, **options))
    after = (tmp_path / f"out.{form}").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert {(row["answer"], row["usd"], str(row["unknown_calls"])) for row in written(tmp_path / f"out.{form}")} == {
        ("yes", "" if form == "csv" else None, "1")
    }


def test_a_file_that_cannot_be_read_is_a_failed_row(desk: Reader, tmp_path: Path) -> None:
    (documents(tmp_path) / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    report = desk.read(tmp_path / "docs")
    assert (report.ok, report.failed) == (3, 1)
    row = next(row for row in desk.lines if row["status"] == "failed")
    assert row["key"] == "logo.png"
    assert "a binary file, not text; select the files with a pattern, such as" in row["failure"]["message"]


def test_pictures_go_to_an_input_of_pictures(desk: Reader, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]))
    seen: list[str] = []

    def script(request: Any) -> str:
        seen.extend(file.name for message in request.messages for _, file in message.files)
        return "a picture"

    model = ScriptedModel(script, info=ModelInfo(id="some/model", provider="some", takes=frozenset({"image"})))
    with Fusion(roles={"bulk": model}, store=tmp_path / "runs.db") as fusion:
        rows = list(fusion.map(tmp_path / "photos", pipeline=Pipeline.from_yaml(SEE)))
    assert sorted(row.key for row in rows) == sorted(seen) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (csv, "in.csv"),
        (jsonl, "in.jsonl"),
        (documents, "docs/out.jsonl"),
        (documents, "docs/deep/out.csv"),
        (pattern, "docs/out.csv"),
    ],
)
def test_an_output_among_the_inputs_is_refused(desk: Reader, tmp_path: Path, given: Given, output: str) -> None:
    inputs = given(tmp_path)
    desk.output = tmp_path / output
    with pytest.raises(
        UsageError, match="is one of INPUTS, or would be at the next start; name another file with -o"
    ):
        desk.read(inputs)
    assert desk.asked.total() == 0
