"""The engine alone: CPU per item of a map on a model that answers at once, with events and a budget.

Runs the shipped `map` template over items made by a list, on one core's worth of Python, and prints the CPU time
per item at several widths, the marginal cost between them, and the memory that 1,000 items add.

    python -m benchmarks.perf.engine [--repeat 7]
"""

import argparse
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.perf.figures import machine, spread
from fusion import Fusion, InputSpec, Map, Pipeline, ScriptedModel
from fusion.core.events import EventBase, ItemFinished

WIDTHS = (100, 1_000, 5_000)


class Engine:
    """Return a client with a model that answers at once, and a pipeline of one map."""

    def __init__(self, fusion: Fusion, model: ScriptedModel) -> None:
        self._fusion = fusion
        self._model = model
        self._pipeline = Pipeline(
            name="engine",
            inputs={"task": InputSpec(description="what"), "rows": InputSpec(default=[])},
            stages={"work": Map(over="inputs.rows")},
            output="work",
        )

    def cpu_of(self, width: int) -> float:
        """Return CPU seconds of one run over this many items."""
        seen: Counter[type[EventBase]] = Counter()

        def watch(event: EventBase) -> None:
            seen[type(event)] += 1

        self._model.requests.clear()
        given = rows(width)
        began = time.process_time()
        result = self._fusion.complete("the task", pipeline=self._pipeline, inputs={"rows": given}, on_event=watch)
        seconds = time.process_time() - began
        assert result.status == "ok"
        assert len(result.items) == len(self._model.requests) == seen[ItemFinished] == width
        return seconds


@contextmanager
def engine() -> Iterator[Engine]:
    model = ScriptedModel("a short answer", name="scripted/bulk")
    budget = {"usd": 1_000, "calls": 10**9, "tokens": 10**12}
    with Fusion(profile="local", roles={"bulk": model}, budget=budget) as fusion:
        made = Engine(fusion, model)
        made.cpu_of(1)
        yield made


def rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "title": f"part {n}",
            "instructions": f"Find the figure number {n} and give it.",
            "expected_output": "a line",
        }
        for n in range(count)
    ]


def measure(widths: Sequence[int], repeat: int) -> tuple[float, dict[int, list[float]]]:
    """Return the memory in MB of the second width's items, and CPU seconds of runs by width."""
    with engine() as made:
        before = peak_mb()
        made.cpu_of(widths[1])
        more = peak_mb() - before
        return more, {width: [made.cpu_of(width) for _ in range(repeat)] for width in widths}


def marginal(taken: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Return seconds for each further item: between the first two widths, and between the last two."""
    (few, low), (some, middle), (many, high) = ((width, statistics.median(taken[width])) for width in sorted(taken))
    return (middle - low) / (some - few), (high - middle) / (many - some)


def peak_mb() -> float:
    """Return the peak memory of this process. On Linux not `ru_maxrss`, which starts at the parent's value."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    print(machine())
    more, taken = measure(WIDTHS, parser.parse_args().repeat)
    print(f"memory: {more:.1f} MB more at {WIDTHS[1]:,} items than after one call; bar 40")
    for width, seconds in taken.items():
        bar = "; bar 0.15 at 1,000" if width == WIDTHS[1] else ""
        print(f"{width:>6} items: {spread([1e3 * one / width for one in seconds])} ms CPU an item{bar}")
    first, second = marginal(taken)
    print(f"marginal: {1e3 * first:.3f} ms from 100 to 1,000, {1e3 * second:.3f} from 1,000 to 5,000,")
    print(f"          which is {second / first:.2f} times; bar 1.3")


if __name__ == "__main__":
    main()
