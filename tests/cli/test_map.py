"""fusion map: rows in, rows out, on scripted models; options, exit codes, and how to go on."""

import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Ran, read_until, start
from tests.cli.scripted import on_scripted_models
from tests.conftest import own_settings

TEXT = """
name: tickets
inputs: {text: A ticket., tone: {default: plain}}
stages: {answer: {kind: generate, role: bulk, prompt: "{{ inputs.tone }}: {{ inputs.text }}", max_tokens: 20}}
output: answer
"""
TWO = """
name: two
inputs: {text: A ticket.}
stages:
  read: {kind: generate, role: bulk, prompt: "READ {{ inputs.text }}", max_tokens: 20}
  answer: {kind: generate, role: bulk, prompt: "ANSWER {{ read }}", max_tokens: 20}
output: answer
"""
Fusion = Callable[..., Ran]


@pytest.fixture
def fusion(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fusion:
    """`fusion` with these words, in a folder with a pipeline and three rows."""
    on_scripted_models(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.yaml").write_text(TEXT)
    (tmp_path / "two.yaml").write_text(TWO)
    rows(tmp_path, "one", "two", "three")
    return command


def rows(folder: Path, *texts: str) -> None:
    lines = [json.dumps({"id": f"T{number}", "text": text}) for number, text in enumerate(texts, start=1)]
    (folder / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))


MAP = ("map", "tickets.yaml", "in.jsonl", "--key", "id", "-m", "scripted/echo")
TORN = ("map", "tickets.yaml", "in.jsonl", "--key", "id", "-m", "scripted/torn")


def written(text: str) -> dict[str, str]:
    return {row["key"]: row["answer"] for row in map(json.loads, text.splitlines())}


ANSWERS = {"T1": "plain: one", "T2": "plain: two", "T3": "plain: three"}


def test_rows_go_to_standard_output_and_all_else_to_standard_error(fusion: Fusion) -> None:
    done = fusion(*MAP)
    assert (done.code, written(done.out)) == (0, ANSWERS)
    lines = done.err.splitlines()
    assert re.match(
        r"tickets: map tickets-\w{8}; profile local; bulk=scripted/echo; rows from in.jsonl, 16 at once", lines[0]
    )
    assert re.match(r"3 rows: 3 ok; \$0.0000; \d", lines[-2])
    assert re.fullmatch(r"kept: fusion runs show tickets-\w{8}", lines[-1])


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_rows_go_to_a_file(fusion: Fusion, tmp_path: Path, ending: str) -> None:
    done = fusion(*MAP, "-o", f"out.{ending}", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert "plain: two" in (tmp_path / f"out.{ending}").read_text()
    again = fusion(*MAP, "-o", f"out.{ending}")
    assert "3 rows: 3 ok, 3 of them before" in again.err
    assert (tmp_path / f"out.{ending}").read_text().count("plain: two") == 1


def test_a_folder_a_pattern_and_several_files_are_rows(fusion: Fusion, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "docs" / f"{name}.md").write_text(f"text {name}")
    for inputs in (("docs",), ("docs/*.md",), ("docs/a.md", "docs/b.md")):
        done = fusion("map", "tickets.yaml", *inputs, "-m", "scripted/echo")
        assert sorted(written(done.out).values()) == ["plain: text a", "plain: text b"]


def test_standard_input_is_a_stream_of_rows_and_needs_an_id_to_go_on(fusion: Fusion) -> None:
    lines = b'{"text": "one"}\n{"text": "bad"}\n'
    done = fusion("map", "tickets.yaml", "-", "-m", "scripted/torn", stdin=lines)
    assert done.code == 3
    assert [row["answer"] for row in map(json.loads, done.out.splitlines()) if row["answer"]] == ["plain: one"]
    found = re.search(
        r"to ask the failed rows again: (fusion map .* --id (tickets-\w{8}) --retry-failed)\n", done.err
    )
    assert found is not None
    again = fusion(*found[1].split()[1:], stdin=lines.replace(b"bad", b"two"))
    assert again.code == 0
    assert "1 of them before" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-i", "text=id"), {"T1": "plain: T1", "T2": "plain: T2", "T3": "plain: T3"}),
        (("--set", "tone=kind"), {"T1": "kind: one", "T2": "kind: two", "T3": "kind: three"}),
        (
            ("--set", "tone=@tone.txt"),
            {"T1": "from a file: one", "T2": "from a file: two", "T3": "from a file: three"},
        ),
        (("-i", "tone=id", "-i", "text=text"), {"T1": "T1: one", "T2": "T2: two", "T3": "T3: three"}),
        (("--limit", "2"), {"T1": "plain: one", "T2": "plain: two"}),
        (("--ordered", "--concurrency", "1"), ANSWERS),
        (("--batch", "--cache", "run", "--tag", "team=x"), ANSWERS),
        (("--format", "jsonl", "--role", "bulk=scripted/echo"), ANSWERS),
    ],
)
def test_options_choose_columns_values_and_rows(
    fusion: Fusion, tmp_path: Path, words: tuple[str, ...], said: dict[str, str]
) -> None:
    (tmp_path / "tone.txt").write_text("from a file")
    done = fusion(*MAP, *words)
    assert (done.code, written(done.out)) == (0, said)
    if "--ordered" in words:
        assert [*written(done.out)] == [*said]


def test_a_sample_is_the_same_each_time(fusion: Fusion) -> None:
    first = written(fusion(*MAP, "--sample", "2", "--id", "a").out)
    assert len(first) == 2
    assert written(fusion(*MAP, "--sample", "2", "--id", "b").out) == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--no-store",), "--no-store: a map goes on from its store"),
        (("--limit", "1", "--sample", "1"), "--limit and --sample both choose rows"),
        (("--fail-fast", "--max-failed", "3"), "--fail-fast and --max-failed exclude each other"),
        (("--max-failed", "many"), "max_failed is 'many'; give a number of rows, or a share such as 5%"),
        (("--json", "--events"), "--json and --events both write to standard output"),
        (("-q", "-v"), "-q and -v contradict each other"),
        (("-o", "x.jsonl", "--events-to", "x.jsonl"), "-o and --events-to both write to 'x.jsonl'"),
        (("-o", "x.xlsx"), "the name of an output ends in"),
        (("-i", "txet=text"), "txet"),
        (("-i", "text=txet"), "no column 'txet'; did you mean 'text'?"),
        (("-i", "text"), "-i 'text': give it as name=column"),
        (("--set", "tone"), "--set 'tone': give it as name=value"),
        (("--set", "toen=x"), "toen"),
        (("--id", "a/b"), "the id of a map is 'a/b'"),
        (("--budget", "usd=-1"), "give positive usd"),
        (("--within", "nightly"), "no [budgets.nightly] in your settings"),
        (("--profile", "openai"), "-m sets the model of every role"),
        (("-", "in.jsonl"), "standard input is one of several INPUTS; give it alone"),
        (("--config", "nothing.toml"), "no settings file 'nothing.toml'"),
        (("--tag", "team"), "--tag 'team': give it as key=value"),
    ],
)
def test_what_cannot_be_run_is_told_before_any_call(fusion: Fusion, words: tuple[str, ...], said: str) -> None:
    done = fusion(*MAP, *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert fusion("runs", "list", "--json").out.strip() == "[]"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("nothing.jsonl", "no file or folder 'nothing.jsonl'"),
        ("in.json", "'in.json' is no table that can be read line by line"),
    ],
)
def test_inputs_that_cannot_be_read_are_told(fusion: Fusion, tmp_path: Path, inputs: str, said: str) -> None:
    (tmp_path / "in.json").write_text("[]")
    done = fusion("map", "tickets.yaml", inputs, "-m", "scripted/echo")
    assert (done.code, said in done.err) == (2, True)


# Failed rows and how to go on.


def test_failed_rows_are_folded_and_asked_again(fusion: Fusion, tmp_path: Path) -> None:
    rows(tmp_path, "one", "bad 1", "bad 2", "bad 3", "bad 4")
    done = fusion(*TORN, "-o", "out.jsonl")
    assert done.code == 3
    assert "fusion: of 5 rows, 4 failed:" in done.err
    assert re.search(r"^  4 \(T\d, T\d, T\d and 1 more\): BadRequestError: no such thing$", done.err, re.MULTILINE)
    assert done.err.count("BadRequestError") == 3  # the first, the count of the others, and the report
    words = re.search(r"to ask the failed rows again: fusion (.*)\n", done.err)
    assert words is not None
    assert words[1].endswith("-o out.jsonl --retry-failed")
    again = fusion(*[word.replace("torn", "echo") for word in words[1].split()])
    assert again.code == 0
    assert len(written((tmp_path / "out.jsonl").read_text())) == 5


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 3),
        (("--max-failed", "1"), 0),
        (("--max-failed", "50%"), 0),
        (("--max-failed", "0"), 3),
        (("--fail-fast",), 3),
    ],
)
def test_the_exit_code_tells_if_too_many_rows_failed(
    fusion: Fusion, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    rows(tmp_path, "one", "bad", "three")
    done = fusion(*TORN, *words, "-q")
    assert done.code == code
    assert "1 failed:" in done.err


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (("--budget", "calls=2"), " --budget calls=…"),
        (("--budget=calls=2,usd=5",), " --budget calls=…,usd=…"),
        (("--within", "nightly"), " --within nightly"),
        (("--within", "nightly", "--budget", "usd=5"), " --within nightly --budget usd=5"),
    ],
)
def test_a_budget_stop_is_exit_4_and_names_the_way_on(
    fusion: Fusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], ending: str
) -> None:
    own_settings(tmp_path, monkeypatch)("[budgets.nightly]\ncalls = 2\n")
    done = fusion(*MAP, "-o", "out.jsonl", *words, "--concurrency", "1")
    assert done.code == 4
    assert "fusion: the map ended early: BudgetError: " in done.err
    assert "2 ok, " in done.err
    way = next(line for line in done.err.splitlines() if line.startswith("to go on: "))
    assert ending in way
    assert way.startswith("to go on: fusion map tickets.yaml in.jsonl --key id -m scripted/echo -o out.jsonl")
    again = fusion(*MAP, "-o", "out.jsonl")
    assert (again.code, written((tmp_path / "out.jsonl").read_text())) == (0, ANSWERS)


@pytest.mark.parametrize(("given", "within"), [("", ["--within", "nightly"]), ("tags = {}\n", [])])
@pytest.mark.parametrize("per", ["day", "store"])
def test_a_map_that_a_kept_budget_ended_says_how_the_budget_has_room_again(
    fusion: Fusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per: str, given: str, within: list[str]
) -> None:
    table = f"[budgets.nightly]\ncalls = 2\nper = '{per}'\n{given}"
    file = own_settings(tmp_path, monkeypatch)(table)
    words = [*MAP, "-o", "out.jsonl", "--budget", "usd=5", *within, "--concurrency", "1"]
    done = fusion(*words)
    assert done.code == 4
    lines = done.err.splitlines()
    (told,) = (line for line in lines if line.startswith("the budget 'nightly' has no room left: "))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d 00:00 UTC")
    wait = f"wait until {tomorrow}" if per == "day" else "begin it anew: fusion budgets --clear nightly"
    assert told.endswith(f": raise `budgets.nightly.calls` in {file}, or {wait}")
    assert lines[lines.index(told) + 1] == f"to go on: {shlex.join(['fusion', *words])}"
    shown = fusion("runs", "show", "tickets-")
    assert "with the same options, once the budget 'nightly' has room: see `fusion budgets`" in shown.out + shown.err
    own_settings(tmp_path, monkeypatch)(table.replace("2", "3"))
    assert fusion(*words).code == 0
    assert written((tmp_path / "out.jsonl").read_text()) == ANSWERS


# Outputs for programs.


def test_json_is_the_report_alone(fusion: Fusion) -> None:
    done = fusion(*MAP, "--json")
    report = json.loads(done.out)
    assert (report["status"], report["ok"], report["rows"], report["exit_code"]) == ("ok", 3, 3, 0)


def test_events_are_lines_of_json_that_end_with_the_map(fusion: Fusion, tmp_path: Path) -> None:
    done = fusion(*MAP, "--events", "--events-to", "events.jsonl", "-o", "out.jsonl")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert (events[0]["type"], events[-1]["type"]) == ("map_started", "map_finished")
    assert [event["type"] for event in events].count("row_finished") == 3
    assert done.out == (tmp_path / "events.jsonl").read_text()
    assert written((tmp_path / "out.jsonl").read_text()) == ANSWERS


def test_verbose_names_every_row(fusion: Fusion) -> None:
    done = fusion(*MAP, "-v", "-o", "out.jsonl")
    assert len(re.findall(r"^row T\d: ok, \$0.0000, 0\.\d s$", done.err, re.MULTILINE)) == 3


def test_the_history_shows_the_map(fusion: Fusion) -> None:
    fusion(*MAP, "--id", "nightly", "-o", "out.jsonl", "--tag", "team=x")
    listed = fusion("runs", "list").out
    assert re.search(r"^nightly +ok +tickets .* team=x map: 3 of 3 rows done; ", listed, re.MULTILINE)
    assert "tickets: profile" not in fusion("runs", "show", "nightly", "T2").out
    assert fusion("runs", "show", "nightly", "T2").out.startswith("nightly-2: tickets, ok")
    document = json.loads(fusion("runs", "export", "nightly").out)
    assert [row["row"]["key"] for row in document["rows"]] == ["T1", "T2", "T3"]
    (record,) = document["records"].values()
    assert record["pipeline"]["name"] == "tickets"
    assert document["rows"][0]["result"]["text"] == "plain: one"


# Quotes.


def test_a_dry_run_counts_rows_and_quotes_those_to_run(fusion: Fusion, tmp_path: Path) -> None:
    first = fusion(*MAP, "--dry-run")
    assert first.code == 0
    assert "Rows: 3 from in.jsonl: 3 new\nQuoted: all rows to run\nIn all: " in first.out
    assert fusion("runs", "list", "--json").out.strip() == "[]"
    fusion(*MAP, "--limit", "1", "--id", "a")
    rows(tmp_path, "one", "edited", "three")
    fusion(*TORN, "--id", "b")
    rows(tmp_path, "one", "edited", "bad", "four")
    words = [word.replace("echo", "torn") for word in MAP]
    report = json.loads(fusion(*words, "--id", "b", "--dry-run", "--json").out)
    assert (report["rows"], report["new"], report["changed"], report["done"]) == (4, 1, 1, 2)
    assert (report["to_run"], report["sampled"]) == (2, 2)
    assert "Nothing to run" in fusion(*MAP, "--id", "a", "--limit", "1", "--dry-run").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sample", "2"), "Quoted: 2 of the 3 rows to run"),
        ((), "Quoted: all rows to run"),
        (("-i", "text=id"), "Rows: 3 from in.jsonl: 3 new"),
        (("--budget", "0.5"), "never more than $0.5000, the budget"),
        (("--json",), '"to_run": 3'),
    ],
)
def test_a_map_is_quoted_from_a_sample_of_its_rows(fusion: Fusion, words: tuple[str, ...], said: str) -> None:
    done = fusion("quote", "tickets.yaml", "--map", "in.jsonl", "-m", "openai/gpt-5-mini", *words)
    assert done.code == 0
    assert said in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quote", "tickets.yaml", "a prompt", "--map", "in.jsonl"), "PROMPT is for a run"),
        (("quote", "tickets.yaml", "a prompt", "--sample", "3"), "give their file with --map"),
        (("quote", "tickets.yaml", "--map", "-"), "standard input"),
        (("quote", "tickets.yaml", "--map", "nothing.csv"), "no file or folder 'nothing.csv'"),
        (("map", "tickets.yaml", "-", "--dry-run"), "standard input"),
    ],
)
def test_what_cannot_be_quoted_is_told(fusion: Fusion, words: tuple[str, ...], said: str) -> None:
    done = fusion(*words, stdin=b"")
    assert (done.code, done.out) == (2, "")
    assert said in done.err


# Interrupts.


def test_an_interrupt_stops_the_rows_in_flight_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "tickets.yaml").write_text(TEXT)
    rows(tmp_path, "one", "slow", "three")
    words = ("map", "tickets.yaml", "in.jsonl", "--key", "id", "-m", "scripted/slow", "-o", "out.jsonl")
    env = {"FUSION_STORE": str(tmp_path / "runs.db")}
    process = start(*words, "-v", module="tests.cli.scripted", env=env, cwd=tmp_path)
    read_until(process.stderr, b"row T1: ok", b"row T3: ok")
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    lines = err.decode().splitlines()
    assert lines[0] == "interrupted; stopping the rows in flight (interrupt again to exit at once)"
    assert "fusion: interrupted" in lines
    assert any(line.startswith("3 rows: 2 ok, 1 not done; ") for line in lines)
    assert any(line.startswith("to go on: fusion map tickets.yaml in.jsonl --key id ") for line in lines)
    assert len(written((tmp_path / "out.jsonl").read_text())) == 2


def test_a_reader_that_leaves_ends_the_map(tmp_path: Path) -> None:
    (tmp_path / "tickets.yaml").write_text(TEXT)
    rows(tmp_path, "one", *["slow"] * 3, *map(str, range(3000)))
    words = ("map", "tickets.yaml", "in.jsonl", "-m", "scripted/slow", "-q", "--concurrency", "50")
    process = start(
        *words, module="tests.cli.scripted", env={"FUSION_STORE": str(tmp_path / "runs.db")}, cwd=tmp_path
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 130
    assert process.stderr is not None
    with process.stderr as said:
        assert b"Traceback" not in said.read()
