"""How the benchmarks say what they measured: on which machine, how often, the least and the middle."""

import os
import platform
import statistics
from collections.abc import Sequence

__all__ = ["machine", "spread"]


def machine() -> str:
    """What the figures were taken on."""
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    return f"load {load}; {os.cpu_count()} cores; Python {platform.python_version()}"


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """The median of some measurements, and their range."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} (min {least:{form}}, max {most:{form}}, n={len(values)})"
