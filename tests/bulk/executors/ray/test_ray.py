"""A map on two nodes of a Ray cluster, through any death: rows are made once, and calls are paid once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bulk.executors.ray import nodes
from tests.bulk.executors.site import PIPELINE
from tests.provider import Answer, Provider, Seen

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.xdist_group("ray")]

KEY = "sk-test-of-driver"
ROWS = 4
"""Rows at once."""


class Ground:
    """A cluster of two nodes, a provider, and a folder with the rows of a map and its store."""

    def __init__(self, provider: Provider, address: str, raylets: list[int]) -> None:
        self.provider = provider
        self.address = address
        self.raylets = raylets
        self.folder = Path()
        self.store = ""
        self.on_call: Callable[[str], Answer] = lambda text: Answer(text.lower())
        provider.script = self._answer

    def _answer(self, seen: Seen) -> Answer:
        return self.on_call(seen.body["messages"][-1]["content"])

    def begin(self, folder: Path, store: str, rows: int) -> None:
        self.folder, self.store = folder, store
        self.provider.requests.clear()
        self.on_call = lambda text: Answer(text.lower())
        (folder / "two.yaml").write_text(PIPELINE)
        lines = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(1, rows + 1))
        (folder / "rows.jsonl").write_text(lines)

    def driver(self, *words: str, on: str = "ray") -> "subprocess.Popen[str]":
        """Start `fusion map` with these words."""
        given = ["map", "two.yaml", "rows.jsonl", "--id", "m", "--on", on, "--store", self.store, *words]
        env = {
            **os.environ,
            "OPENAI_API_KEY": KEY,
            "RAY_ADDRESS": self.address,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "fusion", *given, "-m", "openai/gpt-4o-mini", "-o", "out.jsonl"]
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=pipe, stderr=pipe, text=True)

    def ended(self, process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
        """Wait for the end of a map; its exit code, its report, and what it said."""
        out, said = process.communicate(timeout=300)
        assert out, said
        return process.returncode, json.loads(out), said

    def asked(self, calls: int) -> bool:
        """Wait until the provider was asked so often; return False if it is not in time."""
        return self.provider.wait_until(lambda provider: len(provider.requests) >= calls, seconds=120)

    @property
    def calls(self) -> Counter[str]:
        return Counter(seen.body["messages"][-1]["content"] for seen in self.provider.requests)

    @property
    def keys(self) -> Counter[str]:
        return Counter(seen.headers["authorization"].removeprefix("Bearer ") for seen in self.provider.requests)

    def answers(self) -> list[str]:
        lines = (self.folder / "out.jsonl").read_text().splitlines()
        return sorted(json.loads(line)["answer"] for line in lines)

    def kill_node(self) -> None:
        """Kill a node, and all its processes, at once."""
        raylet = psutil.Process(self.raylets.pop())
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()


@pytest.fixture(scope="module")
def up() -> Iterator[Ground]:
    with Provider() as provider:
        env = {**os.environ, "OPENAI_BASE_URL": provider.url, "OPENAI_API_BASE": provider.url}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", nodes.__name__]
        with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout is not None
            about = json.loads(next(line for line in process.stdout if line.startswith("{")))
            yield Ground(provider, about["address"], about["raylets"])
            process.communicate()


@pytest.fixture
def ground(up: Ground, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv("OPENAI_BASE_URL", up.provider.url)
    monkeypatch.setenv("OPENAI_API_BASE", up.provider.url)
    up.begin(tmp_path, database, rows=40)
    return up


def test_rows_run_on_every_node_with_its_own_key(ground: Ground) -> None:
    failing = {"READ row 7", "READ row 21"}

    def answer(text: str) -> Answer:
        if text in failing:
            return Answer("no", status=400)
        return Answer(text.lower(), delay=1.0 if len(ground.keys) < 2 else 0)

    ground.on_call = answer
    code, report, said = ground.ended(ground.driver("--json", "--concurrency", "4"))
    assert (code, report["ok"], report["failed"]) == (3, 38, 2), said
    assert set(ground.keys) == {"sk-test-of-node-1", "sk-test-of-node-2"}
    assert max(ground.calls.values()) == 1
    assert "BadRequestError" in json.dumps(report["failures"])
    assert len((ground.folder / "out.jsonl").read_text().splitlines()) == 40
    assert "raylet" not in said


def test_nodes_together_stay_within_the_budget_of_the_map(ground: Ground) -> None:
    ground.on_call = lambda text: Answer(text.lower(), delay=0.5 if len(ground.keys) < 2 else 0)
    code, report, said = ground.ended(ground.driver("--json", "--budget", "calls=30", "--concurrency", str(ROWS)))
    assert (code, report["status"]) == (4, "failed"), said
    assert 20 <= len(ground.provider.requests) <= 30, said
    assert report["ok"] >= 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_map_goes_on_with_its_driver_started_again(ground: Ground, number: signal.Signals) -> None:
    ground.on_call = lambda text: Answer(text.lower(), delay=0.3)
    first = ground.driver("--json", "--concurrency", str(ROWS))
    assert ground.asked(30)
    first.send_signal(number)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), said
    code, report, said = ground.ended(ground.driver("--json", "--concurrency", str(ROWS)))
    assert (code, report["ok"]) == (0, 40), said
    assert ground.answers() == sorted(f"answer read row {number}" for number in range(1, 41))
    assert max(ground.calls.values()) <= 2
    assert len(ground.provider.requests) <= 80 + ROWS


def test_the_rows_of_a_dead_node_run_on_the_others(ground: Ground) -> None:
    ground.on_call = lambda text: Answer(text.lower(), delay=1.0 if len(ground.keys) < 2 else 0.3)
    driver = ground.driver("--json", "--concurrency", str(ROWS))
    assert ground.provider.wait_until(lambda _: len(ground.keys) == 2, seconds=120)
    ground.kill_node()
    code, report, said = ground.ended(driver)
    assert (code, report["ok"]) == (0, 40), said
    assert ground.answers() == sorted(f"answer read row {number}" for number in range(1, 41))
    assert len(ground.provider.requests) <= 80 + ROWS
    assert "left the cluster" in said
    assert "raylet" not in said
