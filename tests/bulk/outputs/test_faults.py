"""Outputs that are cut off, killed, or on a full disk: whole lines only, and a later start goes on."""

import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.outputs import RowOutput, open_output
from fusion.core.errors import UsageError
from tests.bulk.outputs.conftest import FORMS, KEYS, LINES, keys, row, written
from tests.processes import exit_code

SOME = ["a,", 'b"\nc', "'=ü", "d"]


def lines_of(path: Path, **options: Any) -> list[bytes]:
    """The lines of an output of SOME keys, as they were appended one by one."""
    found, size = [], 0
    for key in SOME:
        output = open_output(path, **options)
        output.append([row(key, f'{key}"\n"', data={"a": f'{key}"\n"'})])
        output.close()
        raw = path.read_bytes()
        found.append(raw[size:])
        size = len(raw)
    return found


@pytest.mark.parametrize("form", LINES)
def test_a_line_torn_at_any_byte_is_cut_off(tmp_path: Path, form: str) -> None:
    lines = lines_of(tmp_path / f"whole.{form}", fields=["a"])
    whole = b"".join(lines)
    ends = {sum(map(len, lines[:count])): count for count in range(len(lines) + 1)}
    head = whole.index(b"\n") + 1 if form != "jsonl" else 0
    path = tmp_path / f"out.{form}"
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        kept = max(at for at in ends if at <= end)
        output = open_output(path, ["a"])
        assert [one.key for one in output.present()] == SOME[: ends[kept]], end
        assert path.stat().st_size == (head if kept == 0 and end >= head else kept), end
        output.close()


@pytest.mark.parametrize("form", FORMS)
def test_after_a_torn_line_rows_go_on(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.append([row(key) for key in KEYS])
    if form != "parquet":
        output.close()
    kept = tmp_path / (path.name if form != "parquet" else f"{path.name}.rows")
    torn = kept.read_bytes()[:-9]
    if form == "parquet":
        output.close()
        path.unlink()
    kept.write_bytes(torn)
    output = open_output(path)
    output.append([row("z")])
    output.close()
    assert keys(path) == [*KEYS[:-1], "z"]
    assert len(written(path)) == len(KEYS)


@pytest.mark.parametrize("form", LINES)
@pytest.mark.parametrize("tail", [b"\0" * 5, b"\0" * 4096])
def test_zeros_after_a_power_failure_are_cut_off(tmp_path: Path, form: str, tail: bytes) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.append([row("a")])
    output.close()
    path.write_bytes(path.read_bytes() + tail)
    assert keys(path) == ["a"]


# Killed.


def append(path: Path, seconds: float) -> None:
    """Append rows until this process has used so much of the processor, which kills it at any instruction."""
    loaded(path)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    output = open_output(path)
    number = sum(1 for _ in output.present())
    while True:
        output.append([row(f'{number + at}"\n,', "x" * 500) for at in range(5)])
        number += 5


def loaded(path: Path) -> None:
    """Load the library of the form, which takes longer than any of the instants."""
    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401


def replace(path: Path, seconds: float) -> None:
    loaded(path)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    output = open_output(path)
    for times in count():
        output.replace(lambda key, text=f"{times}" * 500: row(key, text))  # type: ignore[misc]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_killed_while_appending_every_row_is_there_once(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    instants = random.Random(form)
    before = 0
    for _ in range(4):
        assert exit_code(append, path, instants.uniform(0.01, 0.05)) == -signal.SIGPROF
        output = open_output(path)
        found = [one.key for one in output.present()]
        output.close()
        assert found == [f'{number}"\n,' for number in range(len(found))]
        assert len(found) >= before
        before = len(found)
    assert len(written(path)) == before > 100


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_killed_while_replacing_every_row_is_there_once(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    expected = [f"{number}" for number in range(200)]
    output = open_output(path)
    output.append([row(key) for key in expected])
    output.close()
    instants = random.Random(form)
    for _ in range(4):
        assert exit_code(replace, path, instants.uniform(0.01, 0.05)) == -signal.SIGPROF
        assert keys(path) == expected
    assert [one["key"] for one in written(path)] == expected
    assert list(tmp_path.iterdir()) == [path]


# A full disk.


def append_many(output: RowOutput) -> None:
    for number in range(1000):
        output.append([row(f"{number}-{at}", "x" * 100) for at in range(3)])


def replace_all(output: RowOutput) -> None:
    output.replace(lambda key: row(key, "x" * 5000))


def close_it(output: RowOutput) -> None:
    output.close()


def with_room(path: Path, work: Callable[[RowOutput], None], most: int, said: Path) -> None:
    """Work on an output on a disk on which no file grows above so many bytes."""
    output = open_output(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        work(output)
    except UsageError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said.write_text(str(error))


def on_a_full_disk(
    path: Path, tmp_path_factory: pytest.TempPathFactory, work: Callable[[RowOutput], None], most: int
) -> str:
    said = tmp_path_factory.mktemp("said") / "error"
    assert exit_code(with_room, path, work, most, said) == 0
    return said.read_text()


@pytest.mark.parametrize("form", FORMS)
def test_on_a_full_disk_no_part_of_a_line_is_left(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, form: str
) -> None:
    path = tmp_path / f"out.{form}"
    said = on_a_full_disk(path, tmp_path_factory, append_many, 10_000)
    assert "File too large; the lines above are whole, and the finished rows are kept: make room, and give" in said
    assert str(path) in said
    found = keys(path)
    assert len(found) > 10
    assert found == [f"{number}-{at}" for number in range(len(found) // 3) for at in range(3)]
    output = open_output(path)
    output.append([row("z")])
    output.close()
    assert keys(path) == [*found, "z"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
def test_on_a_full_disk_a_rewrite_leaves_the_file_as_it_was(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, form: str
) -> None:
    path = tmp_path / f"out.{form}"
    output = open_output(path)
    output.append([row(key) for key in KEYS])
    output.close()
    before = path.read_bytes()
    said = on_a_full_disk(path, tmp_path_factory, replace_all, 8_000)
    assert "make room, and give the same command again" in said
    assert keys(path) == KEYS
    if form != "parquet":
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_parquet_keeps_its_rows_beside_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path / "out.parquet"
    output = open_output(path)
    output.append([row(str(number), f"{random.Random(number).random()}" * 20) for number in range(300)])
    kept = (tmp_path / "out.parquet.rows").read_bytes()
    output.close()
    path.unlink()
    (tmp_path / "out.parquet.rows").write_bytes(kept)
    said = on_a_full_disk(path, tmp_path_factory, close_it, 2_000)
    assert "its rows are kept in" in said
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet.rows"]
    assert keys(path) == [str(number) for number in range(300)]
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.needs("/dev/full")
def test_a_full_device_is_named() -> None:
    output = open_output("/dev/full")
    with pytest.raises(UsageError, match=r"cannot write to /dev/full: No space left on device; with `-o FILE`"):
        output.append([row("a")])
    output.close()


def test_a_reader_that_is_gone_ends_the_writer(tmp_path: Path) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as child:
        child.wait()
        assert child.stdin is not None
        with pytest.raises(BrokenPipeError):
            open_output(None, stdout=child.stdin.raw).append([row("a")])  # type: ignore[attr-defined]


# Size.

MEASURED = """
import resource, sys
from pathlib import Path
from fusion.bulk.outputs import open_output
from tests.bulk.outputs.conftest import row

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

output = open_output(Path(sys.argv[1]))
text = "x" * 2000
before = used()
for number in range(40):
    output.append([row(f"{number}-{at}", text) for at in range(100)])
count = sum(1 for _ in output.present())
output.replace(lambda key: row(key, "anew") if key == "7-7" else None)
grown = used() - before
output.close()
print(count, grown, used() - before)
"""


@pytest.mark.parametrize(("form", "at_the_end"), [("jsonl", 5), ("csv", 5), ("parquet", 150)])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, form: str, at_the_end: int) -> None:
    path = tmp_path / f"out.{form}"
    printed = subprocess.check_output([sys.executable, "-c", MEASURED, str(path)], text=True)
    count, grown, ended = map(int, printed.split())
    assert count == 4_000
    assert grown < 5
    assert ended < at_the_end
