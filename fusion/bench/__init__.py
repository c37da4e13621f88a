"""Benchmarks: arms measured on the same items, scored without a judge, compared with intervals, and reported."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.bench.benchmark import run as run
    from fusion.bench.report.report import Report as Report
    from fusion.bench.report.results import Results as Results
    from fusion.bench.suite import Arm as Arm, Scoring as Scoring, Source as Source, Suite as Suite
    from fusion.bench.tuner.tune import Finalist as Finalist, Tuned as Tuned, tune as tune

_HOMES = {
    "fusion.bench.benchmark": ("run",),
    "fusion.bench.report.report": ("Report",),
    "fusion.bench.report.results": ("Results",),
    "fusion.bench.suite": ("Arm", "Scoring", "Source", "Suite"),
    "fusion.bench.tuner.tune": ("Finalist", "Tuned", "tune"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    from fusion.core import load

    return load(__name__, _HOMES, name)
