"""Ground: a provider, a folder with the rows of a map and its store, and drivers that run the map on a cluster."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.bulk.executors.site import PIPELINE
from tests.provider import Answer, Provider, Seen

KEY = "sk-test-of-driver"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a busy machine starts slowly
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_agent_register_timeout_ms": "240000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_health_check_timeout_ms": "30000",
    # processes that the head forks for clients crash at times, each for half a minute
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # a dead node is found soon
    "RAY_health_check_period_ms": "500",
}
"""Settings of the clusters of tests."""


def hurry() -> None:
    """Give this process's session precedence: a node of Ray dies if its agents need 15 seconds to start.

    Where sessions share the processors, as on most Linux machines, a nice value has no effect on other sessions.
    """
    with suppress(OSError):
        os.nice(-10)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("-10")


def based(provider: Provider) -> dict[str, str]:
    """The environment of a process whose calls go to this provider."""
    return {"OPENAI_BASE_URL": provider.url, "OPENAI_API_BASE": provider.url}


def kill_all_of(pid: int) -> None:
    """Kill a process, and all that it has started, at once."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


class Ground:
    """A provider, and a folder with the rows of a map and its store. `env` is that of drivers, beside this one's."""

    def __init__(self, provider: Provider, env: Mapping[str, str]) -> None:
        self.provider = provider
        self.env = dict(env)
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

    def driver(self, *words: str, on: str = "ray", env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start `fusion map` with these words."""
        given = ["map", "two.yaml", "rows.jsonl", "--id", "m", "--on", on, "--store", self.store, *words]
        whole = {
            **os.environ,
            "OPENAI_API_KEY": KEY,
            **based(self.provider),
            "PYTHONPATH": os.pathsep.join(sys.path),
            **self.env,
            **(env or {}),
        }
        command = [sys.executable, "-m", "fusion", *given, "-m", "openai/gpt-4o-mini", "-o", "out.jsonl"]
        with self._told.open("w") as told:
            return subprocess.Popen(
                command, cwd=self.folder, env=whole, stdout=subprocess.PIPE, stderr=told, text=True
            )

    @property
    def said(self) -> str:
        """All that the last driver has said so far."""
        return self._told.read_text()

    def says(self, words: str, *, seconds: int = 120) -> bool:
        """Wait until the driver says this; return False if it does not in time."""
        pause = threading.Event()
        return any(words in self.said or pause.wait(0.1) for _ in range(10 * seconds))

    @property
    def _told(self) -> Path:
        return self.folder / "said.txt"

    def refused(self, process: "subprocess.Popen[str]") -> str:
        """Wait for the end of a map that cannot begin; the error."""
        process.communicate(timeout=120)
        assert process.returncode == 2, self.said
        assert "Traceback" not in self.said
        return self.said

    def ended(self, process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
        """Wait for the end of a map; its exit code, its report, and what it said."""
        out, _ = process.communicate(timeout=300)
        assert out, self.said
        return process.returncode, json.loads(out), self.said

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
