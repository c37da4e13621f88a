"""`fusion calibrate --refuse`: the figures of the reviewers, the file with the chosen one, and its messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion import Pipeline
from fusion.cli.exits import BUDGET, OK, USAGE
from tests.cli.conftest import Command

PIPELINE = """\
inputs: {lines: Sums.}
roles: {bulk: "replay:said.jsonl#worker", frontier: "replay:said.jsonl#blind"}
stages:
  read: {kind: map, over: inputs.lines.splitlines(), role: bulk, prompt: "Work: {{ item.source }}"}
  check:
    kind: review
    over: read
    role: frontier
    prompt: own/first
    revisions: 0
output: check
"""
KNOWS, BLIND = "replay:said.jsonl#knows", "replay:said.jsonl#blind"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """12 items of three sums, one of which is worked wrongly; `knows` sees it, `blind` does not."""
    monkeypatch.chdir(tmp_path)
    Path("prompts/own").mkdir(parents=True)
    for name in ("first", "second"):
        Path(f"prompts/own/{name}.md.j2").write_text(f"Review {name}: {{{{ item.source }}}} -> {{{{ item.value }}}}")
    said: list[dict[str, Any]] = []

    def record(prompt: str, **texts: str) -> None:
        replies = {name: {"text": text, "prompt_tokens": 10, "completion_tokens": 5} for name, text in texts.items()}
        said.append({"prompt": prompt, "responses": replies})

    rows = []
    for at in range(12):
        sums = [3 * at + n for n in range(3)]
        for n in sums:
            value = 2 * n + (n % 3 == 0)
            record(f"Work: {n}+{n}", worker=str(value))
            verdicts = {word: json.dumps({"issues": [], "verdict": word}) for word in ("accept", "reject")}
            right = "reject" if n % 3 == 0 else "accept"
            record(f"Review first: {n}+{n} -> {value}", knows=verdicts[right], blind=verdicts["accept"])
            record(f"Review second: {n}+{n} -> {value}", knows=verdicts[right], blind=verdicts["reject"])
        rows.append({"prompt": "\n".join(f"{n}+{n}" for n in sums), "parts": [str(2 * n) for n in sums]})
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    price = {"input_usd_per_million_tokens": 100, "output_usd_per_million_tokens": 100}
    Path("prices.json").write_text(json.dumps({"models": dict.fromkeys(("worker", "knows", "blind"), price)}))
    Path("lines.yaml").write_text(PIPELINE)
    return tmp_path


def calibrate(command: Command, *more: str) -> Any:
    return command("calibrate", "lines.yaml", "sums.jsonl", "--item-gold", "parts", "--refuse", "0.2", "-q", *more)


def test_the_figures_are_printed_and_the_chosen_one_is_written(desk: Path, command: Command) -> None:
    done = calibrate(command, "--reviewer", KNOWS, "--reviewer", "frontier", "--template", "own/first")
    assert (done.code, done.err) == (OK, "")
    lines = done.out.splitlines()
    assert lines[-1] == "lines-calibrated.yaml"
    assert [" ".join(line.split()) for line in lines[1:3]] == [
        f"{KNOWS} own/first 12 of 12 74 to 100% 0 of 24 0 to 14% 11.7% 36 $0.0540 chosen",
        "frontier own/first 0 of 12 0 to 26% 0 of 24 0 to 14% 11.7% 36 $0.0540",
    ]
    text = Path("lines-calibrated.yaml").read_text()
    assert "chosen of 2 on 36 results: caught 12 of 12 wrong ones, refused 0 of 24 right ones" in text
    written = Pipeline.load("lines-calibrated.yaml")
    assert written.roles["reviewer"].chain == (KNOWS,)
    run = command("run", "lines-calibrated.yaml", "3+3\n4+4", "--allow-partial")
    assert run.out == "8\n"


def test_a_second_start_makes_no_call(desk: Path, command: Command) -> None:
    first = calibrate(command, "--reviewer", KNOWS, "-o", "one.yaml")
    said = Path("said.jsonl").read_text()
    Path("said.jsonl").write_text(said.replace("accept", "reject"))  # a new call would hear otherwise
    again = calibrate(command, "--reviewer", KNOWS, "-o", "one.yaml")
    assert (again.code, again.out) == (first.code, first.out)


def test_templates_and_delta_count(desk: Path, command: Command) -> None:
    done = calibrate(
        command, "--reviewer", BLIND, "--template", "own/first", "--template", "own/second", "--delta", "0.2"
    )
    assert done.code == USAGE
    assert "no reviewer pays: none of 2 candidates is shown to catch more wrong results than chance" in done.err
    assert "Leave the review out" in done.err
    rows = [" ".join(line.split()) for line in done.out.splitlines()[1:]]
    assert "0 of 24 0 to 14% 9.1%" in rows[0]
    assert "12 of 12 74 to 100% 24 of 24" in rows[1]
    assert not Path("lines-calibrated.yaml").exists()


def test_thresholds_are_measured(desk: Path, command: Command) -> None:
    text = Path("said.jsonl").read_text()
    sure = text.replace('\\"verdict\\": \\"accept\\"', '\\"verdict\\": \\"accept\\", \\"confidence\\": 0.7')
    sure = sure.replace('\\"verdict\\": \\"reject\\"', '\\"verdict\\": \\"reject\\", \\"confidence\\": 0.7')
    Path("said.jsonl").write_text(sure)
    done = calibrate(command, "--reviewer", KNOWS, "--threshold", "0.5", "--threshold", "0.9")
    assert [line.split()[2] for line in done.out.splitlines()[1:3]] == ["0.5", "0.9"]
    assert Pipeline.load("lines-calibrated.yaml").stages["check"].confidence == 0.5  # type: ignore[attr-defined]


def test_a_scorer_says_which_results_are_right(desk: Path, command: Command) -> None:
    done = calibrate(command, "--reviewer", KNOWS, "--scorer", "answer == gold or answer == '1'", "--stage", "check")
    assert "11 of 11" in done.out  # the first sum, 0 and not 1, counts as right and is refused
    assert "1 of 25" in done.out


def test_a_budget_stops_it(desk: Path, command: Command) -> None:
    assert calibrate(command, "--reviewer", KNOWS, "--budget", "usd=0.0001").code == BUDGET


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--target", "0.1", "--refuse", "0.1"], "give either --target SHARE, to set a threshold, or --refuse SHARE"),
        ([], "give either --target SHARE"),
        (["--target", "0.1", "--reviewer", "frontier"], "--reviewer has an effect with --refuse only"),
        (["--target", "0.1", "--template", "own/first"], "--template has an effect with --refuse only"),
        (["--target", "0.1", "--threshold", "0.1"], "--threshold has an effect with --refuse only"),
        (["--target", "0.1", "--item-gold", "parts"], "--item-gold has an effect with --refuse only"),
        (["--refuse", "0.1", "--item-gold", "parts", "--gold", "parts"], "--gold has no effect with --item-gold"),
        (["--refuse", "0.1", "--item-gold", "nothing"], "no column 'nothing'"),
        (["--refuse", "0.1", "--item-gold", "prompt"], "'prompt'"),
        (["--refuse", "2", "--item-gold", "parts"], "`refuse` is 2.0; give a share between 0 and 1"),
        (["--refuse", "0.1", "--item-gold", "parts", "--template", "own/none"], "own/none"),
        (["--refuse", "0.1", "--item-gold", "parts", "--reviewer", "nonesuch"], "nonesuch"),
    ],
)
def test_mistakes_are_named(desk: Path, command: Command, options: list[str], named: str) -> None:
    done = command("calibrate", "lines.yaml", "sums.jsonl", *options)
    assert (done.code, done.out) == (USAGE, "")
    assert named in done.err
    assert "Traceback" not in done.err


SUITE = """\
tasks:
  sums: {file: sums.jsonl, prompt: prompt, gold: parts, item_gold: parts, item_scorer: number}
scorer: "gold | join(' ') == answer"
arms:
  lines: {pipeline: lines.yaml, roles: {frontier: "replay:said.jsonl#knows"}}
on: all
baselines: [no_review]
"""


def test_a_benchmark_prints_what_the_review_caught(desk: Path, command: Command) -> None:
    Path("suite.yaml").write_text(SUITE)
    done = command("bench", "suite.yaml", "-o", "out", "-q")
    assert done.code == OK, done.err
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "lines: check 36 items 12 of 12 76 to 100% 0 of 24 0 to 14% 0 0 $0.0540 36" in rows
    assert any(row.startswith("- lines is +0.00 points (") and "from itself without check" in row for row in rows)
    assert "lines without check" in Path("out/report.md").read_text()


def test_a_benchmark_says_that_a_review_is_not_measured(desk: Path, command: Command) -> None:
    unscored = SUITE.replace(", item_gold: parts, item_scorer: number", "").replace("[no_review]", "[oracle]")
    Path("two.yaml").write_text(Path("lines.yaml").read_text().replace("revisions: 0", "revisions: 0\n    batch: 1"))
    prices = 'prices: {"replay:said.jsonl#blind": {input: 50, output: 50}}\n'
    Path("suite.yaml").write_text(unscored.replace("on: all", f"  other: {{pipeline: two.yaml}}\non: all\n{prices}"))
    done = command("bench", "suite.yaml", "-o", "out", "-q")
    assert "The review check of lines is not measured" in done.out
    assert "wrong caught" not in done.out
