"""fusion map: files that cannot be read or written are named with their place, before any call and without a loss."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Ran
from tests.cli.scripted import on_scripted_models
from tests.cli.test_map import TEXT

Fusion = Callable[..., Ran]
FILES = {
    "ok.csv": b"id,text\n1,one\n2,two\n",
    "empty.csv": b"",
    "empty.jsonl": b"\n",
    "twice.csv": b"id,text,id\n1,x,2\n",
    "wide.csv": b"id,text\n1,a,b\n",
    "latin.csv": b"id,text\n1,Gr\xfc\xdfe\n",
    "torn.csv": b"id,text\n1,a\n2",
    "torn.jsonl": b'{"id": 1, "text": "a"}\n{"id": 2, "te',
    "list.jsonl": b"[1, 2]\n",
    "utf16.csv": "id,text\n1,a\n".encode("utf-16"),
    "quote.csv": b'id,text\n1,"a\n2,b\n',
    "torn.csv.gz": gzip.compress(b"id,text\n1,a\n" * 99)[:-12],
    "plain.csv.gz": b"id,text\n1,a\n",
    "all.json": b'[{"id": 1}]',
    "sheet.xlsx": b"PK\3\4",
    "text.parquet": b"id,text\n1,a\n",
    "other.jsonl": b'{"name": "x"}\n',
    "other.csv": b"name,text\nx,y\n",
    "notes.csv": b"my notes",
    "docs/a.md": b"one",
    "docs/b.md": b"two",
}


@pytest.fixture
def fusion(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fusion:
    on_scripted_models(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "none").mkdir()
    for name, raw in FILES.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "tickets.yaml").write_text(TEXT)
    return command


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "empty.csv",
            "'empty.csv' is empty; give the names of the columns on the first line, and a row on each line",
        ),
        ("empty.jsonl", "'empty.jsonl' is empty; give one JSON object on each line"),
        ("twice.csv", "twice.csv line 1: two columns are named 'id'"),
        ("wide.csv", "wide.csv line 2: 3 values for 2 columns; put values that hold the delimiter"),
        ("latin.csv", "latin.csv line 2: not UTF-8 text (byte 5 of the line); save it as UTF-8"),
        ("torn.csv", "torn.csv line 3: 1 values for 2 columns; the last line is cut off"),
        (
            "torn.jsonl",
            "torn.jsonl line 2: not JSON: Unterminated string starting at, column 11; the last line",
        ),
        ("list.jsonl", "list.jsonl line 1: list, not an object; a row is {…}"),
        ("utf16.csv", "utf16.csv line 1: UTF-16 text; save it as UTF-8"),
        (
            "quote.csv",
            "quote.csv line 2: not CSV: unexpected end of data; a quote is not closed, or the last line is",
        ),
        ("torn.csv.gz", "torn.csv.gz: the compressed file is cut off; make or fetch it again"),
        ("plain.csv.gz", "plain.csv.gz: cannot unpack it as gz"),
        (
            "all.json",
            "'all.json' is no table that can be read line by line; write one object on each line, as `jq -c",
        ),
        ("sheet.xlsx", "'sheet.xlsx' is no table that can be read line by line; save the sheet as CSV"),
        ("text.parquet", "'text.parquet' is no Parquet file"),
        ("ok.cvs", "no file or folder 'ok.cvs'; did you mean 'ok.csv'?"),
        ("none", "no files match 'none'; hidden ones do not count"),
        ("docs/*.rst", "no files match 'docs/*.rst'"),
        ("docs docs/a.md", "'docs' is no file; give one folder, one pattern in quotes, or several files"),
        ("docs/a.md gone.md", "no file or folder 'gone.md'"),
        ("docs/a.md -", "standard input is one of several INPUTS; give it alone"),
        ("- --format parquet", "standard input is a stream, which is read as JSONL, CSV or TSV"),
        ("ok.csv --format jsonl", "ok.csv line 1: not JSON: Expecting value, column 1"),
        ("ok.csv -i text=txt", "input 'text': 'ok.csv' has no column 'txt'; did you mean 'text'?"),
        ("ok.csv -i txt=text", "--input txt=…: 'tickets' has no input 'txt'; did you mean 'text'?"),
        ("ok.csv --set tune=x", "--set tune=…: 'tickets' has no input 'tune'; did you mean 'tone'?"),
        ("other.csv -i text=name --key id", "'other.csv' has no column 'id' for --key"),
        (
            "ok.csv -o other.jsonl",
            "other.jsonl line 1 is no row of a map: it lacks `key`, `status` or `run`; name",
        ),
        (
            "ok.csv -o other.csv",
            "'other.csv' has the columns name, text; this map writes key, answer, status",
        ),
        (
            "ok.csv -o notes.csv",
            "the last line of 'notes.csv' has no end, and no map wrote it; name another file with",
        ),
        ("ok.csv -o text.parquet", "'text.parquet' is no Parquet file"),
        ("ok.csv -o ok.csv", "'ok.csv' is one of INPUTS, or would be at the next start; name another file with -o"),
        ("docs -o docs/out.csv", "'docs/out.csv' is one of INPUTS, or would be at the next start"),
        ("docs/a.md docs/b.md -o docs/out.csv", ""),
        ("ok.csv -o out.txt", "'out.txt': the name of an output ends in .jsonl, .ndjson, .csv, .tsv or .parquet"),
        ("ok.csv -o gone/out.csv", "no folder 'gone' for 'gone/out.csv'; make it first"),
        ("ok.csv -o docs", "the name of an output ends in .jsonl"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_kept(fusion: Fusion, tmp_path: Path, given: str, said: str) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.name in FILES}
    done = fusion("map", "tickets.yaml", *given.split(), "-m", "scripted/echo", stdin=b"text\nx\n")
    if said:
        assert done.code == 2
        assert said in done.err
        assert done.out == "" or given in ("torn.csv", "torn.csv.gz")  # the rows before are whole
    else:
        assert (done.code, done.err.count("ok")) == (0, 1), done.err
    assert "Traceback" not in done.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.needs("/dev/full")
def test_a_full_disk_is_told_with_the_way_on(fusion: Fusion) -> None:
    done = fusion("map", "tickets.yaml", "ok.csv", "-o", "/dev/full", "-m", "scripted/echo")
    assert done.code == 2
    assert "cannot write to /dev/full: No space left on device; with `-o FILE` a later start goes on" in done.err
    assert "to go on: fusion map tickets.yaml ok.csv" in done.err
    assert "Traceback" not in done.err
