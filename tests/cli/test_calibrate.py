"""`fusion calibrate`: the file that it writes, its evidence, and its messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion import Pipeline
from fusion.cli.exits import BUDGET, OK, USAGE
from tests.cli.conftest import Command

PIPELINE = """\
inputs: {question: A question.}
roles: {bulk: "replay:said.jsonl#cheap", second: "replay:said.jsonl#other", frontier: "replay:said.jsonl#strong"}
stages:
  answer:
    kind: cascade
    prompt: generate/pass-through
    tiers: [{roles: [bulk, second]}, frontier]
    accept: {agree: 2, extract: number}
output: answer
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 sums with recorded answers: where `cheap` is wrong, `other` gives another answer."""
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = []
    for n in range(120):
        answers = {"cheap": "7" if n % 4 == 0 else str(2 * n + 1), "other": str(2 * n + 1), "strong": str(2 * n + 1)}
        said = {name: {"text": text, "prompt_tokens": 10, "completion_tokens": 2} for name, text in answers.items()}
        rows.append({"id": f"q{n}", "prompt": f"What is {n}+{n + 1}?", "gold": str(2 * n + 1), "responses": said})
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [{name: row[name] for name in ("id", "prompt", "gold")} for row in rows]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    price = {"input_usd_per_million_tokens": 1, "output_usd_per_million_tokens": 1}
    Path("prices.json").write_text(json.dumps({"models": dict.fromkeys(("cheap", "other", "strong"), price)}))
    Path("two.yaml").write_text(PIPELINE)
    return tmp_path


def test_the_calibrated_pipeline_is_written_and_runs(desk: Path, command: Command) -> None:
    done = command("calibrate", "two.yaml", "sums.jsonl", "--target", "0.05", "-q")
    assert (done.code, done.out, done.err) == (OK, "two-calibrated.yaml\n", "")
    evidence = Pipeline.load("two-calibrated.yaml").stages["answer"].accept.calibration
    assert (evidence.examples, evidence.accepted, evidence.wrong, evidence.threshold) == (120, 90, 0, 1.0)
    assert command("run", "two-calibrated.yaml", "What is 5+6?").out == "11\n"


def test_learned_patterns_are_written_by_label_and_run(desk: Path, command: Command) -> None:
    rows = [json.loads(line) for line in Path("sums.jsonl").read_text().splitlines()]
    labelled = [{**row, "kind": "long" if at >= 60 else "short"} for at, row in enumerate(rows)]
    Path("kinds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    Path("two.yaml").write_text(PIPELINE.replace("A question.}", "A question., kind: {default: short}}"))
    words = ("calibrate", "two.yaml", "kinds.jsonl", "--target", "0.1", "--learned", "--label", "inputs.kind", "-q")
    assert command(*words, "-o", "learned.yaml").code == OK
    learned = Pipeline.load("learned.yaml").stages["answer"].accept.learned
    assert [(one.label, one.pattern, one.right == one.n, one.accept) for one in learned.patterns] == [
        ("long", "ab", True, True),
        ("long", "a|b", False, False),
        ("short", "ab", True, True),
        ("short", "a|b", False, False),
    ]
    assert sum(one.n for one in learned.patterns) == 60  # the half that tests
    assert command("run", "learned.yaml", "What is 5+6?", "-i", "kind=long").out == "11\n"
    assert command("calibrate", "two.yaml", "kinds.jsonl", "--target", "0.1", "--label", "inputs.kind").code == USAGE


def test_progress_is_said_and_an_existing_file_is_kept(desk: Path, command: Command) -> None:
    done = command("calibrate", "two.yaml", "sums.jsonl", "--target", "0.05", "-o", "new.yaml")
    assert "120 of 120 examples answered" in done.err
    Path("two-calibrated.yaml").write_text("mine")
    kept = command("calibrate", "two.yaml", "sums.jsonl", "--target", "0.05")
    assert (kept.code, kept.out) == (USAGE, "")
    assert "'two-calibrated.yaml' exists; name the file with -o" in kept.err
    assert Path("two-calibrated.yaml").read_text() == "mine"


def test_the_limit_holds_over_all_calls_and_the_next_start_goes_on(desk: Path, command: Command) -> None:
    words = ("calibrate", "two.yaml", "sums.jsonl", "--target", "0.05", "-q", "--concurrency", "1")
    first = command(*words, "--budget", "calls=100")
    assert first.code == BUDGET
    assert not Path("two-calibrated.yaml").exists()
    assert command(*words, "--budget", "calls=150").code == OK


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("two.yaml", "none.jsonl", "--target", "0.05"), "cannot read the task set 'none.jsonl'"),
        (("two.yaml", "sums.jsonl", "--target", "5"), "`target` is 5"),
        (("two.yaml", "sums.jsonl", "--target", "0.05", "--stage", "plan"), "no stage of the kind cascade 'plan'"),
        (("two.yaml", "sums.jsonl", "--target", "0.05", "--gold", "right"), "no column 'right'"),
        (("two.yaml", "sums.jsonl", "--target", "0.001"), "no threshold keeps the wrong share at 0.001"),
        (
            ("two.yaml", "sums.jsonl", "--target", "0.05", "--scorer", "exat"),
            "no scorer 'exat'; did you mean 'exact'?",
        ),
        (("vote", "sums.jsonl", "--target", "0.05"), "no stage of the kind cascade"),
        (("two.yaml", "sums.jsonl"), "give either --target SHARE"),
    ],
)
def test_a_mistake_is_said_and_no_file_is_written(
    desk: Path, command: Command, words: tuple[str, ...], says: str
) -> None:
    done = command("calibrate", *words, "-q")
    assert done.code == USAGE
    assert says in done.err
    assert not list(Path().glob("*-calibrated.yaml"))
