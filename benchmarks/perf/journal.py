"""The cost of keeping a run: the same pipeline on a model that answers at once, with and without a store.

    python -m benchmarks.perf.journal [--calls 2000] [--repeat 5]

`at once` is a map of all calls, 500 in flight at a time; `in turn` is one call after another. Runs with and without
a store take turns. The figures are medians of the differences, in milliseconds a call, of wall time and CPU time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.perf.figures import machine, spread
from fusion import Fusion, ScriptedModel
from fusion.pipeline.spec import Pipeline

WAYS = {"at once": 500, "in turn": 1}
PIPELINE = """
name: journal
inputs: {rows: {default: []}}
stages:
  work:
    kind: map
    over: inputs.rows
    role: any
    concurrency: WIDTH
    prompt: |
      {% message role="system" %}You do one piece of work and answer with the result only.{% endmessage %}
      {% message role="user" %}Write part {{ item.value }} of a guide for moving a billing system.{% endmessage %}
output: work
"""


class Cost(NamedTuple):
    """Milliseconds a call."""

    wall: float
    cpu: float


def measured(width: int, calls: int, store: Path | None) -> Cost:
    """Run the pipeline once, with or without a store."""
    pipeline = Pipeline.from_yaml(PIPELINE.replace("WIDTH", str(width)))
    model = ScriptedModel("a result of some words that a model might give", name="scripted")
    with Fusion(roles={"any": model}, store=store) as fusion:
        fusion.complete(pipeline=pipeline, inputs={"rows": [0]})  # what is loaded at the first run
        wall, cpu = time.perf_counter(), time.process_time()
        result = fusion.complete(pipeline=pipeline, inputs={"rows": list(range(calls))})
        cost = Cost(1000 * (time.perf_counter() - wall) / calls, 1000 * (time.process_time() - cpu) / calls)
    assert result.status == "ok"
    assert len(result.items) == calls
    return cost


def measure(calls: int, repeat: int) -> dict[str, list[tuple[Cost, Cost]]]:
    """Return the times without and with a store, for each way."""
    found: dict[str, list[tuple[Cost, Cost]]] = {way: [] for way in WAYS}
    for _ in range(repeat):
        for way, width in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                plain = measured(width, calls, None)
                kept = measured(width, calls, Path(folder) / "runs.db")
            found[way].append((plain, kept))
    return found


def told(way: str, pairs: Sequence[tuple[Cost, Cost]]) -> str:
    wall = [kept.wall - plain.wall for plain, kept in pairs]
    cpu = [kept.cpu - plain.cpu for plain, kept in pairs]
    without = statistics.median(plain.wall for plain, _ in pairs)
    return f"{way}: wall +{spread(wall)} ms, CPU +{spread(cpu)} ms a call; without a store {without:.3f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    print(machine())
    for way, pairs in measure(given.calls, given.repeat).items():
        print(told(way, pairs))
    print(machine())


if __name__ == "__main__":
    main()
