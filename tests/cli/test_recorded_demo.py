"""`fusion demo --recorded`: a recorded run, played by the views of a live one; and the making of the recording."""

import contextlib
import fcntl
import functools
import hashlib
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from fusion import Fusion, ScriptedModel
from fusion.cli.commands.demo import faults, recording_path, subject
from fusion.client.recording import Recording
from fusion.core import events
from tests.cli.conftest import ROOT, Command, environment, start
from tests.cli.test_demo import RIGHT
from tests.conftest import frontier

RECORDING = Recording.read(recording_path())
ANSWER = RECORDING.outcome.text
LINES = [line for line in ANSWER.splitlines() if line]
TITLES = [event.title for event in RECORDING.events if isinstance(event, events.StageGrew) and event.title]
# A process in which a recording takes as many seconds, and llama.cpp is not installed.
QUICK = """
import sys
sys.modules["xllamacpp"] = None
from fusion.cli.views.live import playback
from fusion.cli.app import run_command
playback.PLAYED_IN = {seconds}
code = run_command(sys.argv[1:])
print(*[name for name in ("litellm", "networkx") if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are played at once."""
    monkeypatch.setattr("fusion.cli.views.live.playback.PLAYED_IN", 0.01)


@pytest.mark.usefixtures("quick")
def test_in_a_pipe_it_says_what_it_is_and_shows_answer_receipt_and_timeline(command: Command) -> None:
    ran = command("demo", "--recorded")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == ANSWER.splitlines()
    first, *lines = ran.err.splitlines()
    assert first.startswith("recording  a real run of 20")
    for part in (f"{RECORDING.began:%Y-%m-%d}", *RECORDING.models, RECORDING.made.machine, "is played in"):
        assert part in first
    assert len(RECORDING.models) == 2
    assert [line for line in lines if re.match(r"plan \d+: ", line)] == [
        f"plan {number}: {title}" for number, title in enumerate(TITLES, 1)
    ]
    assert any(line.startswith(f"plan: ok, {len(TITLES)} subtasks") for line in lines)
    assert any(line.startswith("stage ") and line.endswith("time") for line in lines)
    assert any("free (local)" in line for line in lines)
    assert any(line.startswith("answer (merge)") for line in lines)
    assert any(line.startswith("checked: ") for line in lines)
    assert lines[-1] == "  fusion demo"


@pytest.mark.parametrize(("load", "said"), [(0.5, False), (3.0, True)])
@pytest.mark.usefixtures("quick")
def test_a_recording_of_a_busy_machine_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load: float, said: bool
) -> None:
    made = RECORDING.made.model_copy(update={"load": load, "cores": 2})
    RECORDING.model_copy(update={"made": made}).write(tmp_path / "other.jsonl")
    monkeypatch.setattr("fusion.cli.commands.demo.recording_path", lambda: tmp_path / "other.jsonl")
    first, *_ = command("demo", "--recorded").err.splitlines()
    assert ("on 2 cores, busy with other work too (" in first) is said


@pytest.mark.usefixtures("quick")
def test_verbose_shows_the_calls(command: Command) -> None:
    assert "work 1: work by local/small (served by " in command("demo", "--recorded", "-v").err


def test_quiet_prints_the_answer_alone_and_at_once(command: Command) -> None:
    begun = time.monotonic()
    ran = command("demo", "--recorded", "-q")
    assert time.monotonic() - begun < 5
    assert (ran.code, ran.out.splitlines(), ran.err) == (0, ANSWER.splitlines(), "")


def test_it_is_played_in_the_time_that_is_given(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.cli.views.live.playback.PLAYED_IN", 1.0)
    begun = time.monotonic()
    assert command("demo", "--recorded").code == 0
    assert 1.0 <= time.monotonic() - begun < 10


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_is_drawn_live_without_weights_keys_and_extras(tmp_path: Path, columns: int) -> None:
    text, code = on_terminal(columns, "demo", "--recorded", env={"FUSION_MODELS_DIR": str(tmp_path)})
    assert code == 0, text
    assert text.startswith("recording  a real run of ")
    for part in ("▸ plan", "✓ plan", "▸ answer", "in flight", "━━", *TITLES, *LINES, "free (local)", "checked: "):
        assert part in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert text.rindex("━━") > text.index(LINES[-1])
    assert not re.search("litellm|networkx", text)


def on_terminal(columns: int, *words: str, env: dict[str, str]) -> tuple[str, int]:
    """A command whose standard streams are a terminal, and that plays in two seconds: its output and exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = environment(TERM="xterm-256color", **env)
    env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    script = QUICK.format(seconds=2)
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                written += piece
        os.close(ours)
    return written.decode().replace("\r\n", "\n"), process.returncode


def test_ctrl_c_ends_it() -> None:
    process = start("demo", "--recorded")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"plan: started"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    assert err.decode().splitlines()[-1] == "fusion: interrupted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "openai"), "--profile has no effect with --recorded"),
        (("--record", "here.jsonl"), "leave --recorded out"),
        (("-q", "-v"), "-q and -v contradict each other"),
    ],
)
def test_options_without_effect_are_refused(command: Command, words: tuple[str, ...], said: str) -> None:
    ran = command("demo", "--recorded", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


# The recording.


def test_the_shipped_recording_is_of_the_shipped_demo_and_its_answer_is_right() -> None:
    assert RECORDING.made.subject == subject(), "make the recording anew: see fusion/cli/commands/demo.py"
    assert faults(ANSWER) == []
    assert isinstance(RECORDING.events[0], events.RunStarted)
    assert isinstance(RECORDING.events[-1], events.RunFinished)
    assert RECORDING.outcome.details.run.status == "ok"


def test_every_title_of_the_recorded_plan_came_while_the_plan_was_written() -> None:
    told = [event.type for event in RECORDING.events if event.stage == "plan"]
    first, last = told.index("stage_grew"), told.index("call_finished")
    assert len(TITLES) == 4
    assert told[first : first + 4] == ["stage_grew"] * 4
    assert first + 4 <= last


def test_the_shipped_recording_is_small_and_names_no_folder_of_the_machine() -> None:
    text = recording_path().read_text("utf-8")
    assert len(text) < 100_000
    assert not re.search(r"/(tmp|home|root|Users|work|var)\b", text)


def test_a_recording_is_written_as_it_was_read(tmp_path: Path) -> None:
    RECORDING.write(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == recording_path().read_bytes()


def models(answer: str) -> dict[str, ScriptedModel]:
    return {
        "local/strong": ScriptedModel(frontier(4, answer=answer), name="local/strong"),
        "local/small": ScriptedModel("a part", name="local/small"),
    }


@pytest.mark.usefixtures("quick")
def test_a_run_is_recorded_and_played(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    monkeypatch.setattr("fusion.cli.session.Fusion", functools.partial(Fusion, models=models(RIGHT)))
    live = command("demo", "--record", str(file))
    assert live.code == 0, live.err
    monkeypatch.setattr("fusion.cli.commands.demo.recording_path", lambda: file)
    played = command("demo", "--recorded")
    assert (played.code, played.out) == (0, RIGHT)
    assert "plan 4: part 4" in played.err
    stages = [line for line in live.err.splitlines() if re.match(r"(plan|work|review|answer)\b", line)]
    assert [line for line in stages if line not in played.err] == []  # milestones and receipt of the live run


def test_a_wrong_answer_is_not_recorded(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = models(RIGHT.replace("Pavel", "Paul"))
    monkeypatch.setattr("fusion.cli.session.Fusion", functools.partial(Fusion, models=wrong))
    assert command("demo", "--record", str(tmp_path / "own.jsonl"), "-q").code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_said_before_the_run(command: Command, tmp_path: Path) -> None:
    ran = command("demo", "--record", str(tmp_path / "none" / "own.jsonl"))
    assert ran.code == 2
    assert "there is no folder" in ran.err


@pytest.mark.parametrize("text", ["", "{}\n", "one\ntwo\nthree\n"])
def test_a_file_that_is_no_recording_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    monkeypatch.setattr("fusion.cli.commands.demo.recording_path", lambda: tmp_path / "bad.jsonl")
    ran = command("demo", "--recorded")
    assert ran.code == 2
    assert "bad.jsonl' is not a recording that this version reads" in ran.err


# The picture that is made of it.


def test_the_picture_is_that_of_the_recording(tmp_path: Path) -> None:
    made = tmp_path / "demo.svg"
    subprocess.run([sys.executable, ROOT / "docs" / "picture.py", made], check=True, env=environment())
    kept = ROOT / "docs" / "pages" / "images" / "demo.svg"
    assert digest(made) == digest(kept), "draw it anew: python docs/picture.py"
    assert "http" not in made.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
