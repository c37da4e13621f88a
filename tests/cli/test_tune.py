"""`fusion tune`: the frontier on standard output, files that run, and the exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion.cli.exits import BUDGET, GATE, OK, USAGE
from tests.cli.conftest import Command

PIPELINE = """\
inputs: {question: A question.}
stages:
  answer:
    kind: cascade
    prompt: generate/pass-through
    tiers: [bulk, frontier]
    accept: {checks: {expression: {any: ["'unsure' not in value", "'sure' in value"]}}}
output: answer
"""
SUITE = """\
tasks: {sums: {file: sums.jsonl}}
scorer: exact
arms:
  two:
    pipeline: open.yaml
    roles: {bulk: "replay:said.jsonl#cheap", frontier: "replay:said.jsonl#strong"}
resamples: 2000
margin: 0.2
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sums, with answers of two models on record: `cheap` does not know every fifth and says so."""
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = []
    for n in range(60):
        answers = {"cheap": "unsure" if n % 5 == 0 else str(2 * n), "strong": str(2 * n)}
        said = {name: {"text": text, "prompt_tokens": 10, "completion_tokens": 2} for name, text in answers.items()}
        rows.append({"id": f"q{n}", "prompt": f"What is {n}+{n}?", "gold": str(2 * n), "responses": said})
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [{name: row[name] for name in ("id", "prompt", "gold")} for row in rows]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    cents = {"cheap": 1, "strong": 10}
    prices = {
        name: {"input_usd_per_million_tokens": usd, "output_usd_per_million_tokens": usd}
        for name, usd in cents.items()
    }
    Path("prices.json").write_text(json.dumps({"models": prices}))
    Path("open.yaml").write_text(PIPELINE)
    Path("suite.yaml").write_text(SUITE)
    return tmp_path


def test_the_choice_is_printed_with_its_file_and_what_it_does_on_test(desk: Path, command: Command) -> None:
    done = command("tune", "suite.yaml", "-o", "out", "-q")
    assert done.code == OK
    assert done.out.startswith("on dev: Best single model: strong.\n")
    assert "the cheapest that is not worse by 20 points on dev: out/frontier/" in done.out
    assert "times the cost of strong: not worse" in done.out
    named = done.out.partition("points on dev: ")[2].split()[0]
    ran = command("run", named, "What is 5+5?")
    assert (ran.code, ran.out) == (OK, "10\n")
    assert (desk / "out" / "confirmed" / "report.html").is_file()


def test_a_function_on_the_frontier_is_said_to_have_no_file(desk: Path, command: Command) -> None:
    name = f"knows_{desk.name.replace('-', '_')}"
    Path(f"{name}.py").write_text("def add(prompt):\n    return {'text': str(eval(prompt[8:-1])), 'cost': 0}\n")
    Path("suite.yaml").write_text(SUITE.replace("resamples", f"  mine: {{python: '{name}:add'}}\nresamples"))
    done = command("tune", "suite.yaml", "-o", "out", "-q")
    assert done.code == OK, done.err
    assert "the cheapest that is not worse by 20 points on dev: mine, no file: a function" in done.out
    assert any(line.startswith("mine ") and line.endswith("no file: a function") for line in done.out.splitlines())
    assert "on test: 100.0% of" in done.out


@pytest.mark.parametrize(
    ("margin", "first", "arms"),
    [
        ("0.2", "on dev: Best single model: strong.", {"tuned", "strong", "cheap"}),
        (
            "0.5",
            "on dev: cheap alone does it at 0.10 times the cost of strong: -20.7 points",
            {"tuned", "strong", "cheap"},
        ),
    ],
)
def test_a_cheap_model_that_is_as_good_is_in_the_first_line(
    desk: Path, command: Command, margin: str, first: str, arms: set[str]
) -> None:
    Path("suite.yaml").write_text(SUITE.replace("margin: 0.2", f"margin: {margin}\nbaselines: [singles]"))
    done = command("tune", "suite.yaml", "-o", "out", "-q")
    assert done.code == OK, done.err
    assert " ".join(done.out.split()).startswith(first)
    results = json.loads((desk / "out" / "confirmed" / "results.json").read_text())
    assert {arm["name"] for arm in results["arms"]} == arms
    assert "on test: " in done.out


def test_progress_goes_to_standard_error(desk: Path, command: Command) -> None:
    done = command("tune", "suite.yaml", "-o", "out")
    assert "answers" not in done.out
    assert "suite: 0 of " in done.err


def test_the_gate_of_the_suite_is_of_what_was_chosen(desk: Path, command: Command) -> None:
    Path("suite.yaml").write_text(SUITE + "gate: cost <= 0.01*best_single\n")
    assert command("tune", "suite.yaml", "-q").code == GATE
    Path("suite.yaml").write_text(SUITE + "gate: cost <= best_single and accuracy >= tuned\n")
    assert command("tune", "suite.yaml", "-q").code == OK


def test_a_cap_ends_it_with_the_budgets_code(desk: Path, command: Command) -> None:
    assert command("tune", "suite.yaml", "--budget", "calls=3").code == BUDGET


def test_mistakes_are_usage(desk: Path, command: Command) -> None:
    Path("suite.yaml").write_text(SUITE.replace("margin: 0.2", "margin: {any: [0.05, 0.1]}"))
    done = command("tune", "suite.yaml")
    assert done.code == USAGE
    assert "suite.yaml:8:9 margin: expected a number, got {any: …}, which is for `fusion tune`" in done.err
    assert command("tune", "nowhere.yaml").code == USAGE
    Path("suite.yaml").write_text(SUITE)
    assert "--concurrency 0: give 1 or more" in command("tune", "suite.yaml", "--concurrency", "0").err
    assert "give positive usd" in command("tune", "suite.yaml", "--budget", "usd=-1").err
    Path("suite.yaml").write_text(SUITE.replace("scorer: exact", "scorer: exactt"))
    done = command("tune", "suite.yaml")
    assert (done.code, "did you mean 'exact'" in done.err) == (USAGE, True)
    Path("suite.yaml").write_text(SUITE + "gate: accuracy >= two\n")
    done = command("tune", "suite.yaml")
    assert (done.code, "there are: best_single, tuned" in done.err) == (USAGE, True)
    Path("suite.yaml").write_text(SUITE)
    Path("open.yaml").write_text(PIPELINE.replace("tiers", "teirs"))
    assert command("tune", "suite.yaml").code == USAGE
    assert not Path("fusion-tune").exists()


def test_a_pipeline_with_open_values_is_told_from_one_that_runs(desk: Path, command: Command) -> None:
    Path("open.yaml").write_text(
        PIPELINE.replace("tiers: [bulk, frontier]", "tiers: {any: [[bulk, frontier], [second, frontier]]}")
    )
    done = command("validate", "open.yaml")
    assert done.code == USAGE
    assert (
        "open.yaml:6:12 stages.answer.tiers: expected a list, got {any: …}, which is for `fusion tune`"
        in done.out + done.err
    )


# Models over a file of items.


def test_models_over_items_are_searched_and_the_way_is_printed_with_its_file(desk: Path, command: Command) -> None:
    options = ["--over", "replay:said.jsonl#cheap, replay:said.jsonl#strong", "--scorer", "exact", "-q", "-o", "out"]
    done = command("tune", "sums.jsonl", *options)
    assert done.code == OK, done.err
    assert "searched 2 ways; single models level with the best: strong" in done.out
    assert "- answer: strong" in done.out
    assert "the cheapest that is as good on dev: the best single model itself, strong" in done.out
    lower = command("tune", "sums.jsonl", *options, "--at-least", "-0.5")
    assert lower.code == OK, lower.err
    assert "- answer: cheap" in lower.out
    assert "on test: " in lower.out
    named = lower.out.partition("as good on dev: ")[2].split()[0]
    ran = command("run", named, "What is 6+6?")
    assert (ran.code, ran.out) == (OK, "12\n")


@pytest.mark.parametrize(
    "options",
    [
        ("replay:said.jsonl",),
        ("replay:said.jsonl", "--over", "cheap,strong"),
        ("replay:said.jsonl", "-m", "cheap", "-m", "strong", "--else", "strong"),
        ("sums.jsonl", "--over", "replay:said.jsonl"),
        ("sums.jsonl", "--over", "replay:said.jsonl#cheap", "-m", "replay:said.jsonl#strong", "--seed", "3"),
        ("sums.jsonl", "--over", "replay:said.jsonl", "--max-tiers", "1", "--sample", "20", "--agree", "3"),
        ("sums.jsonl", "--over", "replay:said.jsonl", "--prompt", "{{ prompt }}", "--gold", "gold", "--path", "a"),
    ],
)
def test_models_and_items_are_given_in_several_forms(options: tuple[str, ...], desk: Path, command: Command) -> None:
    done = command("tune", *options, "--scorer", "number", "-q", "--at-least", "1")
    assert done.code == OK, done.err
    assert ("searched 1 ways" if "--else" in options else "searched 2 ways") in done.out


def test_items_are_split_and_confirmed_as_the_author_says(desk: Path, command: Command) -> None:
    rows = [json.loads(line) for line in Path("sums.jsonl").read_text().splitlines()]
    sided = [{**row, "part": "dev" if n < 45 else "test"} for n, row in enumerate(rows)]
    for name, part in (("sided", sided), ("first", sided[:40]), ("last", sided[40:])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    options = ["--over", "replay:said.jsonl", "--scorer", "exact", "-q", "--at-least", "-0.5"]
    assert "of 15," in command("tune", "sided.jsonl", *options, "--split", "part").out
    assert "of 20," in command("tune", "first.jsonl", *options, "--confirm", "last.jsonl").out
    both = command("tune", "first.jsonl", *options, "--confirm", "last.jsonl", "--split", "part")
    assert (both.code, "`confirm` and `split` both give" in both.err) == (USAGE, True)
    leaked = command("tune", "first.jsonl", *options, "--confirm", "sided.jsonl")
    assert (leaked.code, "are among the items to choose by too" in leaked.err) == (USAGE, True)


def test_several_files_have_scorers_and_ways_of_their_own(desk: Path, command: Command) -> None:
    Path("more.jsonl").write_text(Path("sums.jsonl").read_text().replace("What", "Say what"))
    said = Path("said.jsonl").read_text()
    Path("said.jsonl").write_text(said + said.replace("What", "Say what"))
    options = ["--over", "replay:said.jsonl", "-q", "--at-least", "-0.5", "--route", "more=Say"]
    done = command("tune", "sums.jsonl", "more.jsonl", *options, "--scorer", "sums=exact", "--scorer", "more=number")
    assert done.code == OK, done.err
    assert "- answer/sums: cheap" in done.out
    assert "- answer/more: cheap" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("sums.jsonl", "--over", "replay:said.jsonl"), "no scorer: give --scorer exact, number"),
        (("sums.jsonl", "--scorer", "exact"), "0 models to choose from: give 2 to 24"),
        (("sums.jsonl", "--scorer", "exact", "--over", "replay:said.jsonl#cheap"), "1 models to choose from"),
        (("sums.jsonl", "--scorer", "exact", "--over", "replay:said.jsonl", "--agree", "1"), "--agree: "),
        (("sums.jsonl", "--scorer", "exact", "--over", "replay:said.jsonl", "--max-tiers", "9"), "--max-tiers: "),
        (("sums.jsonl", "--scorer", "exact", "--over", "replay:said.jsonl", "--route", "x"), "SET=PATTERN"),
        (("sums.jsonl", "--scorer", "exact", "--over", "replay:nowhere"), "cannot read the recording"),
        (("sums.jsonl", "sums.jsonl", "--scorer", "exact", "--over", "replay:said.jsonl"), "have the same name"),
        (("suite.yaml", "--over", "a,b"), "--over is for a file of items; 'suite.yaml' is a suite"),
        (("suite.yaml", "--scorer", "exact"), "--scorer is for a file of items; 'suite.yaml' is a suite"),
        (("suite.yaml", "suite.yaml"), "give one suite"),
    ],
)
def test_mistakes_in_the_options_are_usage(
    options: tuple[str, ...], words: str, desk: Path, command: Command
) -> None:
    done = command("tune", *options)
    assert done.code == USAGE
    assert words in done.err
    assert not Path("fusion-tune").exists()


def test_a_search_is_told_from_a_pipeline_that_runs(desk: Path, command: Command) -> None:
    tiers = "tiers: {search: {models: [bulk, frontier]}}"
    Path("open.yaml").write_text(PIPELINE.replace("tiers: [bulk, frontier]", tiers))
    for words in (("validate", "open.yaml"), ("run", "open.yaml", "What is 1+1?")):
        done = command(*words)
        assert done.code == USAGE
        assert "stages.answer.tiers: expected a list, got {search: …}, which is for `fusion tune`" in (
            done.out + done.err
        )
