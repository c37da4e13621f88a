"""Tables fit their terminal: every one at 80 and 120 columns."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.cli.terminal import table, wrapped
from tests.cli.conftest import MANY, ONE, Command, Ran
from tests.cli.scripted import on_scripted_models

LONG = "a_stage_of_a_name_that_is_longer_than_most"
Narrow = Callable[..., list[str]]


@pytest.fixture(params=[80, 120])
def narrow(
    request: pytest.FixtureRequest, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Narrow:
    """Runs a command in a terminal of this width, and gives its lines, all of which fit."""
    on_scripted_models(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(request.param))
    (tmp_path / "many.yaml").write_text(MANY.replace("work", LONG))
    (tmp_path / "one.yaml").write_text(ONE)

    def run(*words: str, code: int = 0) -> list[str]:
        ran: Ran = command(*words)
        assert ran.code == code, ran.err
        lines = ran.out.splitlines()
        assert max(map(len, lines)) <= request.param, max(lines, key=len)
        return lines

    return run


@pytest.mark.parametrize("profile", ["openai", "anthropic", "openrouter", "bedrock", "azure", "mixed", "local"])
def test_a_quote_fits(narrow: Narrow, profile: str) -> None:
    lines = narrow("quote", "plan-execute-review", "Compare the offers.", "--profile", profile)
    head = next(line for line in lines if line.startswith("stage"))
    assert {"stage", "model", "calls", "cost", "time"} <= {*head.split()}


@pytest.mark.parametrize("words", [["models"], ["models", "--all"]])
def test_the_models_fit(narrow: Narrow, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-seen")
    text = " ".join(narrow(*words))
    assert "openai *" in text
    assert ("anthropic" in text) is ("--all" in words)


def test_history_and_receipts_fit(narrow: Narrow, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("a,b,c", "a,d"):
        ran = command("run", "many.yaml", words, "-m", "scripted/echo", "--tag", f"purpose={'long ' * 30}")
        assert ran.code == 0
        receipt = ran.err[ran.err.index("\nstage ") :].splitlines()
        assert max(map(len, receipt)) <= 120
    listed = narrow("runs", "list")
    ids = re.findall(r"^[\d]{8}-\d{6}-[0-9a-f]{6}", "\n".join(listed), re.MULTILINE)
    assert len(ids) == 2  # whole, to be copied
    narrow("runs", "show", ids[0])
    narrow("runs", "diff", *ids)


def test_the_receipt_of_a_failed_run_fits(narrow: Narrow, command: Command) -> None:
    ran = command("run", "many.yaml", "a,bad,c", "-m", "scripted/torn")
    assert ran.code == 3
    run = re.search(r"run ([\d-]+[0-9a-f]{6})", ran.err)
    assert run is not None
    narrow("runs", "show", run[1])


def test_a_benchmark_fits(narrow: Narrow, tmp_path: Path) -> None:
    rows = [{"id": f"i{n}", "prompt": f"do {n}", "gold": f"do {n} / nothing"} for n in range(4)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = narrow("bench", "items.jsonl", "-m", "scripted/echo", "-m", "scripted/long", "--scorer", "contains", "-q")
    assert any(line.startswith("arm") for line in lines)


# The table itself.


def test_a_table_without_a_width_is_one_line_a_row() -> None:
    rows = [["stage", "cost"], ["x" * 200, "$0.1 ($0.0-$9.9)"]]
    assert table(rows, right={1})[1] == f"{'x' * 200}  $0.1 ($0.0-$9.9)"


def test_columns_are_left_out_before_cells_are_folded() -> None:
    rows = [["stage", "role", "cost"], ["plan the work", "frontier", "$0.1 ($0.0-$9.9)"]]
    assert table(rows, right={2}, width=36, spared=(1,)) == [
        "stage                      cost",
        "plan the work  $0.1 ($0.0-$9.9)",
    ]


def test_a_figure_is_folded_ahead_of_its_range_alone() -> None:
    rows = [["stage", "time"], ["work", "28 s (4.8 s-1 min 51 s)"]]
    assert table(rows, right={1}, width=26) == [
        "stage                 time",
        "work                  28 s",
        "        (4.8 s-1 min 51 s)",
    ]


@pytest.mark.parametrize("width", [10, 20, 40, 79])
def test_words_are_folded_where_nothing_else_helps(width: int) -> None:
    rows = [["model"], ["openrouter/anthropic/claude-haiku-5.5-with-a-long-name"]]
    lines = table(rows, width=width)
    assert max(map(len, lines)) <= width
    assert "".join(line.strip() for line in lines[1:]) == rows[1][0]


def test_a_whole_column_is_never_folded() -> None:
    rows = [["run", "note"], ["20261129-152136-ef81c7", "word " * 20]]
    assert table(rows, width=40, whole={0})[1].startswith("20261129-152136-ef81c7  word")


def test_an_empty_column_takes_no_room() -> None:
    assert table([["a", "", "c"], ["1", "", "3"]]) == ["a  c", "1  3"]


def test_a_sum_is_wrapped_at_words() -> None:
    line = "10 calls; 7,143 tokens in, 649 out; free (local); 2 min 10 s"
    assert wrapped(line, None) == [line]
    assert " ".join(part.strip() for part in wrapped(line, 30)) == line
    assert max(map(len, wrapped(line, 30))) <= 30
