"""Figures of the benchmarks: the machine, the number of measurements, minimum and median."""

import os
import platform
import statistics
from collections.abc import Sequence

__all__ = ["machine", "spread"]


def machine() -> str:
    """Return a description of the machine and its load."""
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    return f"load {load}; {os.cpu_count()} cores; Python {platform.python_version()}"


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Return the median and range of some measurements."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} (min {least:{form}}, max {most:{form}}, n={len(values)})"
