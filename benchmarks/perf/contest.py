"""The overhead of a benchmark: recorded sets and many arms whose answers take no time.

python -m benchmarks.perf.contest [--arms 20] [--items 1720]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cascades.recorded import DEEPSEEK, FOLDER, SETS, SONNET, tasks
from benchmarks.perf.figures import machine
from fusion import Fusion
from fusion.bench import Suite, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--items", type=int, default=1720)
    given = parser.parse_args()
    print(machine())
    suite = Suite.model_validate(described(given.arms, given.items))
    with tempfile.TemporaryDirectory() as folder, Fusion(profile="local") as fusion:
        asked = measured("all asked", suite, folder, fusion)
        kept = measured("all kept", suite, folder, fusion)
        assert asked == kept


def described(arms: int, items: int) -> dict[str, Any]:
    """Return a suite of the recorded sets with every recorded model alone, and pipelines of three of them."""
    names = list(tasks("gsm8k", 1)[0].answers)
    singles = {name: {"model": f"replay:{FOLDER}#{name}"} for name in names[:arms]}
    pairs = [(one, other) for one in names for other in names if one < other and SONNET not in (one, other)]
    pairs.sort(key=lambda pair: DEEPSEEK not in pair)
    pipelines = {
        f"{bulk} + {second}": {
            "pipeline": "agree-or-escalate",
            "roles": {
                role: f"replay:{FOLDER}#{name}"
                for role, name in (("bulk", bulk), ("second", second), ("frontier", SONNET))
            },
        }
        for bulk, second in pairs[: max(0, arms - len(singles))]
    }
    return {
        "name": "contest",
        "tasks": {of: {"file": str(FOLDER / f"zeroeval_{of}.jsonl.xz"), "sample": items} for of in SETS},
        "scorer": {of: {"by": by, "path": "answer"} for of, by in zip(SETS, ("number", "code", "math"), strict=True)},
        "arms": {**singles, **pipelines},
        "on": "all",
    }


def measured(what: str, suite: Suite, folder: str, fusion: Fusion) -> list[tuple[str, float, float | None]]:
    """Run the benchmark, print its time, and return the figures."""
    began, cpu, children = time.perf_counter(), time.process_time(), os.times()
    report = run(suite, out=Path(folder), fusion=fusion, learn=False)
    after = os.times()
    wall, own = time.perf_counter() - began, time.process_time() - cpu
    solver = after.children_user - children.children_user
    answers = len(report.results.outcomes)
    print(
        f"{what}: {len(report.results.items):,} items, {len(report.results.arms)} arms, {answers:,} answers: "
        f"{wall:.1f} s, {own:.1f} s of CPU and {solver:.1f} s of the solver's, {1000 * own / answers:.2f} ms an "
        f"answer; load {os.getloadavg()[0]:.1f}"
    )
    return [(one.arm, one.accuracy.estimate, one.cost) for one in report.analysis.figures]


if __name__ == "__main__":
    main()
