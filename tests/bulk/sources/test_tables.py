"""Tables as INPUTS: CSV, TSV and JSONL, from files, compressed files and streams."""

import gzip
import io
import lzma
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.sources import SourceRow, open_source
from fusion.core.errors import InputError


def read(given: Any, **options: Any) -> list[SourceRow]:
    return list(open_source(given, **options).rows())


def stdin(text: str | bytes) -> Any:
    return io.BufferedReader(io.BytesIO(text.encode() if isinstance(text, str) else text))  # type: ignore[arg-type]


TABLES = [
    ("t.jsonl", '{"id": "1", "text": "a, b"}\n\n{"id": "2", "text": "ü"}\n'),
    ("t.ndjson", '\ufeff{"id": "1", "text": "a, b"}\r\n{"id": "2", "text": "ü"}'),
    ("t.csv", 'id,text\n1,"a, b"\n\n2,ü\n'),
    ("t.CSV", "\ufeffid;text\r\n1;a, b\r\n2;ü\r\n"),
    ("t.csv", "sep=|\nid|text\n1|a, b\n2|ü"),
    ("t.tsv", "id\ttext\n1\ta, b\n2\tü\n"),
]


@pytest.mark.parametrize(("name", "text"), TABLES)
def test_a_table_gives_its_rows_in_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    source = open_source(tmp_path / name)
    rows = list(source.rows())
    assert [dict(row.values) for row in rows] == [{"id": "1", "text": "a, b"}, {"id": "2", "text": "ü"}]
    assert source.columns == ("id", "text")
    assert [row.path for row in rows] == [None, None]
    assert rows[1].where.startswith(str(tmp_path / name) + " line ")
    assert list(source.rows()) == rows


@pytest.mark.parametrize(("name", "text"), TABLES)
def test_packed_and_from_a_stream_it_is_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    expected = [row.values for row in read(tmp_path / name)]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
    assert [row.values for row in read(tmp_path / f"{name}.gz")] == expected
    assert [row.values for row in read(str(tmp_path / f"{name}.xz"))] == expected
    source = open_source("-", stdin=stdin(text))
    assert [row.values for row in source.rows()] == expected
    assert (source.rewindable, source.identity) == (False, None)


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("t.jsonl", b"", "t.jsonl' is empty; give one JSON object on each line"),
        ("t.jsonl", b'{"a": 1}\n{"a": "b', "t.jsonl line 2: not JSON: Unterminated string"),
        ("t.jsonl", b'{"a": 1}\n{"a": "b', "; the last line is cut off"),
        ("t.jsonl", b'{"a": 1}\n{"a": {"b": 1}', "; the last line is cut off"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\xc3', "t.jsonl line 2: the last line is cut off within a character"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "t.jsonl line 2: not UTF-8 text (byte 8 of the line); save it as"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', "t.jsonl line 2: list, not an object; a row is {…}"),
        ("t.jsonl", '{"a": 1}'.encode("utf-16"), "t.jsonl line 1: UTF-16 text; save it as UTF-8"),
        ("t.csv", b"", "t.csv' is empty; give the names of the columns on the first line"),
        ("t.csv", b"\n \n", "t.csv' is empty"),
        ("t.csv", b"a,b,a\n1,2,3\n", "t.csv line 1: two columns are named 'a'"),
        ("t.csv", b"a,,b\n1,2,3\n", "t.csv line 1: column 2 has no name"),
        ("t.csv", b"a,b\n1,2\n3\n", "t.csv line 3: 1 values for 2 columns; fill the row"),
        ("t.csv", b"a,b\n1,2\n3", "t.csv line 3: 1 values for 2 columns; the last line is cut off"),
        ("t.csv", b"a,b\n1,2,3\n", "t.csv line 2: 3 values for 2 columns; put values that hold the delimiter"),
        ("t.csv", b"a,b\n1,\xe4\n", "t.csv line 2: not UTF-8 text (byte 3 of the line); save it as UTF-8"),
        ("t.csv", b"a,b\n1,\0\n", "t.csv line 2: a NUL character, which no text has: is it a binary file?"),
        (
            "t.csv",
            b'a,b\n1,"2\n3,4\n',
            "t.csv line 2: not CSV: unexpected end of data; a quote is not closed",
        ),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "t.csv.gz: the compressed file is cut off"),
        ("t.csv.gz", b"a,b\n1,2\n", "t.csv.gz: cannot unpack it as gz: Not a gzipped file"),
        ("t.csv.xz", b"a,b\n1,2\n", "t.csv.xz: cannot unpack it as xz"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, raw: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert says in str(caught.value)
    if not name.endswith(("z", "tsv")):
        with pytest.raises(InputError, match="standard input"):
            read("-", stdin=stdin(raw))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "standard input is empty"),
        ("\n\n", "standard input is empty"),
        ('[{"a": 1}]', "standard input begins with a JSON list; give one object on each line"),
        ("PAR1\x15", "standard input is Parquet, which is not read from a stream; give its file"),
    ],
)
def test_a_stream_that_is_no_table_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read("-", stdin=stdin(text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        [{"text": "a"}, {"text": "b"}],
        ["a", "b"],
        ({"text": "a"}, "b"),
        iter([{"text": "a"}, {"text": "b"}]),
        (text for text in "ab"),
    ],
)
def test_rows_from_python(given: Any) -> None:
    source = open_source(given)
    assert [(dict(row.values), row.where) for row in source.rows()] == [
        ({"text": "a"}, "row 1 of the inputs"),
        ({"text": "b"}, "row 2 of the inputs"),
    ]
    assert source.identity is None
    assert source.progress()[0] == 2
    assert source.rewindable is isinstance(given, (list, tuple))


def test_a_row_from_python_is_a_mapping_or_a_text() -> None:
    with pytest.raises(InputError, match="row 2 of the inputs is int; give a mapping of inputs, or a text"):
        read([{"a": 1}, 5])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tikets.csv", "tikets.csv'; did you mean 'tickets.csv'?"),
        ("away/tickets.csv", "away/tickets.csv'"),
        ("tickets.csv/x", "Not a directory"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "tickets.csv").write_text("a\n1\n")
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert says in str(caught.value)
