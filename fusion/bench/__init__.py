"""Benchmarks: arms measured on the same items, scored without a judge, compared with intervals, and reported."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.bench.benchmark import run
    from fusion.bench.report.report import Report
    from fusion.bench.report.results import Results
    from fusion.bench.suite import Arm, Scoring, Source, Suite
    from fusion.bench.tuner.tune import Finalist, Tuned, tune

_HOMES = {
    "fusion.bench.benchmark": ("run",),
    "fusion.bench.report.report": ("Report",),
    "fusion.bench.report.results": ("Results",),
    "fusion.bench.suite": ("Arm", "Scoring", "Source", "Suite"),
    "fusion.bench.tuner.tune": ("Finalist", "Tuned", "tune"),
}

__all__ = ["Arm", "Finalist", "Report", "Results", "Scoring", "Source", "Suite", "Tuned", "run", "tune"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'fusion.bench' has no attribute {name!r}")
