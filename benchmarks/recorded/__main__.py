"""Run the recorded suites, then what `fusion tune` chooses out of fold; write results and the README's lines.

    python -m benchmarks.recorded [recorded] [lineage] [--out fusion-bench]

A folder without answers starts a new run.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.perf.figures import machine
from benchmarks.recorded import headline
from benchmarks.recorded.folds import Chosen, K, OutOfFold, arm_name, arm_record
from benchmarks.recorded.headline import RESULTS, SUITES, TUNED
from fusion.bench import Suite, run
from fusion.bench.report.analysis import analyse
from fusion.bench.report.figures import Analysis, Pairing
from fusion.bench.report.results import Results

SEEDS = (0, 1, 2, 3, 4)
FOLDER = Path(__file__).parents[1] / "suites"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("suites", nargs="*", metavar="SUITE", default=[], help=f"{' or '.join(SUITES)}; else both")
    words.add_argument("--out", type=Path, default=Path("fusion-bench"))
    given = words.parse_args()
    for name in given.suites or SUITES:
        data = measured(name, given.out / name)
        path = RESULTS / f"{name}.json"
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(headline.report(data))
    headline.main()


def measured(name: str, out: Path) -> dict[str, Any]:
    """Return all results of a suite."""
    began, cpu, load = time.perf_counter(), time.process_time(), machine()
    print(f"{name}: {load}", flush=True)
    results = run(Suite.load(FOLDER / name / "suite.yaml"), near=FOLDER / name, out=out).results
    suite_seconds = time.perf_counter() - began
    work = OutOfFold(FOLDER / name / "tune.yaml", out)
    try:
        found = {seed: work.seed(seed) for seed in SEEDS}
    finally:
        work.close()
    data = summary(with_folds(results, found), found)
    seconds = {"suite_seconds": suite_seconds, "seconds": time.perf_counter() - began}
    seconds["cpu_seconds"] = time.process_time() - cpu
    return {**data, "machine": load, "load_after": machine(), **{key: round(one) for key, one in seconds.items()}}


def with_folds(results: Results, found: Mapping[int, Chosen]) -> Results:
    """Return the results with an arm for each seed."""
    return results.model_copy(
        update={
            "arms": (*results.arms, *(arm_record(one, seed) for seed, one in found.items())),
            "outcomes": (*results.outcomes, *(outcome for one in found.values() for outcome in one.outcomes)),
        }
    )


def summary(whole: Results, found: Mapping[int, Chosen]) -> dict[str, Any]:
    analysis = analyse(whole)
    best = analysis.best_single
    assert best is not None
    against = {one: _against(whole, analysis, one) for one in analysis.level}
    return {
        "suite": whole.name,
        "items": len(whole.items),
        "sets": {name: sum(item.task_set == name for item in whole.items) for name in _sets(whole)},
        "best_single": best,
        "level": list(analysis.level),
        "alone": None if analysis.alone is None else analysis.alone.model_dump(exclude={"difference": {"level"}}),
        "folds": K,
        "margin": whole.margin,
        "tuned": _on_test(whole),
        "versions": whole.versions,
        "hashes": whole.hashes,
        "arms": {
            one.arm: {
                "kind": one.kind,
                "accuracy": one.accuracy.model_dump(exclude={"level"}),
                "usd": one.cost,
                "failed": one.failed,
                "escalated": one.escalated,
                "by_set": one.by_set,
                "ratio_if_a_price_moves_by_half": _moved(whole, one.arm, best),
            }
            for one in (*analysis.figures, *analysis.baselines)
        },
        "pairings": against[best],
        "against": {one: {arm: pairs[arm] for arm in map(arm_name, found)} for one, pairs in against.items()},
        "mean": {one: _mean([pairs[arm_name(seed)] for seed in found]) for one, pairs in against.items()},
        "by_set": [{"set": name, **_pairing(one)} for name, one in analysis.by_set],
        "ways": {str(seed): one.ways for seed, one in found.items()},
    }


def _sets(whole: Results) -> list[str]:
    return list(dict.fromkeys(item.task_set for item in whole.items))


def _against(whole: Results, analysis: Analysis, single: str) -> dict[str, dict[str, Any]]:
    """Return the comparisons with a single model, by arm."""
    pairs = analysis.pairings
    if single != analysis.best_single:
        others = {arm.name for arm in whole.arms if arm.kind == "model"} - {single}
        pairs = analyse(_without(whole, others)).pairings
    return {one.arm: _pairing(one) for one in pairs}


def _without(whole: Results, names: set[str]) -> Results:
    arms = tuple(arm for arm in whole.arms if arm.name not in names)
    return whole.model_copy(
        update={"arms": arms, "outcomes": tuple(one for one in whole.outcomes if one.arm not in names)}
    )


def _mean(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means over the seeds."""
    return {
        "points": 100 * fmean(one["difference"]["estimate"] for one in pairs),
        "low": 100 * fmean(one["difference"]["low"] for one in pairs),
        "cost_ratio": fmean(one["cost_ratio"]["estimate"] for one in pairs),
    }


def _pairing(one: Pairing) -> dict[str, Any]:
    ratio = one.cost_ratio
    return {
        "arm": one.arm,
        "difference": one.difference.model_dump(exclude={"level"}),
        "cost_ratio": None if ratio is None else ratio.model_dump(exclude={"level"}),
        "only_arm": one.only_arm,
        "only_other": one.only_other,
        "p_holm": one.adjusted,
        "verdict": one.verdict,
    }


def _moved(whole: Results, arm: str, best: str) -> list[float] | None:
    """Return the least and the greatest cost ratio if the price of any one model changes by half."""
    ours, theirs = _by_model(whole, arm), _by_model(whole, best)
    if not ours or not theirs:
        return None
    ratios = [
        sum(usd * (factor if name == model else 1) for name, usd in ours.items())
        / sum(usd * (factor if name == model else 1) for name, usd in theirs.items())
        for model in {*ours, *theirs}
        for factor in (0.5, 1.5)
    ]
    return [min(ratios), max(ratios)]


def _by_model(whole: Results, arm: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for rows in whole.by_arm.get(arm, {}).values():
        for one in (spending for outcome in rows for spending in outcome.spent):
            name = one.model.rpartition("#")[2]
            found[name] = found.get(name, 0.0) + float(one.cost or 0)
    return found


def _on_test(whole: Results) -> dict[str, Any] | None:
    """Compare the tuned arm with the single models, on the items that it was not chosen on."""
    items = tuple(item for item in whole.items if item.side == "test")
    arms = tuple(arm for arm in whole.arms if arm.kind == "model" or arm.name == TUNED)
    if all(arm.name != TUNED for arm in arms):
        return None
    ids, names = {item.id for item in items}, {arm.name for arm in arms}
    outcomes = tuple(one for one in whole.outcomes if one.item in ids and one.arm in names)
    analysis = analyse(whole.model_copy(update={"items": items, "arms": arms, "outcomes": outcomes}))
    (accuracy,) = [one.accuracy for one in analysis.figures if one.arm == TUNED]
    (pair,) = [one for one in analysis.pairings if one.arm == TUNED]
    figures = {"accuracy": accuracy.model_dump(exclude={"level"}), **_pairing(pair)}
    return {"items": len(items), "best_single": analysis.best_single, **figures}


if __name__ == "__main__":
    main()
