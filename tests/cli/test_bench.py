"""`fusion bench`: figures on standard output, progress on standard error, exit codes that say how it went."""

import functools
import json
import re
import signal
from pathlib import Path

import pytest

from fusion import Fusion
from fusion.bench import Results
from tests.bench.conftest import CHEAP, STRONG, TWO_TIERS, knowing, model
from tests.cli.conftest import Command, read_until, start
from tests.conftest import own_settings

WORDS = ("-p", "two.yaml", "-m", STRONG, "--scorer", "number", "-o", "out")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with items and a pipeline, and two models that every Fusion of the command line knows."""
    rows = [{"id": f"q{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "two.yaml").write_text(TWO_TIERS)
    monkeypatch.chdir(tmp_path)
    models = {
        CHEAP: model(CHEAP, knowing(lambda total: total % 10 == 8)),
        STRONG: model(STRONG, knowing(lambda total: total == 6), "0.01"),
    }
    from fusion.bench import benchmark

    monkeypatch.setattr(benchmark, "Fusion", functools.partial(Fusion, models=models, profile="local"))
    return tmp_path


def test_a_file_of_ones_own_without_a_suite(command: Command, desk: Path, drawn: None) -> None:
    ran = command("bench", "sums.jsonl", *WORDS)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "Best single model: scripted/strong."
    assert lines[1].startswith("two makes +5.0 points (95% ")
    assert "sums: 20 items, 4 arms" in lines
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["two"][:2] == ["two", "pipeline"]
    assert rows["two"][2] == "100.0%"
    assert rows[CHEAP][2] == "80.0%"
    assert lines[-1] == "report: out/report.html"
    assert {path.name for path in (desk / "out").iterdir() if not path.name.startswith("calls.db")} == {
        "answers.jsonl", "items.jsonl", "report.html", "report.md", "report.png", "results.json",
    }  # fmt: skip
    assert "sums: 60 of 60 answers" in ran.err
    assert re.search(r"of 60 answers, .* so far, about .* left, \$0\.\d+ paid, about \$0\.\d+ at the end: ", ran.err)
    assert "fusion bench sums.jsonl" not in ran.err
    first = json.loads((desk / "out" / "items.jsonl").read_text().splitlines()[0])
    assert first["prompt"] == "What is 0+0?"
    assert first["served"] == [CHEAP]


def test_a_suite(command: Command, desk: Path) -> None:
    (desk / "suites").mkdir()
    (desk / "suites" / "mine.yaml").write_text(
        "tasks: {sums: {file: ../sums.jsonl}}\nscorer: number\non: all\narms: {two: {pipeline: ../two.yaml}}\n"
    )
    ran = command("bench", "suites/mine.yaml", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert "\nmine: 20 items, 4 arms\n" in ran.out
    assert (desk / "fusion-bench" / "mine" / "report.md").is_file()


def test_each_option_for_a_file_of_ones_own_has_its_effect(command: Command, desk: Path) -> None:
    (desk / "theirs.jsonl").write_text("".join(f'{{"id": "q{n}", "text": "{2 * n}"}}\n' for n in range(20)))
    (desk / "own_adder.py").write_text("def add(prompt):\n    return str(eval(prompt.split()[-1]))\n")
    (desk / "open.yaml").write_text(TWO_TIERS.replace("roles: {bulk", "roles: {other"))
    (desk / "rows.jsonl").write_text(
        "".join(json.dumps({"id": f"q{n}", "sum": f"{n}+{n}", "is": str(2 * n)}) + "\n" for n in range(20))
    )
    words = ("-p", "open.yaml", "--role", f"bulk={CHEAP}", "--profile", "local", "--python", "own_adder:add")
    more = ("--outputs", "theirs.jsonl", "--scorer", "gold in answer", "--prompt", "What is {{ sum }}? {{ sum }}")
    numbers = (
        "--gold",
        "is",
        "--sample",
        "10",
        "--epochs",
        "2",
        "--seed",
        "7",
        "--margin",
        "0.25",
        "--concurrency",
        "3",
    )
    ran = command("bench", "rows.jsonl", *words, *more, *numbers, "-o", "out")
    assert ran.code == 0, ran.err
    found = Results.load(desk / "out" / "results.json")
    assert {arm.name: arm.kind for arm in found.arms if arm.kind != "baseline"} == {
        "open": "pipeline", "own_adder:add": "python", "theirs": "outputs", CHEAP: "model", STRONG: "model",
    }  # fmt: skip
    assert (len(found.items), found.epochs, found.seeds, found.margin) == (10, 2, (7,), 0.25)
    assert {one.score for one in found.outcomes if one.arm == "own_adder:add"} == {1.0}
    assert found.command.startswith("fusion ")
    assert [arm.models for arm in found.arms if arm.name == "open"] == [(CHEAP, STRONG)]


@pytest.mark.parametrize(
    ("gate", "code", "words"),
    [
        ("accuracy >= best_single - 0.5pp and cost <= 0.5*best_single", 0, "gate met by two: "),
        ("cost <= 0.1*best_single", 5, "gate not met by two: cost <= 0.1*best_single: not met (0.06 against 0.02)"),
    ],
)
def test_a_gate_decides_how_it_ends(gate: str, code: int, words: str, command: Command, desk: Path) -> None:
    ran = command("bench", "sums.jsonl", *WORDS, "--gate", gate)
    assert ran.code == code
    assert words in ran.out


def test_a_budget_that_is_used_up_ends_with_4_and_a_report(command: Command, desk: Path) -> None:
    ran = command("bench", "sums.jsonl", *WORDS, "--budget", "calls=30")
    assert ran.code == 4
    assert "- Stopped early: a call to" in ran.out
    assert (desk / "out" / "report.html").is_file()
    again = command("bench", "sums.jsonl", *WORDS, "--budget", "calls=3000")
    assert again.code == 0
    assert "kept from before" in again.err


def test_a_budget_of_the_settings_ends_with_4_and_counts_this_process_only(
    command: Command, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_settings(desk, monkeypatch)("[budgets.day]\ncalls = 40\n")
    for start_number in (1, 2):  # the calls of the first start do not count in the second
        ran = command("bench", "sums.jsonl", *WORDS, "--within", "day")
        assert ran.code == (4 if start_number == 1 else 0)
        assert ("- Stopped early: a call to" in ran.out) is (start_number == 1)
        assert start_number > 1 or "the calls limit of 'budgets.day'" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sums.jsonl", "--scorer", "number"), "no arm to measure: give -p PIPELINE, -m MODEL"),
        (("sums.jsonl", "-m", STRONG), "no scorer: give --scorer"),
        (("sums.jsonl", "-m", STRONG, "--scorer", "nmber"), "no scorer 'nmber'; did you mean 'number'?"),
        (("sums.jsonl", "-m", STRONG, "-m", STRONG, "--scorer", "number"), "'scripted/strong' is given twice"),
        (("sums.jsonl", *WORDS, "--gold", "gold"), "no column 'gold'"),
        (("sums.jsonl", *WORDS, "--gate", "accuracy => 1"), "cannot read '=> 1'"),
        (("sums.jsonl", *WORDS, "--gate", "accuracy >= best_singel"), "did you mean 'best_single'?"),
        (("sums.jsonl", *WORDS, "--gate", "accuracy >= tow"), "names 'tow', which is neither a measure nor an arm"),
        (
            ("sums.jsonl", "--python", "math:exp", "--scorer", "number", "--gate", "accuracy >= best_single"),
            "names 'best_single', which is neither a measure nor an arm; there are: math:exp",
        ),
        (("sums.jsonl", *WORDS, "--budget", "usd=-1"), "give positive usd"),
        (("sums.jsonl", *WORDS, "--concurrency", "0"), "--concurrency 0: give 1 or more"),
        (("sums.jsonl", *WORDS, "--epochs", "0"), "epochs"),
        (("sums.jsonl", "-m", STRONG, "--role", "bulk=x/y", "--scorer", "number"), "--role and --profile are for"),
        (("sums.jsonl", "-m", STRONG, "--scorer", "judge"), "`by: judge` needs the judge's `model`"),
        (("nowhere.jsonl", *WORDS), "cannot read the task set 'nowhere.jsonl'"),
        (("sums.jsonl", "-m", "openai/gpt-5.6", "--scorer", "number"), "the arm 'openai/gpt-5.6': role "),
        (("nowhere.yaml",), "nowhere.yaml"),
        (("two.yaml", "-m", STRONG), "-m is for a file of items; 'two.yaml' is a suite: write it there"),
        (("two.yaml",), "two.yaml:2:1: the key 'arms' is missing"),
        (("notes.txt", *WORDS), "notes.txt"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_told(words: tuple[str, ...], said: str, command: Command, desk: Path) -> None:
    ran = command("bench", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not (desk / "out").exists()
    assert not (desk / "fusion-bench").exists()


def test_what_stood_in_a_folder_stays_there(command: Command, desk: Path) -> None:
    (desk / "out").mkdir()
    (desk / "out" / "notes.txt").write_text("mine")
    assert command("bench", "sums.jsonl", *WORDS, "--gold", "gold").code == 2
    assert [path.name for path in (desk / "out").iterdir()] == ["notes.txt"]
    assert command("bench", "sums.jsonl", *WORDS).code == 0
    before = (desk / "out" / "answers.jsonl").read_bytes()
    assert command("bench", "sums.jsonl", *WORDS, "--gold", "gold").code == 2
    assert (desk / "out" / "answers.jsonl").read_bytes() == before
    assert (desk / "out" / "calls.db").is_file()


def test_an_interrupt_keeps_what_was_answered(desk: Path) -> None:
    rows = [{"id": n, "prompt": "slow" if n > 3 else f"quick {n}", "gold": "x"} for n in range(8)]
    (desk / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("bench", "mixed.jsonl", "-m", "scripted/slow", "--scorer", "exact", "-o", "out", "--concurrency", "8")
    process = start(*words, module="tests.cli.scripted", cwd=desk)
    read_until(process.stderr, b"4 of 8 answers")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"answers so far are kept in 'out'; run the same command again to go on" in err
    lines = [json.loads(line) for line in (desk / "out" / "answers.jsonl").read_text().splitlines()]
    assert sum(not line.get("given_up", False) for line in lines) == 4


def test_help_names_what_there_is(command: Command) -> None:
    ran = command("bench", "--help")
    assert ran.code == 0
    assert "SUITE|DATA" in ran.out
