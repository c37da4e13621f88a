"""Meter: CPU time of a tree of processes, with those that end meanwhile, by what each process is."""

import ctypes
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Final

from benchmarks.perf.figures import cpu_times

_LOOK_SECONDS: Final = 0.05
"""Seconds between two looks: the CPU that a process spends between the last one and its end is not counted."""
DRIVER: Final = "driver"
_SUBREAPER: Final = 36
_KINDS: Final = {
    "ray.bridge": "connection",
    "-m fusion map": DRIVER,
    "-m fusion worker": "workers",
    "ray::RayNode": "actors",
    "raylet/raylet": "raylets",
    "gcs_server": "GCS",
}
_REST: Final = "other processes of Ray"


class Meter:
    """Counts the CPU of this process's children, theirs, and all that were orphaned, but not of the process itself.

    `apart` are processes that are left out, with all that they started.
    """

    def __init__(self, *apart: int) -> None:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # orphans become children of this process
        self._apart = apart
        self._seen: dict[tuple[int, str], tuple[str, float]] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._looking = threading.Thread(target=self._look_again, daemon=True)

    def __enter__(self) -> "Meter":
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._looking.join()

    def read(self) -> dict[str, float]:
        """Return the CPU seconds of all processes so far, by what they are."""
        total: dict[str, float] = defaultdict(float)
        with self._lock:
            self._look(os.getpid())
            for kind, seconds in self._seen.values():
                total[kind] += seconds
        return total

    def settle(self, rate: float) -> None:
        """Wait until the processes spend hardly more CPU seconds a second than `rate`, a minute at most."""
        for _ in range(60):
            before = sum(self.read().values())
            time.sleep(1.0)
            if sum(self.read().values()) - before <= rate + 0.05:
                return

    def _look_again(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with self._lock:
                self._look(os.getpid())

    def _look(self, pid: int) -> None:
        for child in children(pid):
            if child not in self._apart:
                self._note(child)
                self._look(child)

    def _note(self, pid: int) -> None:
        try:
            times = cpu_times(pid)
            key = (pid, times.began)
            kind = self._seen[key][0] if key in self._seen else _REST
            if kind in (_REST, DRIVER):  # before it is an actor or the connection
                kind = _kind(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            return
        self._seen[key] = (kind, times.own)


def children(pid: int) -> list[int]:
    """Return the processes that any thread of a process has started."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _kind(command: str) -> str:
    return next((kind for words, kind in _KINDS.items() if words in command), _REST)
