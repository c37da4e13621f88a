"""Run the recorded suite, then models for each set chosen out of fold; write results and the README's table.

    python -m benchmarks.recorded [--out fusion-bench/recorded]

A folder without answers starts a new run.
"""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.perf.figures import machine
from benchmarks.recorded import headline
from benchmarks.recorded.folds import FOLDER, ROUTES, RULE, Chosen, Folds, K, Rule, arm_name, arm_record
from benchmarks.recorded.headline import RESULTS, TUNED, report
from fusion.bench import Suite, run
from fusion.bench.report.analysis import analyse
from fusion.bench.report.figures import Analysis, Pairing
from fusion.bench.report.results import Results
from fusion.pipeline.rows import read_rows

SEEDS = (0, 1, 2, 3, 4)
OTHER_RULES = (Rule(0.35), Rule(0.40), Rule(0.42), Rule(0.44))
"""Rules tried before with these seeds: one choice on all of the nine folds, under other caps."""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", default="fusion-bench/recorded")
    given = words.parse_args()
    began, load = time.perf_counter(), machine()
    print(load, flush=True)
    suite = Suite.load(FOLDER / "suite.yaml")
    results = run(suite, near=FOLDER, out=given.out).results
    suite_seconds = time.perf_counter() - began
    print(f"the suite: {suite_seconds:.0f} s", flush=True)
    work = Folds(results, suite, dict(_gold()))
    try:
        found = {seed: work.seed(seed) for seed in SEEDS}
        whole = with_folds(results, found)
        analysis = analyse(whole)
        seconds, cpu = time.perf_counter() - began, time.process_time()
        print(f"suite and {len(SEEDS)} times {K} folds: {seconds:.0f} s", flush=True)
        rules = [
            {**rule._asdict(), "pairings": _ruled(results, {seed: work.seed(seed, rule) for seed in SEEDS})}
            for rule in OTHER_RULES
        ]
        data = _summary(whole, analysis, found, work.astray)
    finally:
        work.close()
    data |= {"machine": load, "load_after": machine(), "seconds": round(seconds), "rules": rules}
    data |= {"suite_seconds": round(suite_seconds), "cpu_seconds": round(cpu)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    headline.main()
    print(report(data))


def _gold() -> Any:
    for route in ROUTES:
        rows, _ = read_rows(FOLDER / f"../../data/recorded/zeroeval_{route}.jsonl.xz")
        yield from ((f"{route}/{row['id']}", row["gold"]) for row in rows)


def with_folds(results: Results, found: Mapping[int, Chosen]) -> Results:
    """Return the results with an arm for each seed."""
    return results.model_copy(
        update={
            "arms": (*results.arms, *(arm_record(one, seed) for seed, one in found.items())),
            "outcomes": (*results.outcomes, *(outcome for one in found.values() for outcome in one.outcomes)),
        }
    )


def _summary(whole: Results, analysis: Analysis, found: Mapping[int, Chosen], astray: int) -> dict[str, Any]:
    best = analysis.best_single
    assert best is not None
    return {
        "suite": whole.name,
        "items": len(whole.items),
        "sets": {name: sum(item.task_set == name for item in whole.items) for name in ROUTES},
        "best_single": best,
        "astray": astray,
        "folds": K,
        "rule": RULE._asdict(),
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
        "pairings": {one.arm: _pairing(one) for one in analysis.pairings},
        "by_set": [{"set": name, **_pairing(one)} for name, one in analysis.by_set],
        "ways": {str(seed): one.ways for seed, one in found.items()},
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


def _ruled(results: Results, found: Mapping[int, Chosen]) -> list[dict[str, Any]]:
    """Return the results of another rule by seed."""
    analysis = analyse(with_folds(_singles(results), found))
    pairs = {one.arm: one for one in analysis.pairings}
    return [_pairing(pairs[arm_name(seed)]) for seed in found]


def _on_test(whole: Results) -> dict[str, Any]:
    """Compare the tuned arm with the single models, on the items that it was not chosen on."""
    items = tuple(item for item in whole.items if item.side == "test")
    arms = tuple(arm for arm in whole.arms if arm.kind == "model" or arm.name == TUNED)
    ids, names = {item.id for item in items}, {arm.name for arm in arms}
    outcomes = tuple(one for one in whole.outcomes if one.item in ids and one.arm in names)
    analysis = analyse(whole.model_copy(update={"items": items, "arms": arms, "outcomes": outcomes}))
    (accuracy,) = [one.accuracy for one in analysis.figures if one.arm == TUNED]
    (pair,) = [one for one in analysis.pairings if one.arm == TUNED]
    figures = {"accuracy": accuracy.model_dump(exclude={"level"}), **_pairing(pair)}
    return {"items": len(items), "best_single": analysis.best_single, **figures}


def _singles(results: Results) -> Results:
    arms = tuple(arm for arm in results.arms if arm.kind == "model")
    names = {arm.name for arm in arms}
    return results.model_copy(
        update={"arms": arms, "outcomes": tuple(one for one in results.outcomes if one.arm in names)}
    )


if __name__ == "__main__":
    main()
