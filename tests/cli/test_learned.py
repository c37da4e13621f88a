"""`fusion models learned`: what a benchmark and a search leave there, its table, its JSON, and its removal."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion
from fusion.cli.exits import OK, USAGE
from fusion.models.catalog.learned import Answered, keep_learned
from tests.cli.conftest import Command, read_until, start

BENCH = (
    "bench",
    "sums.jsonl",
    "-m",
    "replay:said.jsonl#cheap",
    "-m",
    "replay:said.jsonl#strong",
    "--scorer",
    "number",
    "-q",
)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 sums with recorded answers: `cheap` does not know every fourth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSION_STORE", str(tmp_path / "state" / "runs.db"))
    rows: list[dict[str, Any]] = []
    for n in range(40):
        answers = {"cheap": "7,000" if n % 4 == 0 else str(2 * n), "strong": f"The answer is {2 * n}."}
        said = {name: {"text": text, "prompt_tokens": 10, "completion_tokens": 2} for name, text in answers.items()}
        rows.append({"id": f"q{n}", "prompt": f"What is {n}+{n}?", "gold": str(2 * n), "responses": said})
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [{name: row[name] for name in ("id", "prompt", "gold")} for row in rows]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    prices = {
        name: {"input_usd_per_million_tokens": usd, "output_usd_per_million_tokens": usd}
        for name, usd in {"cheap": 1, "strong": 10}.items()
    }
    Path("prices.json").write_text(json.dumps({"models": prices}))
    return tmp_path


def measured(desk: Path) -> None:
    """Keep figures as a benchmark does."""
    given = {
        f"replay:said.jsonl#{name}": {
            f"q{n}": Answered(float(n % every > 0), Decimal("0.0001"), 1.5, "x") for n in range(40)
        }
        for name, every in {"cheap": 4, "strong": 40}.items()
    }
    keep_learned(desk / "state" / "learned.json", {"sums": given}, run="suite")


def listed(command: Command, *words: str) -> Any:
    done = command("models", "learned", "--json", *words)
    assert done.code == OK, done.err
    return json.loads(done.out)["labels"]


def test_a_benchmark_leaves_the_figures_of_its_single_models(desk: Path, command: Command) -> None:
    assert "nothing is learned yet" in command("models", "learned").out
    assert command(*BENCH).code == OK
    found = listed(command)["sums"]
    cheap = found["models"]["replay:said.jsonl#cheap"]
    assert (cheap["n"], cheap["right"], cheap["usd"], cheap["cost"], cheap["run"]) == (
        40,
        30.0,
        "0.000012",
        "measured",
        "sums",
    )
    assert [(one["n"], one["equal"]) for one in found["agreements"]] == [(40, 30)]
    done = command("models", "learned")
    assert "75.0%" in done.out
    assert "59.8 to 85.8" in done.out
    assert "replay:said.jsonl#cheap  replay:said.jsonl#strong  75.0%     40" in done.out


def test_figures_are_read_from_python(desk: Path) -> None:
    with Fusion(profile="local") as fusion:
        assert fusion.learned.labels == {}
        measured(desk)
        figures = fusion.learned.figures("sums", "replay:elsewhere/said.jsonl#cheap")
    assert figures is not None
    assert (figures.n, figures.accuracy) == (40, 0.75)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(
    desk: Path, command: Command, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    measured(desk)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = command("models", "learned").out.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].split()[:3] == ["label", "model", "right"]
    assert ("latency" in lines[0] or "cost" in lines[0]) == (columns == 120)


def test_no_figures_are_kept_on_request(desk: Path, command: Command) -> None:
    assert command(*BENCH, "--no-learn").code == OK
    assert "nothing is learned yet" in command("models", "learned").out


def test_figures_are_filtered_and_forgotten(desk: Path, command: Command) -> None:
    measured(desk)
    assert list(listed(command, "--model", "replay:said.jsonl#cheap")["sums"]["models"]) == [
        "replay:said.jsonl#cheap"
    ]
    wrong = command("models", "learned", "--label", "sum")
    assert (wrong.code, "no learned figures of the label 'sum'; did you mean 'sums'?" in wrong.err) == (USAGE, True)
    assert "name one" in command("models", "learned", "--forget").err
    assert command("models", "learned", "--forget", "--label", "sums").out == "2 figures removed\n"
    assert listed(command) == {}


def test_a_label_of_a_suite_names_the_figures(desk: Path, command: Command) -> None:
    Path("suite.yaml").write_text(
        "tasks: {sums: {file: sums.jsonl, label: arithmetic}}\nscorer: number\non: all\n"
        'arms: {cheap: {model: "replay:said.jsonl#cheap"}}\nresamples: 2000\n'
    )
    assert command("bench", "suite.yaml", "-q").code == OK
    assert list(listed(command)) == ["arithmetic"]


def test_a_search_leaves_the_figures_of_its_models(desk: Path, command: Command) -> None:
    Path("open.yaml").write_text(
        "inputs: {question: A question.}\n"
        "stages: {answer: {kind: generate, role: {any: [cheap, strong]}, prompt: generate/pass-through}}\n"
        'roles: {cheap: "replay:said.jsonl#cheap", strong: "replay:said.jsonl#strong"}\noutput: answer\n'
    )
    Path("suite.yaml").write_text(
        "tasks: {sums: {file: sums.jsonl}}\nscorer: number\narms: {one: {pipeline: open.yaml}}\nresamples: 2000\n"
    )
    done = command("tune", "suite.yaml", "-q", "--no-learn")
    assert (done.code, listed(command)) == (OK, {})
    assert command("tune", "suite.yaml", "-q", "-o", "again").code == OK
    assert sorted(listed(command)["sums"]["models"]) == ["replay:said.jsonl#cheap", "replay:said.jsonl#strong"]


ROUTED = """
inputs: {task: what is wanted}
stages:
  way:
    kind: route
    routes: {cheap: bulk, strong: frontier}
    by: capability
    default: strong
    rules: [{matches: sum, label: sums}]
output: way
"""


def test_a_run_that_was_killed_takes_the_same_route_by_other_figures(desk: Path) -> None:
    def keep(cheap: int, of: int) -> None:
        answers = {
            f"scripted/{name}": {f"q{n}": Answered(float(n < right), Decimal("0.001")) for n in range(of)}
            for name, right in {"slow": cheap, "echo": of - cheap}.items()
        }
        keep_learned(desk / "state" / "learned.json", {"sums": answers})

    def until_decided(*words: str) -> tuple[str, str]:
        """The route and the run, once the route is decided; then the process is ended."""
        process = start(*words, "--events", "-q", module="tests.cli.scripted")
        line = read_until(process.stdout, b'"decided"').splitlines()[-1]
        process.kill()
        process.communicate(timeout=60)
        event = json.loads(line)
        return event["decision"], event["run_id"]

    Path("way.yaml").write_text(ROUTED)
    roles = ("--role", "bulk=scripted/slow", "--role", "frontier=scripted/echo")
    keep(90, 100)
    decision, run_id = until_decided("run", "way.yaml", "a slow sum", *roles)
    keep(10, 200)
    assert (decision, until_decided("resume", run_id)[0]) == ("cheap", "cheap")


def test_a_damaged_file_stops_no_benchmark_and_is_kept(desk: Path, command: Command) -> None:
    file = desk / "state" / "learned.json"
    file.parent.mkdir()
    file.write_text("{")
    done = command(*BENCH)
    assert done.code == OK
    assert "The learned figures are not kept" in " ".join(done.out.split())
    assert file.read_text() == "{"
    listing = command("models", "learned")
    assert (listing.code, "is damaged: invalid JSON" in listing.err) == (USAGE, True)
