"""`fusion demo`: the main job on the embedded models, and what it says of a wrong answer."""

import functools
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion import Fusion, ScriptedModel
from tests.cli.conftest import Command, apart
from tests.conftest import frontier

RIGHT = """\
| Part | Manager | Containers | Incidents |
|---|---|---|---|
| North Quay | Ingrid Solberg | 18,420 | 2 |
| East Basin | Pavel Novak | 2310 | 5 |
| Ferry Terminal | Amara Diallo | 85 | 1 |
| South Pier | Henrik Lund | 6 940 | 3 |
"""
Answering = Callable[[str], None]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Has the demonstration's models give this answer at the end."""

    def play(answer: str) -> None:
        models = {
            "local/strong": ScriptedModel(frontier(4, answer=answer), name="local/strong"),
            "local/small": ScriptedModel("a part", name="local/small"),
        }
        monkeypatch.setattr("fusion.cli.session.Fusion", functools.partial(Fusion, models=models))

    return play


@pytest.mark.local
def test_the_embedded_models_answer_rightly_within_six_minutes() -> None:
    """Six minutes of two cores, as CPU time: other work of the machine counts for nothing."""
    begun = cpu_of_children()
    ran = apart("demo", within=1800)
    assert ran.code == 0, ran.err
    assert 20 < cpu_of_children() - begun < 2 * 360
    lines = ran.out.splitlines()
    for part, facts in {
        "North Quay": ("Ingrid Solberg", "18,420", "2"),
        "East Basin": ("Pavel Novak", "2,310", "5"),
        "Ferry Terminal": ("Amara Diallo", "85", "1"),
        "South Pier": ("Henrik Lund", "6,940", "3"),
    }.items():
        assert any(part in line and all(fact in line for fact in facts) for line in lines), ran.out
    assert "checked: " in ran.err


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_right_answer_is_checked(command: Command, answering: Answering) -> None:
    answering(RIGHT)
    ran = command("demo")
    assert ran.code == 0, ran.err
    assert ran.out == RIGHT
    assert "harbour-report.md" in ran.err
    assert "all 4 parts of the port" in ran.err.splitlines()[-1]


def test_quiet_says_nothing_of_a_right_answer(command: Command, answering: Answering) -> None:
    answering(RIGHT)
    ran = command("demo", "-q")
    assert (ran.code, ran.out, ran.err) == (0, RIGHT, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("| 2310 |", "| 96,000 |"),
        ("Pavel Novak", "Ingrid Solberg"),
        ("| 5 |", "| 15 |"),
        ("East Basin", "West Basin"),
    ],
)
def test_a_wrong_answer_is_a_failed_run(command: Command, answering: Answering, right: str, wrong: str) -> None:
    answering(RIGHT.replace(right, wrong))
    ran = command("demo", "-q")
    assert ran.code == 3
    assert ran.out == RIGHT.replace(right, wrong)
    assert "East Basin: Pavel Novak, 2,310 containers, 5 incidents; the answer " in ran.err
    assert len(ran.err.strip().splitlines()) == 2


def test_without_weights_it_says_how_to_get_them(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSION_MODELS_DIR", str(tmp_path))
    ran = command("demo", "-q")
    assert ran.code == 2
    assert "fusion models pull" in ran.err


def test_another_profile_needs_its_key(command: Command) -> None:
    ran = command("demo", "--profile", "openai", "-q")
    assert ran.code == 2
    assert "OPENAI_API_KEY" in ran.err


def test_the_titles_of_the_plan_and_the_time_are_said(command: Command, answering: Answering) -> None:
    answering(RIGHT)
    lines = command("demo").err.splitlines()
    for number in range(1, 5):
        assert f"plan {number}: part {number}" in lines
    assert any(re.fullmatch(r"time +about \d+ minutes? on .*", line) for line in lines), lines


def test_the_time_is_twice_as_long_on_half_the_cores(
    command: Command, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(RIGHT)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    minutes = {}
    for threads in (1, 4):
        monkeypatch.setenv("FUSION_LOCAL_THREADS", str(threads))
        said = re.search(r"^time +about (\d+) minute", command("demo").err, re.MULTILINE)
        assert said is not None
        minutes[threads] = int(said[1])
    assert abs(minutes[1] - 4 * minutes[4]) <= 2  # both are rounded


def test_a_demo_is_kept_and_says_how_to_see_it(command: Command, answering: Answering) -> None:
    answering(RIGHT)
    said = re.search(r"^kept: fusion (runs show \S+)$", command("demo").err, re.MULTILINE)
    assert said is not None
    assert "plan-execute-review" in command("runs", "list").out
    assert "answer (merge)" in command(*said[1].split()).out


def test_without_weights_it_points_to_the_recording(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSION_MODELS_DIR", str(tmp_path))
    assert "`fusion demo --recorded`" in command("demo", "-q").err


def test_with_hosted_models_the_time_is_theirs(command: Command) -> None:
    lines = command("demo", "--profile", "openai").err.splitlines()
    assert any(re.fullmatch(r"time +about \d.* s, if the models answer as fast as .*", line) for line in lines), lines
