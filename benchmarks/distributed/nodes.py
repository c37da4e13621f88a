"""Nodes: two on this machine, as processes of `fusion worker` or as a test cluster of Ray."""

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.distributed.scene import fusion, kill

COUNT: Final = 2
_TRIES: Final = 4


class Nodes(ABC):
    """Two nodes on one machine, of which one may be killed."""

    on: str
    """Value of `fusion map --on`."""
    left: float
    """Share of the rows at once that one node runs if the other has died."""
    options: tuple[str, ...] = ()
    """Further options of `fusion map`."""

    @property
    @abstractmethod
    def pids(self) -> list[int]:
        """The processes of all nodes; what they have started is not among them."""

    @abstractmethod
    def kill_one(self) -> None:
        """Kill a node with SIGKILL, and its children."""

    @abstractmethod
    def close(self) -> None:
        """End all nodes."""


class Workers(Nodes):
    """Processes of `fusion worker`."""

    on = "workers"
    left = 1 / COUNT

    def __init__(self, folder: Path, config: Path, store: str, concurrency: int) -> None:
        words = ["worker", "--store", store, "--config", str(config), "--concurrency", str(concurrency)]
        self._processes = [
            fusion([*words, "--name", f"node-{number}"], folder / f"node-{number}.log") for number in range(COUNT)
        ]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def kill_one(self) -> None:
        kill(self._processes.pop())

    def close(self) -> None:
        for process in self._processes:
            kill(process)


class Ray(Nodes):
    """A cluster of Ray for tests: a head that runs no rows, and two nodes, each with processes of its own."""

    on = "ray"
    left = 1.0

    def __init__(self, folder: Path, config: Path, store: str, concurrency: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.distributed.ray_cluster", str(config), str(COUNT)]
        self._log = folder / "ray.log"
        os.environ["RAY_ADDRESS"] = self._begun()
        self.options = ("--concurrency", str(COUNT * concurrency))

    @property
    def pids(self) -> list[int]:
        return [self._process.pid]

    def kill_one(self) -> None:
        self._tell("kill")
        assert self._line() == "killed"

    def close(self) -> None:
        with suppress(BrokenPipeError):  # it has failed
            self._tell("close")
        self._process.wait(60)

    def _begun(self) -> str:
        """Start the cluster; return its address. Ray waits 30 s for a node: on a busy machine it is tried again."""
        for _ in range(_TRIES):
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
            if address := self._line():
                return address
            self._process.wait()
        raise SystemExit(f"the Ray cluster did not start: {self._log.read_text()[-500:]}")

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def nodes(on: str, folder: Path, config: Path, store: str, concurrency: int) -> Nodes:
    """Start the nodes of a kind."""
    return (Workers if on == "workers" else Ray)(folder, config, store, concurrency)
