"""Runs over HTTP that get SIGKILL at random instants, as the benchmarks measure them, a few times."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.resume.resumers import once

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shape", ["reviewed", "chain"])
def test_killed_runs_end_right_and_pay_nothing_twice(shape: str) -> None:
    command = [sys.executable, "-m", "benchmarks.resume.killed", "--runs", "3", "--items", "40", "--pipeline", shape]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    said = ended.stdout.splitlines()[-1]
    assert f"{shape}: 3 of 3 right" in said, ended.stdout + ended.stderr
    assert "finished calls sent again: 0" in said
    assert "items with another's result: 0" in said


def test_of_two_resumers_one_runs_the_run(tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = once(folder)
        assert outcome.right, outcome
