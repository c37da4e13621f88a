"""The command as a process: signals, pipes and terminals."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion.core.result import Result
from tests.cli.conftest import BARE, MANY, ONE, gone, read_until, start

ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

Scripted = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Starts `fusion` with scripted models, in processes and sessions of their own; none is left at the end."""
    with contextlib.ExitStack() as started:

        def run(*words: str, **options: Any) -> "subprocess.Popen[bytes]":
            process = start(*words, module="tests.cli.scripted", start_new_session=True, **options)
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_ends_the_run_and_gives_what_is_done(pipeline: Any, scripted: Scripted, number: int) -> None:
    process = scripted("run", pipeline(MANY), "a,slow,c", "-m", "scripted/slow", "--json", "-v")
    read_until(process.stderr, b"work 1: work by", b"work 3: work by")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    result = Result.model_validate_json(out)
    assert process.returncode == 130
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.reason == "Interrupted"
    assert sorted(item.value for item in result.items) == ["done: do a", "done: do c"]
    assert b"fusion: interrupted\n" in err
    assert b"2 calls" in err.splitlines()[-2]
    assert err.splitlines()[-1] == f"to go on: fusion resume {result.run_id}".encode()
    assert b"Traceback" not in err
    assert gone(process)


HEAVY = """
inputs: {q: {description: A text., stdin: true}}
stages:
  ask: {kind: generate, role: bulk, prompt: "{{ inputs.q }}"}
  last:
    kind: render
    template: "{{ ask.text }}{% for i in range(99999) %}{{ range(99999) | map('string') | join }}{% endfor %}"
output: last
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_the_middle_of_a_template(pipeline: Any, scripted: Scripted, number: int) -> None:
    process = scripted("run", pipeline(HEAVY), "x", "-m", "scripted/echo", "-v")
    read_until(process.stderr, b"last: started")
    begun = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - begun < 8


def test_a_second_signal_leaves_at_once(pipeline: Any, scripted: Scripted) -> None:
    process = scripted("run", pipeline(BARE), "-m", "scripted/stubborn")
    read_until(process.stderr, b"answer: started")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, b"interrupted")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert gone(process)


def test_a_reader_that_has_enough_is_no_failure(pipeline: Any, scripted: Scripted) -> None:
    process = scripted("run", pipeline(BARE), "-m", "scripted/long")
    assert process.stdout is not None
    assert process.stdout.readline() == b"a line of the answer\n"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(timeout=30) == 0
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err


def test_a_run_whose_events_nobody_reads_is_stopped(pipeline: Any, scripted: Scripted) -> None:
    words = ",".join([*["a"] * 2000, "slow"])
    process = scripted("run", pipeline(MANY), words, "-m", "scripted/slow", "--events", "-q")
    assert process.stdout is not None
    assert b'"run_started"' in process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(timeout=30) == 130
    assert re.fullmatch(rb"fusion: interrupted\nto go on: fusion resume [\w-]+\n", err)


def test_a_full_disk_is_said(pipeline: Any, scripted: Scripted) -> None:
    with Path("/dev/full").open("wb") as full:
        process = scripted("run", pipeline(BARE), "-m", "scripted/echo", "-q", stdout=full)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.startswith(b"fusion: cannot write to standard output: No space left on device")
    assert err.count(b"\n") == 1


def test_what_goes_into_a_pipe_is_utf_8_whatever_the_terminal_speaks(pipeline: Any, scripted: Scripted) -> None:
    env = {"PYTHONIOENCODING": "ascii"}
    process = scripted("run", pipeline(ONE), "pipé", "-m", "scripted/echo", env=env)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "pipé / nothing\n".encode())
    assert b"Traceback" not in err


# Terminals.

OnTerminal = Callable[..., tuple[int, bytes]]


@pytest.fixture
def on_terminal(scripted: Scripted) -> OnTerminal:
    """Exit code of a command whose three streams are one terminal, and all that it writes there."""

    def run(*words: str, **env: str) -> tuple[int, bytes]:
        ours, theirs = pty.openpty()
        process = scripted(*words, stdin=theirs, stdout=theirs, stderr=theirs, env={"TERM": "xterm-256color", **env})
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                written += piece
        os.close(ours)
        return process.wait(timeout=30), written.replace(b"\r\n", b"\n")

    return run


def test_on_a_terminal_the_answer_is_streamed_between_view_and_receipt(
    pipeline: Any, on_terminal: OnTerminal
) -> None:
    code, written = on_terminal("run", pipeline(ONE), "write a long answer", "-m", "scripted/echo")
    assert code == 0
    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
    assert b"\nstage   role  model" in written
    begin, end = written.rindex(b"\x1b[?25h"), written.index(b"\nstage ")
    assert ESCAPES.sub(b"", written[begin:end]).strip() == b"write a long answer / nothing"


CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x1b\x9b\x08"


def test_on_a_terminal_no_answer_turns_the_direction_of_writing(pipeline: Any, on_terminal: OnTerminal) -> None:
    answer = "\n".join(f"pay {control}{number:03} now" for number, control in enumerate(CONTROLS))
    code, written = on_terminal("run", pipeline(ONE), answer, "-m", "scripted/echo")
    assert code == 0
    for number, control in enumerate(CONTROLS):
        assert f"pay {control}{number:03}".encode() not in written
        assert f"pay \N{REPLACEMENT CHARACTER}{number:03} now".encode() in written


def test_on_a_terminal_a_benchmark_shows_a_table_of_its_arms(on_terminal: OnTerminal, tmp_path: Path) -> None:
    rows = [{"prompt": f"item {n}", "gold": f"item {n % 2}"} for n in range(4)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("-m", "scripted/echo", "--scorer", "exact", "--concurrency", "1")
    code, written = on_terminal("bench", str(tmp_path / "items.jsonl"), *words, "-o", str(tmp_path / "out"))
    assert code == 0
    text = ESCAPES.sub(b"", written).decode()
    shown = [line.split() for line in text.replace("\r", "\n").splitlines()]
    assert ["arm", "answers", "accuracy", "cost"] in shown
    assert ["scripted/echo", "0", "of", "4", "$0.0000"] in shown
    assert ["scripted/echo", "4", "of", "4", "50.0%"] in [line[:5] for line in shown]
    assert "4 of 4 answers, " in text
    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")


def test_on_a_terminal_an_answer_that_broke_off_is_said_and_printed_again(
    pipeline: Any, on_terminal: OnTerminal
) -> None:
    code, written = on_terminal("run", pipeline(BARE), "-m", "scripted/restarted")
    text = ESCAPES.sub(b"", written)
    assert code == 0
    assert b"half of \nfusion: discard the text above; the answer starts again:\nthe whole\n" in text
    assert b"attempt 1 failed" in text[text.index(b"the whole") :]


def test_no_color_and_dumb_terminals_are_respected(pipeline: Any, on_terminal: OnTerminal) -> None:
    _, written = on_terminal("run", pipeline(ONE), "write", "-m", "scripted/echo", NO_COLOR="1")
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", written)
    code, written = on_terminal("run", pipeline(ONE), "write", "-m", "scripted/echo", TERM="dumb")
    assert code == 0
    assert b"\x1b" not in written
    assert b"\nwrite / nothing\n" in written


def test_a_terminal_is_not_waited_on_for_the_stdin_input(pipeline: Any, on_terminal: OnTerminal) -> None:
    code, written = on_terminal("run", pipeline(ONE), "write", "-m", "scripted/echo", "-q")
    assert (code, written) == (0, b"write / nothing\n")


def test_a_usage_error_on_a_terminal_leaves_it_as_it_was(pipeline: Any, on_terminal: OnTerminal) -> None:
    code, written = on_terminal("run", pipeline(ONE), "x", "-m", "scripted/echo", "--events-to", "/no/such/file")
    assert code == 2
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h")
    code, written = on_terminal("run", pipeline(ONE), "-m", "scripted/echo")
    assert code == 2
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h")
