"""Files as INPUTS: folders, patterns and lists of files."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fusion.bulk.sources import RowSource, open_source
from fusion.core.errors import InputError
from fusion.core.types import File

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
FILES = {
    "a.md": "A",
    "b.txt": "B",
    "c d.md": "C",
    ".hidden.md": "no",
    "sub/e.md": "E",
    "sub/.git/f.md": "no",
    "sub/deep/ü.md": "Ü",
    "sub/deep/g.txt": "G",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "docs"


def keys(source: RowSource) -> list[str | None]:
    return [row.path for row in source.rows()]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs", ["a.md", "b.txt", "c d.md", "sub/deep/g.txt", "sub/deep/ü.md", "sub/e.md"]),
        ("docs/", ["a.md", "b.txt", "c d.md", "sub/deep/g.txt", "sub/deep/ü.md", "sub/e.md"]),
        ("docs/*.md", ["a.md", "c d.md"]),
        ("docs/**/*.md", ["a.md", "c d.md", "sub/deep/ü.md", "sub/e.md"]),
        ("docs/**", ["a.md", "b.txt", "c d.md", "sub/deep/g.txt", "sub/deep/ü.md", "sub/e.md"]),
        ("docs/*/*.md", ["sub/e.md"]),
        ("docs/sub/**/*.txt", ["deep/g.txt"]),
        ("docs/[ab].*", ["a.md", "b.txt"]),
        ("docs/?.md", ["a.md"]),
        ("docs/.*.md", [".hidden.md"]),
        ("do*/a.md", ["docs/a.md"]),
        ("docs/a.md", ["a.md"]),
    ],
)
def test_a_file_is_a_row_with_its_path_and_text(
    docs: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    for given in (docs.parent / pattern, str(docs.parent / pattern)):
        source = open_source(given)
        assert keys(source) == expected
    monkeypatch.chdir(docs.parent)
    relative = open_source(pattern)
    assert keys(relative) == expected
    assert relative.identity == source.identity
    first = next(source.rows())
    assert first.values == {"path": expected[0], "text": Path(first.where).read_text()}
    assert source.columns == ("path", "text")
    assert source.progress() == (0.0, len(expected))


@pytest.mark.parametrize("pattern", ["*.md", "sub/*.md", "*/*.md", "*.*", "sub/deep/*.txt"])
def test_a_pattern_that_the_shell_expands_is_the_same(docs: Path, pattern: str) -> None:
    quoted = open_source(docs / pattern)
    printed = subprocess.run(
        f"printf '%s\\n' '{docs}'/{pattern}", shell=True, capture_output=True, text=True, check=True
    )
    expanded = open_source([Path(one) for one in printed.stdout.splitlines()])
    assert [row.values["text"] for row in quoted.rows()] == [row.values["text"] for row in expanded.rows()]
    if pattern.startswith(("*.md", "sub")):
        assert keys(quoted) == keys(expanded)
        assert quoted.identity == expanded.identity


def test_a_grown_folder_has_the_same_identity(docs: Path) -> None:
    before = [open_source(given).identity for given in (docs, docs / "*.md", [docs / "a.md", docs / "c d.md"])]
    (docs / "z.md").write_text("Z")
    grown = [docs / "a.md", docs / "c d.md", docs / "z.md"]
    assert [open_source(given).identity for given in (docs, docs / "*.md", grown)] == before
    assert len(set(before)) == 2


def test_several_files_have_the_paths_below_their_common_folder(docs: Path) -> None:
    source = open_source([docs / "sub/e.md", docs / "a.md", docs / "a.md"])
    assert keys(source) == ["a.md", "sub/e.md"]


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("x.bin", b"\0\1\2", "a binary file, not text; select the files with a pattern"),
        ("x.txt", "Grüße".encode("latin-1"), "not UTF-8 text (byte 2); save it as UTF-8"),
        ("x.png", PNG, "a binary file, not text") if b"\0" in PNG else ("x.png", PNG, "not UTF-8 text (byte 0)"),
        ("x.docx", b"PK\3\4\0", "a binary file, not text"),
        ("x.txt", b"a\xc3", "not UTF-8 text (byte 1)"),
        ("x.txt", b"", "an empty file"),
        ("x.txt", b" \n", "an empty file"),
    ],
)
def test_a_file_that_is_no_text_is_a_row_with_a_problem(docs: Path, name: str, raw: bytes, says: str) -> None:
    (docs / name).write_bytes(raw)
    rows = list(open_source(docs).rows())
    assert [row.path for row in rows if row.problem] == [name]
    assert says in str(next(row.problem for row in rows if row.problem))


def test_a_file_over_the_bound_is_a_row_with_a_problem(docs: Path) -> None:
    with (docs / "large.txt").open("wb") as file:
        file.truncate(100_000_001)
    problem = next(row.problem for row in open_source(docs / "large.txt").rows())
    assert problem == "more than 100 MB, more than any model reads; cut it into parts"


def test_a_file_that_is_gone_since_the_listing_is_a_row_with_a_problem(docs: Path) -> None:
    source = open_source([docs / "a.md", docs / "b.txt"])
    (docs / "a.md").unlink()
    assert [row.problem for row in source.rows()] == ["cannot read the file: No such file or directory", None]


def test_pictures_and_documents_are_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "c.md").write_text("text")
    source = open_source(tmp_path, media=True)
    rows = list(source.rows())
    kinds = [row.values["file"].kind for row in rows if isinstance(row.values.get("file"), File)]
    assert kinds == ["image", "pdf"]
    assert source.columns == ("path", "file")
    assert "the file has an unsupported type by its first bytes; give PNG, JPEG" in str(rows[2].problem)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("empty", "no files match '{}/empty'"),
        ("docs/*.rst", "no files match '{}/docs/*.rst'"),
        ("docs/*.{{md,txt}}", "no files match"),
        ("gone", "no file or folder '{}/gone'"),
        ("gone/*.md", "cannot read the folder '{}/gone': No such file or directory"),
        ("doc", "no file or folder '{}/doc'; did you mean 'docs'?"),
        ("t.json", "write one object on each line, as `jq -c '.[]'` does, to a file that ends in .jsonl"),
        ("t.xlsx", "save the sheet as CSV"),
        ("a\0b", "embedded null"),
    ],
)
def test_inputs_that_are_not_there_are_named(docs: Path, given: str, says: str) -> None:
    root = docs.parent
    (root / "empty").mkdir()
    (root / "empty/.hidden").write_text("x")
    for name in ("t.json", "t.xlsx"):
        (root / name).write_text("[]")
    with pytest.raises(InputError) as caught:
        open_source(f"{root}/{given}")
    assert says.format(root) in str(caught.value)


@pytest.mark.parametrize("given", [["docs", "docs/a.md"], ["docs/a.md", "docs/*.txt"], ["docs/a.md", "gone.md"]])
def test_several_paths_are_files(docs: Path, given: list[str]) -> None:
    with pytest.raises(InputError, match=r"is no file; give one folder|no file or folder"):
        open_source([docs.parent / one for one in given])


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_tables_in_parts_are_read_one_after_the_other(tmp_path: Path, form: Any) -> None:
    texts = {"jsonl": '{{"id": "{}"}}\n', "csv": "id\n{}\n", "tsv": "id\n{}\n"}
    for name in "abc":
        (tmp_path / f"{name}.{form}").write_text(texts[form].format(name))
    paths = sorted(tmp_path.iterdir())
    for given in (tmp_path, tmp_path / f"*.{form}", paths):
        source = open_source(given, format=form)
        assert [row.values for row in source.rows()] == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
        done, total = source.progress()
        assert done == total == sum(path.stat().st_size for path in paths)
        documents = open_source(given)
        assert keys(documents) == [path.name for path in paths]
        assert f"is one row, as text; `--format {form}` reads their rows" in str(documents.note)
        assert source.note is open_source(given, format="files").note is None


@pytest.mark.parametrize(
    ("given", "path", "held"),
    [
        ("docs", "docs/out.jsonl", True),
        ("docs", "docs/sub/out.jsonl", True),
        ("docs", "docs/.out.jsonl", False),
        ("docs", "out.jsonl", False),
        ("docs/*.md", "docs/out.jsonl", False),
        ("docs/*.md", "docs/out.md", True),
        ("docs/*.md", "docs/sub/out.md", False),
        ("docs/**/*.md", "docs/sub/out.md", True),
        ("t.csv", "t.csv", True),
        ("t.csv", "docs/../t.csv", True),
        ("t.csv", "link.csv", True),
        ("t.csv", "u.csv", False),
    ],
)
def test_a_source_knows_the_files_that_it_reads(docs: Path, given: str, path: str, held: bool) -> None:
    (docs.parent / "t.csv").write_text("a\n1\n")
    (docs.parent / "link.csv").symlink_to("t.csv")
    assert open_source(docs.parent / given).holds(docs.parent / path) is held


def test_links_to_folders_are_followed_once(docs: Path) -> None:
    (docs / "loop").symlink_to(docs)
    assert keys(open_source(docs)) == ["a.md", "b.txt", "c d.md", "sub/deep/g.txt", "sub/deep/ü.md", "sub/e.md"]
    assert keys(open_source(docs / "loop/*.txt")) == ["b.txt"]


def test_a_name_that_is_not_utf8_has_a_key_all_the_same(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    assert keys(open_source(tmp_path)) == ["caf\\xe9.txt"]


def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(writer, b'{"id": "1"}\n')
    source = open_source(tmp_path / "pipe")
    os.close(writer)
    assert [row.values for row in source.rows()] == [{"id": "1"}]
    assert (source.identity, source.rewindable) == (None, False)
