"""Runs with tools that get SIGKILL at random instants, as the benchmark measures them, a few times."""

import random
from pathlib import Path

import pytest

from benchmarks.resume.hands import trial, warm


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm()


@pytest.mark.parametrize("seed", range(6))
def test_killed_runs_end_right_and_no_call_that_writes_is_made_twice(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    outcome = trial(4, [chosen.uniform(0, 0.05) for _ in range(1 + seed % 3)], tmp_path)
    assert outcome.right, outcome
    assert (outcome.written, outcome.twice) == (5, 0)
