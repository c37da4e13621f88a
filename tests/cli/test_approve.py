"""fusion approve, and runs that wait for a person at the command line."""

import json
import os
import pty
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.store.open import open_store
from tests.cli.conftest import Command, Ran, read_until, start
from tests.cli.scripted import echo, on_scripted_models

LETTER = """
inputs: {task: What to write.}
stages:
  draft: {kind: generate, role: frontier, prompt: "Write: {{ inputs.task }}"}
  approval: {kind: gate, show: draft, title: Send this?, who: the office%s}
  sent: {kind: generate, role: frontier, prompt: "Send: {{ approval.text }} ({{ approval.by }})"}
output: sent
"""
FORM = ", ask: {tone: [warm, cold], pages: integer, note: string?}"
SLOW = LETTER.replace(
    "output: sent",
    """  aside: {kind: generate, role: frontier, prompt: "slow {{ inputs.task }}"}
output: {a: sent, b: aside}""",
)
Waiting = Callable[..., tuple[str, Ran]]


@pytest.fixture
def waiting(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Waiting:
    """Starts a run that waits; gives its id, and what was said."""
    on_scripted_models(monkeypatch)

    def run(options: str = "", *words: str) -> tuple[str, Ran]:
        (tmp_path / "letter.yaml").write_text(LETTER % options)
        done = command("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo", *words, stdin=b"")
        assert done.code == 6, done
        return run_id_in(done.err), done

    return run


@pytest.fixture
def person(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `fusion` with a person at the terminal, who types these bytes."""
    monkeypatch.setattr("fusion.cli.run_session.gates.is_terminal", lambda stream: True)
    return command


def run_id_in(text: str) -> str:
    found = re.search(r"\d{8}-\d{6}-[0-9a-f]{6}", text)
    assert found is not None, text
    return found[0]


def test_a_run_that_waits_says_so_and_ends_with_6(waiting: Waiting, command: Command) -> None:
    run_id, done = waiting(", timeout: 3d, default: reject")
    assert done.out == ""
    assert "fusion: the run waits for a person\n" in done.err
    assert re.search(
        r"  approval \(the office\): Send this\? until 20.* UTC \(3\.0 days left\), then reject\n", done.err
    )
    assert f"to see and answer: fusion approve {run_id}\n" in done.err
    assert f"to go on once it is answered: fusion resume {run_id}\n" in done.err


def test_it_is_listed_and_shown(waiting: Waiting, command: Command) -> None:
    run_id, _ = waiting()
    assert run_id in command("runs", "list", "--status", "waiting").out
    assert command("runs", "list", "--status", "ok").out == ""
    shown = command("runs", "show", run_id).out
    assert "waits at approval (the office): Send this?" in shown
    assert shown.endswith(f"to answer: fusion approve {run_id}\n")
    command("approve", run_id, "--yes", "--by", "maria")
    shown = command("runs", "show", run_id).out
    assert re.search(r"gate approval: approved by maria at 20\d\d-.* UTC \(command\)", shown)
    (gate,) = json.loads(command("runs", "show", run_id, "--json").out)["gates"]
    assert (gate["answer"]["by"], gate["answer"]["via"]) == ("maria", "command")


def test_resume_of_a_waiting_run_says_what_it_waits_for(waiting: Waiting, command: Command) -> None:
    run_id, _ = waiting()
    again = command("resume", run_id, stdin=b"")
    assert (again.code, again.out) == (6, "")
    assert "approval (the office): Send this?" in again.err
    command("approve", run_id, "--yes", "--no-resume", "--by", "maria")
    assert command("resume", run_id).out == "Send: Write: a letter (maria)\n"


@pytest.mark.parametrize(
    ("options", "words", "code", "said"),
    [
        ("", ("--yes",), 0, "Send: Write: a letter (maria)\n"),
        (", ask: edit", ("--text", "My words."), 0, "Send: My words. (maria)\n"),
        (", ask: edit", ("--file", "FILE"), 0, "Send: from the file\n (maria)\n"),
        (FORM, ("--data", '{"tone": "warm", "pages": 2}'), 0, 'Send: {"tone": "warm", "pages": 2} (maria)\n'),
        (FORM, ("--yes", "--file", "JSON"), 0, 'Send: {"tone": "cold", "pages": 1, "note": "x"} (maria)\n'),
        ("", ("--no",), 3, "rejected by maria"),
        ("", ("--no", "--text", "too long"), 3, "rejected by maria: too long"),
    ],
)
def test_answers_go_on_with_the_run(
    waiting: Waiting, command: Command, tmp_path: Path, options: str, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "FILE").write_text("from the file\n")
    (tmp_path / "JSON").write_text('{"tone": "cold", "pages": 1, "note": "x"}')
    run_id, _ = waiting(options)
    words = tuple(str(tmp_path / word) if word in ("FILE", "JSON") else word for word in words)
    done = command("approve", run_id, *words, "--by", "maria")
    assert done.code == code, done
    assert said == done.out if code == 0 else said in done.err


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        ("", ("nowhere", "--yes"), "no gate 'nowhere'"),
        ("", ("--text", "mine"), "takes no other text"),
        (FORM, ("--yes",), "asks for data that match its schema"),
        (FORM, ("--data", "{"), "is not JSON"),
        (FORM, ("--data", "null"), "`null` is no answer"),
        (FORM, ("--data", '{"tone": "hot", "pages": 2}'), "do not match the schema"),
        (FORM, ("--data", "{}", "--text", "x"), "give one of them"),
        (", ask: edit", ("--file", "/nowhere"), "cannot read '/nowhere'"),
        ("", (), "give --yes, --no, --text or --data"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(
    waiting: Waiting, command: Command, options: str, words: tuple[str, ...], message: str
) -> None:
    run_id, _ = waiting(options)
    refused = command("approve", run_id, *words, stdin=b"")
    assert refused.code == 2
    assert message in refused.err
    assert command("resume", run_id, stdin=b"").code == 6


def test_a_second_answer_is_told_of_the_first(waiting: Waiting, command: Command) -> None:
    run_id, _ = waiting()
    command("approve", run_id, "--no", "--by", "ole", "--no-resume")
    second = command("approve", run_id, "--yes", "--by", "maria")
    assert second.code == 2
    assert re.search(r"'approval' of run '.*' is rejected by ole at 20", second.err)


@pytest.mark.parametrize(
    ("options", "typed", "code", "said"),
    [
        ("", b"y\n", 0, "Send: Write: a letter"),
        ("", b"what?\nyes\n", 0, "Send: Write: a letter"),
        ("", b"n\ntoo long\n", 3, "rejected by"),
        ("", b"l\n", 6, "waits for a person"),
        ("", b"", 6, "waits for a person"),
        (", ask: edit", b"w\nmy own line\n", 0, "Send: my own line"),
        (", ask: edit", b"e\n", 0, "Send: edited Write: a letter"),
        (FORM, b"f\nhot\n2\n\nf\nwarm\n2\n\n", 0, 'Send: {"tone": "warm", "pages": 2}'),
        (FORM, b"f\nwarm\ntwo\nf\ncold\n3\na note\n", 0, '"note": "a note"'),
        (FORM, b"n\n\n", 3, "rejected by"),
    ],
)
def test_a_person_at_the_terminal_is_asked(
    person: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: str, typed: bytes, code: int, said: str
) -> None:
    on_scripted_models(monkeypatch)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "edited " | cat - "$1" > "$1.new" && mv "$1.new" "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    (tmp_path / "letter.yaml").write_text(LETTER % options)
    done = person("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo", stdin=typed)
    assert done.code == code, done
    assert said in done.out + done.err
    assert "---\nWrite: a letter\n---" in done.err


def test_without_a_store_a_person_is_asked_at_once(
    person: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_scripted_models(monkeypatch)
    (tmp_path / "letter.yaml").write_text(LETTER % "")
    words = ("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo", "--no-store")
    assert person(*words, stdin=b"y\n").out.startswith("Send: Write: a letter")
    monkeypatch.undo()


def test_without_a_store_and_a_person_it_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_scripted_models(monkeypatch)
    (tmp_path / "letter.yaml").write_text(LETTER % "")
    words = ("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo", "--no-store")
    refused = command(*words, stdin=b"")
    assert refused.code == 2
    assert "stages.approval asks a person" in refused.err


def test_approve_asks_at_the_terminal(waiting: Waiting, person: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.cli.run_session.gates.is_terminal", lambda stream: False)
    run_id, _ = waiting()
    monkeypatch.setattr("fusion.cli.run_session.gates.is_terminal", lambda stream: True)
    assert person("approve", run_id, stdin=b"l\n").code == 6
    done = person("approve", run_id, "--by", "maria", stdin=b"y\n")
    assert (done.code, done.out) == (0, "Send: Write: a letter (maria)\n")


def test_a_run_waits_in_its_process_and_goes_on_with_an_answer_from_elsewhere(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letter.yaml").write_text(LETTER % "")
    words = ("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo", "--wait")
    process = start(*words, module="tests.cli.scripted")
    said = read_until(process.stderr, b"waiting for an answer: fusion approve", b"approval (the office)")
    answered = command("approve", run_id_in(said.decode()), "--yes", "--by", "maria")
    assert (answered.code, answered.out) == (0, "")
    assert "the process that waits for the answer goes on" in answered.err
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"Send: Write: a letter (maria)\n"), err


def test_a_person_at_a_real_terminal(tmp_path: Path) -> None:
    (tmp_path / "letter.yaml").write_text(LETTER % "")
    ours, theirs = pty.openpty()
    words = ("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo")
    process = start(*words, module="tests.cli.scripted", stdin=theirs, stderr=theirs, env={"TERM": "xterm-256color"})
    os.close(theirs)
    written = b""
    while b"[l]ater? " not in written:
        written += os.read(ours, 65536)
    assert b"Write: a letter" in written
    os.write(ours, b"y\n")
    assert process.stdout is not None
    assert process.stdout.read().startswith(b"Send: Write: a letter (")
    process.communicate()
    os.close(ours)


def test_after_kill_9_and_with_the_clock_moved_it_goes_on_and_pays_nothing_twice(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies while a stage beside the open gate is at work; the gate is answered days later."""
    file = tmp_path / "letter.yaml"
    file.write_text(SLOW % ", timeout: 9d, default: reject")
    process = start("run", str(file), "a letter", "-m", "scripted/slow", module="tests.cli.scripted")
    said = read_until(process.stderr, b"approval: asks a person")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run_id = run_id_in(said.decode())
    monkeypatch.setattr("tests.cli.scripted.slow", echo)
    on_scripted_models(monkeypatch)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7 * 86400)
    answered = command("approve", run_id, "--yes", "--by", "maria", "--no-resume")
    assert answered.code == 0, answered
    done = command("resume", run_id, "--json")
    result = json.loads(done.out)
    assert result["status"] == "ok", done
    assert result["data"]["a"].endswith("(maria)")
    store = open_store(os.environ["FUSION_STORE"])
    try:
        paid = sorted(call.key.stage for call in store.calls(run_id))
    finally:
        store.close()
    assert paid == ["aside", "draft", "sent"], "each answered call once"


def test_rows_of_a_map_wait_and_the_others_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_scripted_models(monkeypatch)
    text = """
inputs: {name: A name., amount: An amount.}
stages:
  draft: {kind: generate, role: frontier, prompt: "Draft {{ inputs.name }}"}
  checked:
    kind: route
    text: inputs.amount
    routes:
      dear: {kind: gate, show: draft, ask: edit}
      cheap: {kind: render, template: "{{ draft }}"}
    rules: [{when: "inputs.amount | int > 100", use: dear}]
    default: cheap
output: checked
"""
    (tmp_path / "row.yaml").write_text(text)
    (tmp_path / "rows.csv").write_text("name,amount\na,5\nb,500\nc,7\nd,900\n")
    words = ("map", str(tmp_path / "row.yaml"), str(tmp_path / "rows.csv"), "-m", "scripted/echo", "--key", "name")
    words += ("-o", str(tmp_path / "out.jsonl"))
    first = command(*words)
    assert first.code == 6, first
    assert "4 rows: 2 ok, 2 waiting for a person" in first.err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in lines) == ["a", "c"]
    listed = re.search(r"fusion runs list --map (\S+) --status waiting", first.err)
    assert listed is not None
    rows = json.loads(command("runs", "list", "--map", listed[1], "--status", "waiting", "--json").out)
    assert sorted(row["key"] for row in rows) == ["b", "d"]
    assert "2 waiting for a person" in command("runs", "show", listed[1]).out
    for row in rows:
        answered = command("approve", row["run_id"], "--text", f"mine for {row['key']}")
        assert answered.code == 0
        assert "the next pass of its map goes on" in answered.err
    second = command(*words)
    assert second.code == 0, second
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["key"]: line["answer"] for line in lines} == {
        "a": "Draft a", "b": "mine for b", "c": "Draft c", "d": "mine for d",
    }  # fmt: skip
    store = open_store(os.environ["FUSION_STORE"])
    try:
        calls = sum(len([*store.calls(row["run_id"])]) for row in rows)
    finally:
        store.close()
    assert calls == 2, "one draft for each row, asked for once"


def test_with_ordered_the_rows_behind_one_that_waits_come_once_it_is_answered(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_scripted_models(monkeypatch)
    (tmp_path / "row.yaml").write_text(
        "inputs: {name: A name.}\n"
        "stages:\n"
        "  draft: {kind: generate, role: frontier, prompt: '{{ inputs.name }}'}\n"
        "  checked:\n"
        "    kind: route\n"
        "    routes: {ask: {kind: gate, show: draft}, pass: {kind: render, template: '{{ draft }}'}}\n"
        "    rules: [{when: \"inputs.name == 'b'\", use: ask}]\n"
        "    default: pass\n"
        "output: checked\n"
    )
    (tmp_path / "rows.csv").write_text("name\na\nb\nc\n")
    out = tmp_path / "out.jsonl"
    words = ("map", str(tmp_path / "row.yaml"), str(tmp_path / "rows.csv"), "-m", "scripted/echo", "--key", "name")
    words += ("--ordered", "-o", str(out), "--id", "in-order")
    assert command(*words).code == 6
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == ["a"]
    assert command("approve", "in-order-2", "--yes").code == 0
    assert command(*words).code == 0
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == ["a", "b", "c"]


ROW = """
inputs: {name: A name., amount: An amount.}
stages:
  draft: {kind: generate, role: frontier, prompt: "Draft {{ inputs.name }}"}
  checked: {kind: gate, show: draft%s}
output: checked
"""


@pytest.fixture
def waiting_map(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """Maps three rows, which wait at a gate; gives the words of the command."""
    on_scripted_models(monkeypatch)

    def run(options: str = "") -> tuple[str, ...]:
        (tmp_path / "row.yaml").write_text(ROW % options)
        (tmp_path / "rows.csv").write_text("name,amount\na,5\nb,500\nc,7\n")
        words = ("map", str(tmp_path / "row.yaml"), str(tmp_path / "rows.csv"), "-m", "scripted/echo")
        words += ("--key", "name", "--id", "letters", "-o", str(tmp_path / "out.jsonl"))
        done = command(*words)
        assert done.code == 6
        assert "to answer them: fusion approve letters" in done.err
        return words

    return run


def answers(tmp_path: Path) -> dict[str, str]:
    out = tmp_path / "out.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return {line["key"]: line["answer"] for line in lines if line["status"] == "ok"}


@pytest.mark.parametrize(
    ("options", "words", "code", "expected"),
    [
        ("", ("--yes",), 0, {"a": "Draft a", "b": "Draft b", "c": "Draft c"}),
        (", ask: edit", ("--text", "mine"), 0, {"a": "mine", "b": "mine", "c": "mine"}),
        (", ask: edit", ("--file", "-"), 0, {"a": "from stdin", "b": "from stdin", "c": "from stdin"}),
        (", ask: {ok: boolean}", ("--data", '{"ok": true}'), 0, {key: {"ok": True} for key in "abc"}),
        ("", ("--no", "--text", "too dear"), 3, {}),
        ("", ("checked", "--yes"), 0, {"a": "Draft a", "b": "Draft b", "c": "Draft c"}),
    ],
)
def test_one_answer_is_given_to_all_rows_of_a_map(
    waiting_map: Callable[..., tuple[str, ...]],
    command: Command,
    tmp_path: Path,
    options: str,
    words: tuple[str, ...],
    code: int,
    expected: dict[str, str],
) -> None:
    mapping = waiting_map(options)
    done = command("approve", "letters", "--all", *words, "--by", "maria", stdin=b"from stdin")
    assert (done.code, done.out) == (0, "")
    assert "3 gates answered, 0 open; `fusion map` with `--id letters` goes on with the rows" in done.err
    assert "row b: checked: " in done.err
    assert command(*mapping).code == code
    assert answers(tmp_path) == expected


@pytest.mark.parametrize(
    ("options", "words", "said"),
    [
        ("", (), "letters-2  row b: checked: approve?"),
        ("", ("--yes",), "all alike with `fusion approve letters --all`"),
        ("", ("--all",), "--yes, --no, --text, --data or --file"),
        ("", ("nowhere", "--all", "--yes"), "map 'letters' waits at no gate 'nowhere'"),
        ("", ("--all", "--text", "mine"), "row a: checked: "),
        (", ask: {ok: boolean}", ("--all", "--data", '{"ok": 5}'), "nothing was answered"),
    ],
)
def test_rows_of_a_map_are_listed_where_no_answer_fits(
    waiting_map: Callable[..., tuple[str, ...]],
    command: Command,
    options: str,
    words: tuple[str, ...],
    said: str,
) -> None:
    waiting_map(options)
    refused = command("approve", "letters", *words, stdin=b"")
    assert refused.code == 2
    assert said in refused.err
    assert len(command("runs", "list", "--map", "letters", "--status", "waiting").out.splitlines()) >= 3


@pytest.mark.parametrize(
    ("typed", "code", "expected"),
    [
        (b"y\ny\ny\n", 0, {"a": "Draft a", "b": "Draft b", "c": "Draft c"}),
        (b"w\nmine\nl\ny\n", 6, {"a": "mine", "c": "Draft c"}),
        (b"y\n", 6, {"a": "Draft a"}),
        (b"l\nl\nl\n", 6, {}),
        (b"", 6, {}),
    ],
)
def test_a_person_answers_one_row_after_the_other(
    waiting_map: Callable[..., tuple[str, ...]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    typed: bytes,
    code: int,
    expected: dict[str, str],
) -> None:
    mapping = waiting_map(", ask: edit")
    with monkeypatch.context() as patched:
        patched.setattr("fusion.cli.run_session.gates.is_terminal", lambda stream: True)
        done = command("approve", "letters", stdin=typed)
    assert done.code == code, done
    assert "1 of 3, row a (letters-1)" in done.err
    assert ("2 of 3" in done.err) is bool(typed)
    assert command(*mapping).code == code
    assert answers(tmp_path) == expected
    if expected:
        again = command("approve", "letters", "--all", "--yes")
        assert (again.code == 0) is (len(expected) < 3)


def test_all_gates_of_a_run_are_answered_at_once(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_scripted_models(monkeypatch)
    (tmp_path / "two.yaml").write_text(
        "inputs: {task: A task.}\n"
        "stages: {a: {kind: gate, show: 'inputs.task'}, b: {kind: gate, show: 'inputs.task', ask: edit}}\n"
        "output: {a: a.text, b: b.text}\n"
    )
    done = command("run", str(tmp_path / "two.yaml"), "x", stdin=b"")
    assert done.code == 6, done
    run_id = run_id_in(done.err)
    for words in (("--all",), ("c", "--all", "--yes"), ("--yes",)):
        assert command("approve", run_id, *words, stdin=b"").code == 2
    done = command("approve", run_id, "--all", "--yes")
    assert done.code == 0, done
    assert json.loads(done.out) == {"a": "x", "b": "x"}


def test_waiting_runs_outlive_the_retention(waiting: Waiting, command: Command) -> None:
    run_id, _ = waiting()
    assert "removed 0 runs" in command("runs", "prune", "--older-than", "0d").err
    assert run_id in command("runs", "list").out
    assert "removed 1 run" in command("runs", "prune", "--status", "waiting").err


def test_events_of_all_sessions_are_in_one_file(
    waiting: Waiting, person: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_scripted_models(monkeypatch)
    (tmp_path / "letter.yaml").write_text(LETTER % "")
    file = tmp_path / "events.jsonl"
    words = ("run", str(tmp_path / "letter.yaml"), "a letter", "-m", "scripted/echo", "--events-to", str(file))
    assert person(*words, stdin=b"y\n").code == 0
    kinds = [json.loads(line)["type"] for line in file.read_text().splitlines()]
    assert kinds.count("run_started") == 2
    assert kinds.count("gate_opened") == kinds.count("gate_answered") == 1
