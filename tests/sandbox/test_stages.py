"""The sandbox of a stage: an equal command runs once, resumed runs repeat none, and each is an event."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Result, RunFailed
from fusion.core.config import SandboxTable, Settings
from fusion.core.events import CommandFinished, EventBase
from fusion.core.types import Finished, ProcessLimits
from fusion.sandbox import SandboxDoor
from fusion.sandbox.base import Backend, Command
from fusion.store.lookup import kept_events
from tests.cli.conftest import environment
from tests.conftest import own_settings, run
from tests.sandbox.conftest import python
from tests.sandbox.shell import commands_of, shells

needs_bwrap = pytest.mark.needs("bwrap")
pytestmark = pytest.mark.usefixtures("shell")


@needs_bwrap
def test_a_stage_runs_a_command_beside_its_files(fusion: Callable[..., Fusion]) -> None:
    lines = ("cat a/b.txt; cat", "exit 3", "pwd")
    result, events = run(fusion(), None, pipeline=shells(*lines, beside={"a/b.txt": "beside "}, stdin="read"))
    assert result.text == "beside read/tmp/work\n"
    first, second, _ = commands_of(events)
    assert (first.program, first.by, first.code, first.stopped_by, first.reused) == (
        "sh",
        "bubblewrap",
        0,
        None,
        False,
    )
    assert (second.code, second.stage) == (3, "sh")


def test_an_equal_command_of_a_stage_runs_once(
    fusion: Callable[..., Fusion], ran: list[Command], tmp_path: Path
) -> None:
    result, events = run(fusion(store=tmp_path / "runs.db"), None, pipeline=shells("a", "b", "a"))
    assert (result.text, len(ran)) == ("1;2;1;", 2)
    assert [event.reused for event in commands_of(events)] == [False, False, True]


@pytest.mark.parametrize(
    "other",
    [{"beside": {"x": "1"}}, {"stdin": "1"}, {"seconds": 9.0}, {"lines": ("b",)}],
    ids=["files", "input", "limits", "arguments"],
)
def test_whatever_a_command_depends_on_makes_it_another(
    fusion: Callable[..., Fusion], ran: list[Command], other: dict[str, Any], tmp_path: Path
) -> None:
    made = fusion(store=tmp_path / "runs.db")
    with pytest.raises(RunFailed) as failed:
        made.complete(pipeline=shells("a", fails=True))
    edited = {"lines": ("a",), **other}
    made.resume(failed.value.result.run_id, pipeline=shells(*edited.pop("lines"), **edited))
    assert len(ran) == 2


@pytest.mark.parametrize("same", [True, False], ids=["the same Fusion", "a later one"])
def test_a_resumed_run_repeats_no_command(
    fusion: Callable[..., Fusion], ran: list[Command], tmp_path: Path, same: bool
) -> None:
    made = fusion(store=tmp_path / "runs.db")
    with pytest.raises(RunFailed) as failed:
        made.complete(pipeline=shells("a", "b", fails=True))
    if not same:
        made.close()
        made = fusion(store=tmp_path / "runs.db")
    events: list[EventBase] = []
    result = made.resume(failed.value.result.run_id, on_event=events.append)
    assert (result.text, len(ran)) == ("1;2;", 2)
    assert [(event.reused, event.seconds) for event in commands_of(events)] == [(True, 0.25)] * 2


def test_the_history_has_each_command_once(fusion: Callable[..., Fusion], ran: list[Command], tmp_path: Path) -> None:
    made = fusion(store=tmp_path / "runs.db")
    with pytest.raises(RunFailed) as failed:
        made.complete(pipeline=shells("a", "b", fails=True))
    result: Result = made.resume(failed.value.result.run_id)
    kept = [event for event in kept_events(made.store, result.run_id) if isinstance(event, CommandFinished)]
    assert [(event.program, event.by) for event in kept] == [("sh", "double")] * 2


def test_a_quote_and_a_preview_run_no_command(fusion: Callable[..., Fusion], ran: list[Command]) -> None:
    made = fusion()
    assert made.quote(pipeline=shells("a", "b")).usd.high == 0
    made.preview(pipeline=shells("a", "b"))
    assert ran == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"beside": {"/etc/x": ""}}, "invalid file name '/etc/x'"),
        ({"beside": {"a/../../x": ""}}, "without '..'"),
        ({"beside": {"": ""}}, "invalid file name ''"),
        ({"beside": {"a": "", "a/b": ""}}, "'a' is both a file and the folder of 'a/b'"),
        ({"beside": {"n" * 300: ""}}, "is too long"),
        ({"beside": {str(n): "" for n in range(201)}}, "give at most 200"),
        ({"lines": ("x" * 100_001,)}, "put it into a file"),
        ({"lines": ("a\0b",)}, "NUL character"),
    ],
    ids=["absolute", "above", "unnamed", "file and folder", "long name", "many files", "long argument", "NUL"],
)
def test_what_no_process_can_have_fails_the_stage(
    fusion: Callable[..., Fusion], ran: list[Command], given: dict[str, Any], words: str
) -> None:
    result, _ = run(fusion(), None, pipeline=shells(*given.pop("lines", ("true",)), **given))
    assert result.error is not None
    assert words in result.error.message
    assert ran == []


# Limits of the settings.


@pytest.mark.parametrize(
    ("table", "asked", "seconds", "memory"),
    [
        ("", ProcessLimits(), 10.0, 512),
        ("seconds = 3\nmemory = 100", ProcessLimits(), 3.0, 100),
        ("seconds = 30\nmemory = 2000", ProcessLimits(), 30.0, 2000),
        ("seconds = 30", ProcessLimits(seconds=5), 5.0, 512),
        ("seconds = 3", ProcessLimits(seconds=5), 3.0, 512),
    ],
    ids=["of the stage", "lower", "higher", "the stage asks for less", "the stage asks for more"],
)
def test_the_settings_bound_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, asked: ProcessLimits, seconds: float, memory: int
) -> None:
    own_settings(tmp_path, monkeypatch)(f"[sandbox]\n{table}\n")
    limits = Settings.from_environment().sandbox.limits(asked)
    assert (limits.seconds, limits.memory) == (seconds, memory)


@needs_bwrap
def test_a_limit_of_the_settings_stops_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fusion: Callable[..., Fusion]
) -> None:
    own_settings(tmp_path, monkeypatch)("[sandbox]\nseconds = 0.3\n")
    _, events = run(fusion(), None, pipeline=shells("sleep 60"))
    assert [event.stopped_by for event in commands_of(events)] == ["seconds"]


@needs_bwrap
@pytest.mark.anyio
async def test_a_cancelled_command_is_killed() -> None:
    door = SandboxDoor()
    mark = f"987{id(door) % 10**6}"
    task = asyncio.create_task(door.run(Command.of(python(f"import time; time.sleep({mark})"))))
    while not running(mark):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running(mark)


def running(mark: str) -> bool:
    """True while the command itself runs, apart from the sandbox around it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
            if words.startswith(b"python3\0") and f"time.sleep({mark})".encode() in words:
                return True
        except OSError:
            continue
    return False


WAITS = """
import asyncio, sys
from fusion.core.types import ProcessLimits
from fusion.sandbox import SandboxDoor
from fusion.sandbox.base import Command
code = f"import time; time.sleep({sys.argv[1]})"
limits = ProcessLimits(seconds=5)
asyncio.run(SandboxDoor().run(Command.of(("python3", "-I", "-S", "-c", code), limits=limits)))
"""


@needs_bwrap
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_command_dies_with_fusion(number: signal.Signals) -> None:
    mark = f"{os.getpid()}.{number:02}"
    process = subprocess.Popen([sys.executable, "-c", WAITS, mark], env=environment())
    while not running(mark):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.wait()
    while running(mark):
        time.sleep(0.02)  # the kernel ends it at once, or the clock within


@pytest.mark.anyio
async def test_only_so_many_commands_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Backend):
        name = "counting"
        peak = running = 0
        lock = threading.Lock()

        def run(self, command: Command, stop: threading.Event) -> Finished:
            with self.lock:
                self.running += 1
                self.peak = max(self.peak, self.running)
            stop.wait(0.05)
            with self.lock:
                self.running -= 1
            return Finished(0, command.argv[1], "")

    backend = Counting()
    monkeypatch.setattr("fusion.sandbox.door.found", lambda table: backend)
    doors = [SandboxDoor(SandboxTable(concurrency=3)) for _ in range(2)]
    ended = await asyncio.gather(*(doors[n % 2].run(Command.of(("x", str(n)))) for n in range(10)))
    assert [one.stdout for one in ended] == [str(n) for n in range(10)]
    assert backend.peak == 3
