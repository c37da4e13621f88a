"""Benchmarks: arms measured on the same items, scored without a judge, compared with intervals, and reported."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.bench.benchmark import run as run
    from fusion.bench.report.report import Report as Report
    from fusion.bench.report.results import Results as Results
    from fusion.bench.suite import Arm as Arm, Scoring as Scoring, Source as Source, Suite as Suite
    from fusion.bench.tuner.over import Over as Over
    from fusion.bench.tuner.tune import tune as tune
    from fusion.bench.tuner.tuned import (
        ChosenWay as ChosenWay,
        Finalist as Finalist,
        Searched as Searched,
        Tuned as Tuned,
    )

_HOMES = {
    "fusion.bench.benchmark": ("run",),
    "fusion.bench.report.report": ("Report",),
    "fusion.bench.report.results": ("Results",),
    "fusion.bench.suite": ("Arm", "Scoring", "Source", "Suite"),
    "fusion.bench.tuner.over": ("Over",),
    "fusion.bench.tuner.tune": ("tune",),
    "fusion.bench.tuner.tuned": ("ChosenWay", "Finalist", "Searched", "Tuned"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    from fusion.core import load

    return load(__name__, _HOMES, name)
