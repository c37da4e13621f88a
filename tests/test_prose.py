"""The prose of docstrings and help texts: verb or noun first, and the field's own terms."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fusion

PACKAGE = Path(fusion.__file__).parent
OPENING = re.compile(r"(What|How|Where|Whether|Who|Whoever)\b")
PRONOUN = re.compile(r"\b(nobody|somebody|whoever)\b", re.IGNORECASE)
SCOPES = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes, functions and attributes, and texts given as `help` or `description`."""
    for node in ast.walk(tree):
        if isinstance(node, SCOPES):
            yield from strings(node.body)
        elif isinstance(node, ast.keyword) and node.arg in ("help", "description"):
            yield from literal(node.value)


def strings(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    for before, statement in zip([None, *body], body, strict=False):
        attribute = before is None or isinstance(before, ast.Assign | ast.AnnAssign)
        if attribute and isinstance(statement, ast.Expr):
            yield from literal(statement.value)


def literal(value: ast.expr) -> Iterator[tuple[int, str]]:
    """The text of a string or the fixed parts of an f-string."""
    parts = value.values if isinstance(value, ast.JoinedStr) else [value]
    text = "".join(
        str(part.value) for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
    if text:
        yield value.lineno, text


def faults(path: Path) -> list[str]:
    name = path.relative_to(PACKAGE)
    return [
        f"{name}:{line} {text.strip().splitlines()[0]}"
        for line, text in texts(ast.parse(path.read_text()))
        if OPENING.match(text.strip()) or PRONOUN.search(text)
    ]


def test_every_docstring_and_help_text_opens_with_a_verb_or_a_noun() -> None:
    assert [fault for path in sorted(PACKAGE.rglob("*.py")) for fault in faults(path)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""What a run is."""', 1),
        ('"""The run that nobody took up."""', 1),
        ('"""Whatever comes."""', 0),
        ('class A:\n    """Fine."""\n    x = 1\n    """How often."""', 1),
        ('async def f():\n    """Whether it is."""', 1),
        ('f(help="Where runs are kept.")', 1),
        ('Field(description=f"Who answers: {NAMES}.")', 1),
        ('f("What is printed")', 0),
    ],
)
def test_every_kind_of_text_is_read(source: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_prose.PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text(source)
    assert len(faults(tmp_path / "a.py")) == found
