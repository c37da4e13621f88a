"""The engine alone: CPU per item of a map on a model that answers at once, with events and a budget.

Runs the shipped `map` template over items made by a list, on one core's worth of Python, and prints the CPU time
per item at several widths, the marginal cost between them, and the memory that 1,000 items add.

    python benchmarks/perf/engine.py [--repeat 5]
"""

import argparse
import resource
import statistics
import time
from collections import Counter

from fusion import Fusion, InputSpec, Map, Pipeline, ScriptedModel
from fusion.events import EventBase, ItemFinished

WIDTHS = (100, 1_000, 5_000)


def pipeline() -> Pipeline:
    return Pipeline(
        name="engine",
        inputs={"task": InputSpec(description="what"), "rows": InputSpec(default=[])},
        stages={"work": Map(over="inputs.rows")},
        output="work",
    )


def rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "title": f"part {n}",
            "instructions": f"Find the figure number {n} and give it.",
            "expected_output": "a line",
        }
        for n in range(count)
    ]


def cpu_of(fusion: Fusion, made: Pipeline, count: int) -> float:
    seen: Counter[type[EventBase]] = Counter()

    def watch(event: EventBase) -> None:
        seen[type(event)] += 1

    given = rows(count)
    began = time.process_time()
    result = fusion.complete("the task", pipeline=made, inputs={"rows": given}, on_event=watch)
    seconds = time.process_time() - began
    assert result.status == "ok"
    assert len(result.items) == seen[ItemFinished] == count
    return seconds


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    model = ScriptedModel("a short answer", name="scripted/bulk")
    budget = {"usd": 1_000, "calls": 10**9, "tokens": 10**12}
    with Fusion(profile="local", roles={"bulk": model}, budget=budget) as fusion:
        made = pipeline()
        cpu_of(fusion, made, 1)
        before = peak_mb()
        cpu_of(fusion, made, 1_000)
        print(f"memory: {peak_mb() - before:.1f} MB more at 1,000 items than after one call")
        taken = {width: [cpu_of(fusion, made, width) for _ in range(repeat)] for width in WIDTHS}
    for width, seconds in taken.items():
        each = sorted(1e3 * one / width for one in seconds)
        print(
            f"{width:>6} items: {statistics.median(each):.3f} ms CPU an item (min {each[0]:.3f}, max {each[-1]:.3f})"
        )
    low, middle, high = (statistics.median(taken[width]) for width in WIDTHS)
    first, second = (middle - low) / (WIDTHS[1] - WIDTHS[0]), (high - middle) / (WIDTHS[2] - WIDTHS[1])
    print(f"marginal: {1e3 * first:.3f} ms from 100 to 1,000, {1e3 * second:.3f} from 1,000 to 5,000,")
    print(f"          which is {second / first:.2f} times")


if __name__ == "__main__":
    main()
