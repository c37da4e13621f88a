"""INPUTS of any size: memory stays flat, and a row has a bound."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.sources import open_source
from fusion.core.errors import InputError
from fusion.pipeline.rows import parsing

SIZE = 50_000_000
MEASURED = """
import resource, sys
from pathlib import Path
from fusion.bulk.sources import open_source

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

given = sys.argv[1]
source = open_source(given, stdin=sys.stdin.buffer)
rows = source.rows()
next(rows)
before = used()
count = 1 + sum(1 for _ in rows)
print(count, used() - before)
"""


def fill(path: Path, head: str, line: str) -> int:
    count = SIZE // len(line)
    with path.open("w") as file:
        file.write(head)
        for _ in range(count // 1000):
            file.write(line * 1000)
    return count // 1000 * 1000


@pytest.mark.parametrize(
    ("name", "head", "line", "piped"),
    [
        ("t.csv", "id,text\n", "1," + "x" * 2000 + "\n", False),
        ("t.jsonl", "", '{"id": 1, "text": "' + "x" * 2000 + '"}\n', False),
        ("t.jsonl", "", '{"id": 1, "text": "' + "x" * 2000 + '"}\n', True),
    ],
)
def test_memory_does_not_grow_with_the_table(tmp_path: Path, name: str, head: str, line: str, piped: bool) -> None:
    count = fill(tmp_path / name, head, line)
    given = "-" if piped else str(tmp_path / name)
    with (tmp_path / name).open("rb") as file:
        printed = subprocess.check_output([sys.executable, "-c", MEASURED, given], stdin=file, text=True)
    read, grown = map(int, printed.split())
    assert read == count
    assert grown < 5


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}.md").write_text("x" * 300_000)
    printed = subprocess.check_output([sys.executable, "-c", MEASURED, str(tmp_path)], text=True)
    read, grown = map(int, printed.split())
    assert read == 300
    assert grown < 5


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "t.jsonl",
            '{"a": 1}\n{"a": "' + "x" * 1000 + '"}\n',
            "line 2: a line of more than 1,000 bytes; give one row",
        ),
        ("t.csv", "a\n" + "x" * 1001 + "\n", "line 2: a line of more than 1,000 bytes; give one row on each line"),
        ("t.csv", 'a\n"' + "x\n" * 1000, "line 2: a row of more than 1,000 bytes; is a quote not closed?"),
        ("t.csv", 'a,b\n1,2\n\n1,"' + "x\n" * 1000 + '"\n', "line 4: a row of more than 1,000 bytes; is a quote not"),
        ("t.tsv", "a\n1\n" + "x" * 2000, "line 3: a line of more than 1,000 bytes"),
    ],
)
def test_a_row_over_the_bound_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    monkeypatch.setattr(parsing, "MAX_ROW", 1000)
    (tmp_path / name).write_text(text)
    stream: Any = io.BufferedReader(io.BytesIO(text.encode()))  # type: ignore[arg-type]
    for given in (str(tmp_path / name), "-"):
        with pytest.raises(InputError) as caught:
            list(open_source(given, stdin=stream).rows())
        assert says in str(caught.value)
