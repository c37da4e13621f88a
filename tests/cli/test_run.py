"""fusion run: where the answer goes and how it ends, on scripted models."""

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion.cli.views.answer import AnswerFile
from fusion.core.events import event_adapter
from fusion.core.result import Result
from tests.cli.conftest import BARE, MANY, ONE, Command, Ran
from tests.cli.scripted import on_scripted_models

TWO = """
stages:
  one: {kind: generate, role: bulk, prompt: Say one.}
  two: {kind: generate, role: bulk, prompt: Say two.}
output: {first: one, second: two}
"""

Run = Callable[..., Ran]


@pytest.fixture
def run(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`fusion run` of a pipeline's text on a scripted model, by default the echo."""
    on_scripted_models(monkeypatch)

    def start(text: str, *words: str, model: str | None = "echo", stdin: bytes | None = None) -> Ran:
        (tmp_path / "test.yaml").write_text(text)
        chosen = () if model is None else ("-m", f"scripted/{model}")
        return command("run", str(tmp_path / "test.yaml"), *words, *chosen, stdin=stdin)

    return start


def events(text: str) -> list[Any]:
    return [event_adapter().validate_json(line) for line in text.splitlines()]


# Where things go.


def test_the_answer_alone_is_on_stdout_and_the_run_on_stderr(run: Run) -> None:
    done = run(ONE, "write")
    assert (done.code, done.out) == (0, "write / nothing\n")
    first, *_ = lines = done.err.splitlines()
    assert re.fullmatch(r"test: run [0-9a-f-]{22}; profile local; bulk=scripted/echo", first)
    assert "answer: started (generate)" in lines
    assert lines[-2].startswith("1 call; ")
    assert lines[-1] == f"kept: fusion runs show {first[10:32]}"


def test_quiet_says_nothing(run: Run) -> None:
    assert run(ONE, "write", "-q") == Ran(0, "write / nothing\n", "")


def test_verbose_names_the_calls(run: Run) -> None:
    assert "answer: generate by scripted/echo: " in run(ONE, "write", "-v").err


def test_json_is_the_whole_result(run: Run) -> None:
    done = run(ONE, "write", "--json")
    result = Result.model_validate_json(done.out)
    assert (done.code, result.status, result.text) == (0, "ok", "write / nothing")


def test_json_is_printed_of_a_failed_run_too_with_what_was_finished(run: Run) -> None:
    done = run(MANY, "a,bad,c", "--json", "-q", model="torn")
    result = Result.model_validate_json(done.out)
    assert (done.code, result.status) == (3, "failed")
    assert done.err == (
        "fusion: the run failed in 'work': BadRequestError: no such thing\n"
        f"edit the pipeline, then: fusion resume {result.run_id} --pipeline FILE\n"
    )


def test_events_are_lines_of_json_and_the_answer_goes_to_the_file(run: Run, tmp_path: Path) -> None:
    done = run(ONE, "write", "--events", "-o", str(tmp_path / "answer.txt"))
    told = events(done.out)
    assert (told[0].type, told[-1].type) == ("run_started", "run_finished")
    assert "".join(event.text for event in told if event.type == "delta") == "write / nothing"
    assert (tmp_path / "answer.txt").read_text() == "write / nothing\n"


def test_events_go_to_a_file_beside_the_answer(run: Run, tmp_path: Path) -> None:
    done = run(ONE, "write", "--events-to", str(tmp_path / "events.ndjson"))
    assert done.out == "write / nothing\n"
    assert events((tmp_path / "events.ndjson").read_text())[-1].type == "run_finished"


def test_events_of_a_failed_run_end_with_run_finished_too(run: Run) -> None:
    done = run(MANY, "bad", "--events", model="torn")
    assert (done.code, events(done.out)[-1].status) == (3, "failed")


def test_several_outputs_are_one_json_object(run: Run) -> None:
    assert json.loads(run(TWO).out) == {"first": "Say one.", "second": "Say two."}


# -o FILE.


def test_the_file_is_replaced_as_a_whole_and_keeps_its_mode_and_link(run: Run, tmp_path: Path) -> None:
    target, link = tmp_path / "answer.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    done = run(ONE, "write", "-o", str(link))
    assert (done.code, done.out) == (0, "")
    assert target.read_text() == "write / nothing\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer.txt", "link.txt", "test.yaml"]


def test_a_failed_run_leaves_the_file_as_it_was(run: Run, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text("old")
    assert run(MANY, "bad", "-o", str(tmp_path / "answer.txt"), model="torn").code == 3
    assert (tmp_path / "answer.txt").read_text() == "old"


def test_a_device_is_written_to_and_not_replaced(run: Run) -> None:
    assert run(ONE, "write", "-o", os.devnull).code == 0
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("name", ["", "missing/answer.txt", "-"])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_spent(run: Run, tmp_path: Path, name: str) -> None:
    given = name if name == "-" else f"{tmp_path}/{name}"
    done = run(ONE, "write", "-o", given)
    assert (done.code, done.out) == (2, "")
    assert "started" not in done.err


def test_an_answer_that_finds_no_room_in_its_file_is_printed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusion.cli.views.answer.tempfile.mkstemp", full)
    done = run(ONE, "write", "-o", str(tmp_path / "answer.txt"), "-q")
    assert (done.code, done.out) == (2, "write / nothing\n")
    assert "No space left on device" in done.err


@pytest.mark.parametrize("option", ["-o", "--events-to"])
@pytest.mark.parametrize("kind", ["link out of the folder", "broken link out of it", "chain of links"])
def test_a_file_that_the_user_did_not_name_is_not_written(run: Run, tmp_path: Path, option: str, kind: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "clone").mkdir()
    own, given = tmp_path / "home" / ".bashrc", tmp_path / "clone" / "answer.md"
    own.write_text("old")
    if kind == "link out of the folder":
        given.symlink_to(own)
    elif kind == "broken link out of it":
        given.symlink_to(tmp_path / "home" / "new.sh")
    else:
        (tmp_path / "clone" / "next").symlink_to(own)
        given.symlink_to("next")
    before = given.read_text() if given.exists() else None
    done = run(ONE, "write", option, str(given))
    assert (done.code, done.out) == (2, "")
    assert f"{option} {str(given)!r} is not written: it " in done.err
    assert "started" not in done.err
    assert (given.read_text() if given.exists() else None) == before
    assert own.read_text() == "old"
    assert not (tmp_path / "home" / "new.sh").exists()


@pytest.mark.parametrize("given", ["link.txt", "answer.txt"])
def test_a_link_or_file_of_another_user_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "answer.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("answer.txt")
    whole = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> Any:
        found = whole(path, follow_symlinks=follow_symlinks)
        return os.stat_result([*found[:4], found.st_uid + (path.name == given), *found[5:10]])

    monkeypatch.setattr(Path, "stat", stat)
    done = run(ONE, "write", "-o", str(tmp_path / given))
    assert (done.code, done.out) == (2, "")
    assert " another user" in done.err
    assert (tmp_path / "answer.txt").read_text() == "old"


def test_a_link_that_is_planted_during_the_run_is_not_followed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    given = tmp_path / "answer.txt"
    check = AnswerFile._check

    def checked(file: AnswerFile) -> None:
        check(file)
        given.symlink_to(tmp_path / "home" / "new.sh")

    monkeypatch.setattr(AnswerFile, "_check", checked)
    done = run(ONE, "write", "-o", str(given), "-q")
    assert (done.code, done.out) == (2, "write / nothing\n")  # the answer is paid, and not lost
    assert "it is a link to" in done.err
    assert not (tmp_path / "home" / "new.sh").exists()


# Inputs.


def test_inputs_come_by_name_from_a_file_and_from_standard_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from the file", "utf-8")
    file = f"context=@{tmp_path / 'in.txt'}"
    assert run(ONE, "-i", "task=by name=x", "-i", file).out == "by name=x / from the file\n"
    assert run(ONE, "write", "-i", "context=-", stdin="pipé".encode()).out == "write / pipé\n"
    assert run(ONE, "-", "-i", "context=x", stdin=b"asked").out == "asked / x\n"
    assert run(ONE, "write", "-i", "context=@@home").out == "write / @home\n"


@pytest.mark.parametrize("name", ["tickets.csv", "notes", "a b.txt", "sub/data.json", "grün.md"])
def test_the_bare_name_of_a_file_asks_for_the_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_text("rows")
    done = run(ONE, "write", "-i", f"context={name}")
    assert (done.code, done.out) == (2, "")
    assert f"{name!r} is a file; -i {shlex.quote(f'context=@{name}')} gives its content" in done.err
    assert run(ONE, "write", "-i", f"context=@{name}").out == "write / rows\n"
    assert run(ONE, "write", "-i", "context=-", stdin=name.encode()).out == f"write / {name}\n"
    assert run(ONE, "write", "-i", "context=sub").out == "write / sub\n"


def test_a_prompt_that_is_the_name_of_a_file_is_sent_with_a_note(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    done = run(ONE, "notes.txt")
    assert (done.code, done.out) == (0, "notes.txt / nothing\n")
    assert "note: PROMPT 'notes.txt' is a file, and is sent as these words" in done.err
    assert "is a file" not in run(ONE, "notes").err


def test_the_stdin_input_takes_what_is_piped_in_and_nothing_if_nothing_comes(run: Run) -> None:
    assert run(ONE, "write", stdin=b"piped").out == "write / piped\n"
    assert run(ONE, "write", stdin=b"").out == "write / nothing\n"
    assert run(ONE, "write", "-i", "context=given", stdin=b"piped").out == "write / given\n"
    assert run(ONE, "-", stdin=b"asked").out == "asked / nothing\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x", "-i", "context"], "-i 'context': give it as name=value"),
        (["x", "-i", "=y"], "-i '=y': give it as name=value"),
        (["x", "-i", "context=a", "-i", "context=b"], "-i context=… is given twice"),
        (["x", "-i", "context=@/no/such"], "cannot read '/no/such': No such file or directory"),
        (["x", "-i", "context=@/tmp"], "cannot read '/tmp': Is a directory"),
        (["x", "-i", "contxt=y"], "did you mean 'context'?"),
        (["-", "-i", "context=-"], "both read standard input"),
        ([], "needs 'task' (what is wanted)"),
        (["x", "-i", "task=y"], "no required input left for the prompt"),
        (["x", "--role", "bulk"], "--role 'bulk': give it as role=model"),
        (["x", "--role", "bulk=a/b", "--role", "bulk=c/d"], "--role bulk=… is given twice"),
        (["x", "--role", "bulky=scripted/echo"], "no role 'bulky'"),
        (["x", "--budget", "much"], "budget"),
        (["x", "--budget", "-1"], "budget"),
        (["x", "--budget", "nan"], "budget"),
        (["x", "--budget", "dollars=1"], "no limit 'dollars'"),
        (["x", "--budget", "usd=1,usd=2"], "usd is given twice"),
        (["x", "--budget", "calls=1.5"], "budget"),
        (["x", "--json", "--events"], "--json and --events"),
        (["x", "-q", "-v"], "-q and -v"),
        (["x", "--profile", "local"], "-m sets the model of every role"),
        (["x", "-o", "f", "--events-to", "f"], "both write to 'f'"),
        (["x", "--events-to", "/no/such/file"], "--events-to '/no/such/file': No such file or directory"),
    ],
)
def test_what_cannot_be_run_is_a_usage_error_on_one_line(run: Run, words: list[str], says: str) -> None:
    done = run(ONE, *words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.startswith("fusion: ")
    assert done.err.count("\n") == 1


def test_binary_input_is_refused(run: Run, tmp_path: Path) -> None:
    for raw in (b"\xff\xfe\x00", b"a\0b"):
        (tmp_path / "in.bin").write_bytes(raw)
        done = run(ONE, "x", "-i", f"context=@{tmp_path / 'in.bin'}")
        assert (done.code, done.out) == (2, "")
        assert "has to be text" in done.err
        assert run(ONE, "x", stdin=raw).code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no-such"], "no pipeline 'no-such'"),
        (["./no/such.yaml"], "does not exist"),
        (["/tmp"], "is a folder"),
        (["plan-execute-review", "x", "--profile", "nowhere"], "nowhere"),
        (["plan-execute-review", "x", "--profile", "openai"], "OPENAI_API_KEY"),
        (["plan-execute-review", "x", "-m", "local/nonsense"], "no embedded model 'nonsense'"),
    ],
)
def test_unknown_pipeline_profile_model_or_key_is_a_usage_error(
    command: Command, words: list[str], says: str
) -> None:
    done = command("run", *words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_mistakes_of_the_pipeline_are_positioned(run: Run, tmp_path: Path) -> None:
    done = run(ONE.replace("answer}", "anser}").replace("output: answer", "output: anser"), "x")
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path}/test.yaml:4:" in done.err


# How it ends.


def test_a_budget_stop_is_exit_4_and_named(run: Run) -> None:
    done = run(MANY.replace("role: bulk", "role: bulk, concurrency: 1"), "a,b,c", "--budget", "calls=1")
    assert (done.code, done.out) == (4, "")
    assert "fusion: the run failed in 'work': BudgetError: " in done.err
    assert "finished until then: work (1 item); `--json` prints it" in done.err


def test_a_budget_stop_that_finishes_prints_what_there_is_and_is_exit_4(run: Run) -> None:
    done = run(f"on_budget: finish\n{MANY}", "a,b,c", "--budget", "calls=1")
    assert (done.code, done.out) == (4, "do a\n")
    assert "fusion: the answer is partial: work 2 (b), 3 (c): BudgetError: " in done.err


def test_a_part_that_failed_is_named_in_all_modes_and_the_answer_stands(run: Run) -> None:
    done = run(MANY, "a,bad,c", "-q", model="dull")
    assert (done.code, done.out) == (3, "do a\n\ndo c\n")
    assert done.err.startswith("fusion: the answer is partial: work 2 (bad): BadResponseError: ")


def test_our_own_fault_in_a_run_is_exit_1_and_debug_shows_where(run: Run) -> None:
    done = run(BARE, "-q", model="bug")
    assert (done.code, done.out) == (1, "")
    fault, go_on = done.err.splitlines()
    assert fault == "fusion: internal error: KeyError: 'lost'; `fusion --debug …` shows the traceback"
    assert go_on.startswith("to go on: fusion resume ")
    done = run(BARE, "-q", "--debug", model="bug")
    assert "Traceback" in done.err
    assert "in bug" in done.err


def test_a_role_goes_before_the_model_of_all(run: Run) -> None:
    assert "bulk=scripted/echo" in run(BARE, "--role", "bulk=scripted/echo", model="slow").err


def test_the_shipped_pipeline_runs_by_its_name(run: Run, command: Command) -> None:
    done = command("run", "plan-execute-review", "do it", "-m", "scripted/frontier")
    assert (done.code, done.out) == (0, "the answer\n")
    assert "plan: ok, 3 subtasks" in done.err


def test_a_malformed_reply_is_shown_by_its_beginning_and_where_the_whole_is(run: Run, command: Command) -> None:
    text = ONE.replace("role: bulk", "role: bulk, schema: {name: string}")
    done = run(text, "write", model="long")
    assert done.code == 3
    assert "begins: 'a line of the answer" in done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("the whole reply: fusion "))
    shown = command(*line.removeprefix("the whole reply: fusion ").split())
    assert (shown.code, "a line of the answer\n" * 20_000 in shown.out) == (0, True)
