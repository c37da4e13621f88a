"""Figures of the benchmarks: the machine, CPU of processes, the number of measurements, minimum and median."""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CpuTimes", "cpu_times", "machine", "spread"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class CpuTimes(NamedTuple):
    """CPU seconds of a process, and of its children that have ended; `began` is its start, in ticks since boot."""

    own: float
    ended: float
    began: str


def cpu_times(pid: int) -> CpuTimes:
    """Return the CPU times of a process so far. Raises FileNotFoundError or ProcessLookupError once it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, ended = (sum(map(int, fields[at : at + 2])) / _TICKS for at in (11, 13))
    return CpuTimes(own, ended, fields[19])


def machine() -> str:
    """Return a description of the machine and its load."""
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    return f"load {load}; {os.cpu_count()} cores; Python {platform.python_version()}"


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Return the median and range of some measurements."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} (min {least:{form}}, max {most:{form}}, n={len(values)})"
