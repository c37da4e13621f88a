"""A map on two nodes of a Ray cluster, through any death: rows are made once, and calls are paid once."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bulk.executors.ray import nodes
from tests.bulk.executors.ray.ground import Ground, based, kill_all_of
from tests.provider import Answer, Provider

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.xdist_group("ray")]

ROWS = 4
"""Rows at once."""


class Cluster(Ground):
    """The ground of a cluster of two nodes, whose raylets are these processes."""

    def __init__(self, provider: Provider, address: str, raylets: list[int]) -> None:
        super().__init__(provider, {"RAY_ADDRESS": address})
        self.raylets = raylets

    def slowly(self, text: str, *, then: float = 0.0) -> Answer:
        """Answer late until both nodes have asked: a busy machine starts them far apart."""
        return Answer(text.lower(), delay=then if len(self.keys) == 2 else 3.0)


@pytest.fixture(scope="module")
def up() -> Iterator[Cluster]:
    with Provider() as provider:
        env = {**os.environ, **based(provider), "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", nodes.__name__]
        with subprocess.Popen(
            command, env=env, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        ) as process:
            assert process.stdout is not None
            about = json.loads(next(line for line in process.stdout if line.startswith("{")))
            yield Cluster(provider, about["address"], about["raylets"])
            process.communicate()


@pytest.fixture
def ground(up: Cluster, tmp_path: Path, database: str) -> Cluster:
    up.begin(tmp_path, database, rows=40)
    return up


def test_rows_run_on_every_node_with_its_own_key(ground: Cluster) -> None:
    failing = {"READ row 7", "READ row 21"}

    def answer(text: str) -> Answer:
        if text in failing:
            return Answer("no", status=400)
        return ground.slowly(text)

    ground.on_call = answer
    code, report, said = ground.ended(ground.driver("--json", "--concurrency", "4"))
    assert (code, report["ok"], report["failed"]) == (3, 38, 2), said
    assert set(ground.keys) == {"sk-test-of-node-1", "sk-test-of-node-2"}
    assert max(ground.calls.values()) == 1
    assert "BadRequestError" in json.dumps(report["failures"])
    assert len((ground.folder / "out.jsonl").read_text().splitlines()) == 40
    assert "raylet" not in said


def test_nodes_together_stay_within_the_budget_of_the_map(ground: Cluster) -> None:
    ground.on_call = ground.slowly
    code, report, said = ground.ended(ground.driver("--json", "--budget", "calls=30", "--concurrency", str(ROWS)))
    assert (code, report["status"]) == (4, "failed"), said
    assert 20 <= len(ground.provider.requests) <= 30, said
    assert report["ok"] >= 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_map_goes_on_with_its_driver_started_again(ground: Cluster, number: signal.Signals) -> None:
    ground.on_call = lambda text: Answer(text.lower(), delay=0.3)
    first = ground.driver("--json", "--concurrency", str(ROWS))
    assert ground.asked(30)
    first.send_signal(number)
    first.communicate(timeout=120)
    assert first.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), ground.said
    code, report, said = ground.ended(ground.driver("--json", "--concurrency", str(ROWS)))
    assert (code, report["ok"]) == (0, 40), said
    assert ground.answers() == sorted(f"answer read row {number}" for number in range(1, 41))
    assert max(ground.calls.values()) <= 2
    assert len(ground.provider.requests) <= 80 + ROWS


def test_the_rows_of_a_dead_node_run_on_the_others(ground: Cluster) -> None:
    reported = threading.Event()

    def answer(text: str) -> Answer:
        if text == "READ row 40":  # the map may not be over before Ray reports the death
            return Answer(text.lower(), until=reported)
        return ground.slowly(text, then=0.3)

    ground.on_call = answer
    driver = ground.driver("--json", "--concurrency", str(ROWS))
    assert ground.provider.wait_until(lambda _: len(ground.keys) == 2, seconds=120)
    kill_all_of(ground.raylets.pop())
    left = ground.says("left the cluster")
    reported.set()
    code, report, said = ground.ended(driver)
    assert left, said
    assert (code, report["ok"]) == (0, 40), said
    assert ground.answers() == sorted(f"answer read row {number}" for number in range(1, 41))
    assert len(ground.provider.requests) <= 80 + ROWS
    assert "raylet" not in said
