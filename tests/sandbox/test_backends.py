"""Runners of the user's own, Python in monty, and the choice of a sandbox, or the reason why there is none."""

import os
import sys
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from fusion.core.config import SandboxTable, Settings
from fusion.core.errors import StageError, UsageError
from fusion.core.events import CommandFinished
from fusion.core.types import Finished, ProcessLimits
from fusion.sandbox.base import Backend, Command
from fusion.sandbox.monty import Interpreter, code_of
from fusion.sandbox.probe import NoSandboxError, found
from tests.conftest import own_settings, pipeline, run
from tests.sandbox.conftest import python

LIMITS = ProcessLimits(seconds=10.0, memory=100, disk=8, processes=20, output=2_000)
needs_bwrap = pytest.mark.needs("bwrap")


def ran(table: SandboxTable, *argv: str, limits: ProcessLimits = LIMITS, **more: Any) -> Finished:
    return found(table).run(Command.of(argv, limits=limits, **more), Event())


# A runner.

RUNNER = """\
import os, subprocess, sys
say, folder, name, *limits = sys.argv[1:7]
with open(say, "a") as file:
    print(name, *limits, sorted(os.environ), os.getcwd() == folder, file=file)
sys.exit(subprocess.run(sys.argv[7:]).returncode)
"""
STOPPER = "import sys\nopen(sys.argv[1], 'a').write('stopped ' + sys.argv[2] + chr(10))\n"


@pytest.fixture
def own(tmp_path: Path) -> SandboxTable:
    """A runner that says what it gets, and a command that stops it."""
    (tmp_path / "runner.py").write_text(RUNNER)
    (tmp_path / "stopper.py").write_text(STOPPER)
    said = str(tmp_path / "said")
    placeholders = ("{folder}", "{name}", "{memory}", "{processes}", "{disk}")
    return SandboxTable(
        runner=(sys.executable, "-S", str(tmp_path / "runner.py"), said, *placeholders),
        stop=(sys.executable, "-S", str(tmp_path / "stopper.py"), said, "{name}"),
        env=("MY_RUNNER",),
    )


def test_a_runner_gets_the_command_the_files_and_the_limits(
    own: SandboxTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MY_RUNNER", "1")
    ended = ran(own, "sh", "-c", "cat a/b; cat; exit 3", files={"a/b": "beside "}, stdin="read")
    assert (ended.code, ended.stdout, ended.by) == (3, "beside read", "runner")
    (said,) = (tmp_path / "said").read_text().splitlines()
    name, *limits = said.split()[:4]
    assert name.startswith("fusion-")
    assert limits == ["100", "20", "8"]
    assert "OPENAI_API_KEY" not in said
    assert "MY_RUNNER" in said
    assert said.endswith("True")


@pytest.mark.parametrize(
    ("command", "limits", "stopped"),
    [
        ("sleep 60", {"seconds": 0.5}, "seconds"),
        ("yes", {}, "output"),
        ("trap '' TERM; sleep 60", {"seconds": 0.5}, "seconds"),
        ("sleep 60 & sleep 60", {"seconds": 0.5}, "seconds"),
        ("exec >&- 2>&-; sleep 60", {"seconds": 0.5}, "seconds"),
    ],
)
def test_a_stopped_runner_is_killed_and_cleaned_up_after(
    own: SandboxTable, tmp_path: Path, command: str, limits: dict[str, Any], stopped: str
) -> None:
    ended = ran(own, "sh", "-c", command, limits=LIMITS.model_copy(update=limits))
    assert ended.stopped_by == stopped
    begun, after = (tmp_path / "said").read_text().splitlines()
    assert after == f"stopped {begun.split()[0]}"


def test_each_command_of_a_runner_has_a_name_and_a_folder_of_its_own(own: SandboxTable, tmp_path: Path) -> None:
    folders = {ran(own, "sh", "-c", "touch left; ls; pwd").stdout for _ in range(2)}
    assert len(folders) == 2
    assert all(one.startswith("left\n") and not Path(one.split()[1]).exists() for one in folders)
    assert len({line.split()[0] for line in (tmp_path / "said").read_text().splitlines()}) == 2


def test_a_runner_that_vanishes_fails_the_stage(tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    table = SandboxTable(runner=(str(program),))
    assert ran(table, "true").ok
    program.unlink()
    with pytest.raises(StageError, match=r"cannot be started: No such file .*correct `\[sandbox\] runner`"):
        ran(table, "true")


# Monty.


class Recorded(Backend):
    """A sandbox for processes that counts its commands."""

    name = "recorded"

    def __init__(self) -> None:
        self.count = 0

    def run(self, command: Command, stop: Event) -> Finished:
        self.count += 1
        return Finished(0, "by a process", "", by=self.name)


@pytest.mark.parametrize(
    ("code", "code_is", "text"),
    [
        ("print(1 + 1)", 0, "2\n"),
        ("import json\nprint(json.dumps([1]))", 0, "[1]\n"),
        ("assert 1 == 2, 'no'", 1, "AssertionError: no"),
        ("print('a')\nassert False", 1, "AssertionError"),
    ],
)
def test_monty_judges_code_that_ends_well_or_fails_an_assertion(code: str, code_is: int, text: str) -> None:
    other = Recorded()
    ended = Interpreter(other).run(Command.of(python(code)), Event())
    assert (ended.code, ended.by, other.count) == (code_is, "monty", 0)
    assert text in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    yield 1\nprint(list(f()))",
        "import heapq",
        "import sys\nsys.exit(0)",
        "1 / 0",
        "open('/etc/passwd').read()",
        "def f(: pass",
        "raise TimeoutError('my own')",
    ],
    ids=["yield", "module", "exit", "exception", "file", "syntax", "time-out of its own"],
)
def test_a_process_judges_whatever_else_monty_says(code: str) -> None:
    other = Recorded()
    ended = Interpreter(other).run(Command.of(python(code)), Event())
    assert (ended.stdout, other.count) == ("by a process", 1)


@pytest.mark.parametrize(
    ("code", "stopped"),
    [
        ("while True: pass", "seconds"),
        ("import time\ntime.sleep(60)", "seconds"),
        ("x = 'a' * 10**9", "memory"),
        ("x = []\nwhile True: x.append('a' * 10**6)", "memory"),
        ("while True: print('x' * 1000)", "output"),
    ],
)
def test_limits_hold_in_monty(code: str, stopped: str) -> None:
    other = Recorded()
    limits = LIMITS.model_copy(update={"seconds": 0.5})
    ended = Interpreter(other).run(Command.of(python(code), limits=limits), Event())
    assert (ended.stopped_by, ended.by, other.count) == (stopped, "monty", 0)
    assert len(ended.stdout) <= 2_000


@pytest.mark.parametrize(
    ("argv", "files", "stdin", "code"),
    [
        (("python3", "-I", "-S", "-c", "x"), {}, "", "x"),
        (("/usr/bin/python3.11", "-c", "x"), {}, "", "x"),
        (("python3", "m.py"), {"m.py": "y"}, "", "y"),
        (("python3", "-c", "x"), {"a": "1"}, "", None),
        (("python3", "m.py"), {"m.py": "y", "n.py": "z"}, "", None),
        (("python3", "-c", "x"), {}, "input", None),
        (("python3", "-c", "x", "argument"), {}, "", None),
        (("python3", "-m", "x"), {}, "", None),
        (("ruby", "-c", "x"), {}, "", None),
        (("python3", "m.py"), {"m.py": b"\xff"}, "", None),
    ],
)
def test_only_code_without_files_and_input_is_given_to_monty(
    argv: tuple[str, ...], files: dict[str, Any], stdin: str, code: str | None
) -> None:
    assert code_of(Command.of(argv, files=files, stdin=stdin)) == code


def test_without_a_sandbox_for_processes_monty_refuses_what_it_does_not_know() -> None:
    alone = Interpreter(NoSandboxError("bubblewrap is not installed", "install it"))
    assert alone.run(Command.of(python("assert True")), Event()).ok
    assert alone.run(Command.of(python("1 / 0")), Event()).code == 1
    for argv in (python("import heapq"), python("def f(): yield 1"), ("ls",)):
        with pytest.raises(StageError, match="bubblewrap is not installed; install it"):
            alone.run(Command.of(argv), Event())


# The choice.


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, r"bubblewrap is not installed; `apt install bubblewrap`, or set `\[sandbox\] runner`"),
        ({"runner": ("nowhere",)}, r"the runner 'nowhere' is not here; install it, or correct"),
        ({"python": "monty", "runner": ("nowhere", "x")}, r"'nowhere' is not here"),
    ],
    ids=["nothing", "no runner", "no process for monty"],
)
def test_without_a_sandbox_no_command_runs(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    made = SandboxTable(**(table or {"readable": (Path("/usr/games"),)}))  # a choice of its own
    with pytest.raises(StageError, match=words):
        ran(made, "ls")


@needs_bwrap
def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(NoSandboxError, match=r"/not/there.*correct `\[sandbox\] readable`"):
        found(SandboxTable(readable=(Path("/not/there"),)))


@needs_bwrap
def test_a_bwrap_that_is_refused_says_what_to_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "bwrap: No permissions to create a new namespace"
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSandboxError, match=f"{said}; user namespaces are refused"):
        found(SandboxTable(readable=(Path("/usr/include"),)))


@needs_bwrap
def test_readable_folders_can_be_read_and_not_written(tmp_path: Path) -> None:
    table = SandboxTable(readable=(Path("/etc/ssl"),))
    assert ran(table, "sh", "-c", "ls /etc/ssl").stdout
    assert "Read-only" in ran(table, "sh", "-c", "touch /etc/ssl/x").stderr


@needs_bwrap
def test_the_sandbox_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = SandboxTable(readable=(Path("/usr/bin"),))
    first = found(table)
    monkeypatch.setenv("PATH", "/nowhere")
    assert found(table) is first


# Settings.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runner = 'docker'", r"fusion.toml:2:1 sandbox.runner: expected a list"),
        ("runner = ['docker', '{image}']", r"unknown placeholder \{image\}; use one of: folder, name"),
        ("stop = ['x']", r"`stop` is for a runner, and `runner` is not set"),
        ("env = ['X']", r"`env` is for a runner"),
        ("readable = ['lib']", r"expected the full path of a folder other than /, got 'lib'"),
        ("readable = ['/']", r"expected the full path of a folder other than /, got '/'"),
        ("runner = ['x']\nreadable = ['/opt']", r"`readable` is for bubblewrap"),
        ("python = 'pyodide'", r"expected 'process' or 'monty', got 'pyodide'"),
        ("seconds = 0", r"sandbox.seconds: expected more than 0"),
        ("network = true", r"sandbox.network: unknown key"),
    ],
)
def test_mistakes_are_named_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    own_settings(tmp_path, monkeypatch)(f"[sandbox]\n{text}\n")
    with pytest.raises(UsageError, match=words):
        Settings.from_environment()


def test_a_project_that_is_not_trusted_chooses_no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "fusion.toml").write_text("[sandbox]\nrunner = ['sh', '-c']\n")
    settings = Settings.from_environment(start=project)
    assert settings.sandbox == SandboxTable()
    assert any("[sandbox] is ignored until you trust it" in notice for notice in settings.notices)


# Tests of an answer, in monty.

CHECKED = """
inputs: {tests: "assert f(2) == 4"}
stages:
  write: {kind: generate, role: bulk, prompt: "Write f."}
  check: {kind: verify, value: write, check: {python: "{{ inputs.tests }}"}, attempts: 1}
output: check
"""


@needs_bwrap
@pytest.mark.parametrize(
    ("answers", "tests", "by", "passed"),
    [
        (["def f(x): return 2 * x"], "assert f(2) == 4", ["monty"], True),
        (["def f(x): return x", "def f(x): return 2 * x"], "assert f(2) == 4", ["monty", "monty"], True),
        (["def f(x): return x", "def f(x): return 1"], "assert f(2) == 4", ["monty", "monty"], False),
        (["import heapq\ndef f(x): return 2 * x"], "assert f(2) == 4", ["bubblewrap"], True),
        (["def f(x): return 2 * x"], "def test_it():\n    assert f(2) == 4", ["bubblewrap"], True),
        (["def f(x): return 2 * x"], "from solution import f\nassert f(2) == 4", ["bubblewrap"], True),
        (["def f(x): return 1 / 0", "def f(x): return 4"], "assert f(2) == 4", ["bubblewrap", "monty"], True),
        (["import os; os._exit(0)", "def f(x): return 4"], "assert f(2) == 4", ["bubblewrap", "monty"], True),
    ],
    ids=["right", "repaired", "wrong", "module", "test function", "import", "exception", "exit"],
)
def test_tests_of_an_answer_run_in_monty_where_it_can(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fusion: Any,
    answers: list[str],
    tests: str,
    by: list[str],
    passed: bool,
) -> None:
    own_settings(tmp_path, monkeypatch)("[sandbox]\npython = 'monty'\n")
    one = fusion({"bulk": answers, "frontier": "never asked"})
    result, events = run(one, None, pipeline=pipeline(CHECKED), inputs={"tests": tests})
    assert [event.by for event in events if isinstance(event, CommandFinished)] == by
    assert (result.stages["check"].decision == "passed") == passed
