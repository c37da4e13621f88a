"""The suite of programs: hidden tests only score, whatever a model and the sandbox of a stage get to see."""

import ast
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coding.strong import compared
from fusion import Fusion, Request, ScriptedModel, UsageError
from fusion.bench import Suite, run
from fusion.bench.scorers.base import Answer
from fusion.bench.scorers.registry import scorer
from fusion.core.config import SandboxTable
from fusion.core.events import CommandFinished
from fusion.core.types import Finished
from fusion.sandbox import SandboxDoor
from fusion.sandbox.base import Command
from tests.conftest import run as completed
from tests.conftest import said

pytestmark = pytest.mark.needs("bwrap")
ROOT = Path(__file__).parents[2]
SUITE = ROOT / "benchmarks" / "suites" / "code" / "suite.yaml"
ROWS = [json.loads(line) for line in (ROOT / "benchmarks" / "data" / "humaneval_40.jsonl").read_text().splitlines()]
FENCE = "```"


def block(code: str) -> str:
    return f"Here it is:\n{FENCE}python\n{code}\n{FENCE}\n"


def score(answer: str, tests: Any = "assert f(2) == 4") -> float:
    return scorer("unit_tests").score(Answer(text=answer), tests).value


# The scorer.


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (block("def f(x):\n    return 2 * x"), 1),
        ("def f(x):\n    return x + x", 1),
        (block("def f(x):\n    return x"), 0),
        (block("def f(x:\n    return x"), 0),
        (block("def g(x):\n    return 2 * x"), 0),
        (block("import os\ndef f(x): return 4\nos._exit(0)"), 0),
        (block("raise SystemExit(0)"), 0),
        (block("import builtins\nbuiltins.assert_ = None\ndef f(x): return 5"), 0),
        (block("import sys\nprint('x' * 10)\nsys.stdout.close()\ndef f(x): return 4"), 1),
        ("", 0),
    ],
    ids=["block", "bare", "wrong", "no syntax", "other name", "exits", "leaves", "tampers", "closes", "empty"],
)
def test_a_program_is_right_if_every_test_passes(answer: str, right: int) -> None:
    assert score(answer) == right


def test_gold_tests_are_a_text() -> None:
    with pytest.raises(UsageError, match="is a text: Python tests"):
        score("x = 1", ["assert True"])


def test_without_a_sandbox_no_program_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    by = scorer("unit_tests", sandbox=SandboxTable(readable=(Path("/usr/share"),)))
    with pytest.raises(UsageError, match=r"runs code in a sandbox: .*apt install bubblewrap"):
        by.score(Answer(text="x = 1"), "assert x")


@pytest.mark.parametrize("row", ROWS[::8], ids=lambda row: row["id"])
def test_reference_solutions_pass_examples_and_hidden_tests(row: dict[str, str]) -> None:
    assert score(block(row["solution"]), f"{row['examples']}\n{row['tests']}") == 1
    assert score(block(f"{row['prompt']}    return None"), row["tests"]) == 0


# Hidden tests.


def hidden(row: dict[str, str]) -> set[str]:
    """The assertions of the hidden tests that no example and no prompt shows."""
    shown = {ast.unparse(node) for node in ast.walk(ast.parse(row["examples"]))}
    tests = [ast.unparse(node) for node in ast.walk(ast.parse(row["tests"])) if isinstance(node, ast.Assert)]
    return {one.removeprefix("assert ") for one in tests} - shown


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that stages run."""
    commands: list[Command] = []
    real = SandboxDoor.run

    async def run(self: SandboxDoor, command: Command) -> Finished:
        commands.append(command)
        return await real(self, command)

    monkeypatch.setattr(SandboxDoor, "run", run)
    return commands


def of_few(tmp_path: Path, few: int = 3) -> Suite:
    """The shipped suite with some of its items and scripted models."""
    (tmp_path / "few.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[:few]))
    text = SUITE.read_text().replace("../../data/humaneval_40.jsonl", str(tmp_path / "few.jsonl"))
    return Suite.from_yaml(text.replace("local/", "scripted/"))


def writes(*wrong: str) -> Callable[[Request], str]:
    """A model that knows the reference solution of every function but these."""

    def script(request: Request) -> str:
        row = next(row for row in ROWS if row["prompt"].strip() in said(request))
        return block(f"{row['prompt']}    return None" if row["id"] in wrong else row["solution"])

    return script


def test_hidden_tests_reach_no_stage(tmp_path: Path, seen: list[Command]) -> None:
    ids = [row["id"] for row in ROWS]
    small = ScriptedModel(writes(ids[1], ids[2]), name="scripted/small")
    strong = ScriptedModel(writes(ids[2]), name="scripted/strong")
    with Fusion(profile="local", models={one.info.id: one for one in (small, strong)}) as fusion:
        report = run(of_few(tmp_path), out=tmp_path / "out", fusion=fusion)
    reached = [said(request) for request in (*small.requests, *strong.requests)]
    ran = [content.decode() for command in seen for content in command.files.values()]
    ran += [part for command in seen for part in (*command.argv, command.stdin.decode())]
    assert reached
    assert ran
    for row in ROWS[:3]:
        assert hidden(row)
        for one in (*hidden(row), "def check(", "METADATA"):
            assert not [text for text in (*reached, *ran) if one in text]
        assert any(row["examples"] in text for text in ran)
    right = Counter(one.arm for one in report.results.outcomes if one.score)
    assert (right["small"], right["strong"], right["code-with-tests"]) == (1, 2, 2)
    found = compared(report.results)
    assert (found.items, found.right, found.right_alone, found.calls, found.calls_alone) == (3, 2, 2, 2, 3)
    assert found.lines()[1:] == [
        "only one right: 0 and 0; exact McNemar p = 1.0000",
        "calls of the strong model: 2 against 3, 0.67 times",
    ]


# The pipeline.


def test_code_that_fails_its_examples_goes_back_and_then_up(fusion: Any) -> None:
    bulk = ScriptedModel(block("def f(x): return x"), name="scripted/bulk")
    frontier = ScriptedModel(block("def f(x): return 2 * x"), name="scripted/frontier")
    examples = {"examples": "assert f(2) == 4"}
    one = fusion({"bulk": bulk, "frontier": frontier})
    result, events = completed(one, "Double a number: f(x).", pipeline="code-with-tests", inputs=examples)
    assert "return 2 * x" in result.text
    assert (len(bulk.requests), len(frontier.requests)) == (2, 1)
    assert "the left side is 2, the right side is 4" in said(bulk.requests[1])
    assert "return x" not in said(frontier.requests[0])
    ran = [(event.stage, event.code) for event in events if isinstance(event, CommandFinished)]
    assert ran[0] == ("check", 1)
    assert ran[-1] == ("check", 0)


def test_the_frontier_model_repairs_its_own_code_once(fusion: Any) -> None:
    bulk = ScriptedModel([block("def f(x): return x"), block("def f(x): return -x")], name="scripted/bulk")
    wrong, right = block("def f(x): return 3 * x"), block("def f(x): return 2 * x")
    frontier = ScriptedModel([wrong, right], name="scripted/frontier")
    one = fusion({"bulk": bulk, "frontier": frontier})
    result, _ = completed(one, "f(x)", pipeline="code-with-tests", inputs={"examples": "assert f(2) == 4"})
    assert "return 2 * x" in result.text
    first, second = map(said, frontier.requests)
    assert "the right side is" not in first
    assert "the left side is 6, the right side is 4" in second
    assert "return -x" not in second


def test_code_that_passes_is_one_cheap_call(fusion: Any) -> None:
    bulk = ScriptedModel(block("def f(x): return 2 * x"), name="scripted/bulk")
    frontier = ScriptedModel("never asked", name="scripted/frontier")
    for examples in ("assert f(2) == 4", ""):
        one = fusion({"bulk": bulk, "frontier": frontier})
        result, _ = completed(one, "Double: f(x).", pipeline="code-with-tests", inputs={"examples": examples})
        assert "return 2 * x" in result.text
    assert (len(bulk.requests), len(frontier.requests)) == (2, 0)
