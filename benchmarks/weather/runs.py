"""Runs: 200 runs at once of a plan, 16 calls, a review and a merge, on two providers in bad weather.

    python -m benchmarks.weather.runs [--repeat 2] [--runs 200] [--wide 16]

Both providers refuse 3% of the requests with 429, fail 2% with 500, drop 1%, never answer 0.2% and cut 1% of the
replies short. Replies are streamed where a run writes its answer. A run is right if all of its calls are answered and
its answer holds every item. Bars: all runs right; twice the wall time of the same runs in calm weather.
"""

import argparse
import time
from typing import Final

from benchmarks.perf.figures import machine, spread
from benchmarks.weather.client import Provider, client, provider
from fusion import Fusion, Pipeline, RunFailed
from fusion.core.params import RoleSpec

DELAY: Final = 0.3
TIMEOUT: Final = 3.0
FAULTS: Final = {"429": 0.03, "500": 0.02, "drop": 0.01, "hang": 0.002, "cut": 0.01}
PIPELINE: Final = """
name: weather
inputs: {number: The number of the run.}
stages:
  plan: {kind: generate, role: bulk, prompt: "Plan run {{ inputs.number }}\\nplan {{ inputs.number }}"}
  work:
    kind: map
    over: "range(WIDE) | list"
    role: bulk
    concurrency: WIDE
    needs: [plan]
    prompt: "Work for run {{ inputs.number }}\\nitem {{ item.source }}"
  review: {kind: generate, role: bulk, prompt: "Review\\n{{ work.items | map(attribute='value') | join('; ') }}"}
  merge: {kind: generate, role: bulk, prompt: "Merge\\n{{ inputs.number }}: {{ review }}"}
output: merge
"""


def right(fusion: Fusion, pipeline: Pipeline, runs: int, wide: int) -> tuple[float, int]:
    """Return the seconds of so many runs at once, and how many are right."""
    want = "; ".join(f"item {n}" for n in range(wide))
    began = time.perf_counter()
    handles = [fusion.start(None, pipeline=pipeline, inputs={"number": str(run)}) for run in range(runs)]
    good = 0
    for run, handle in enumerate(handles):
        try:
            result = handle.wait()
        except RunFailed as failed:
            result = failed.result
        good += result.status == "ok" and result.text == f"{run}: {want}"
    return time.perf_counter() - began, good


def measure(one: Provider, two: Provider, runs: int, wide: int, *, storm: bool) -> tuple[float, int, str]:
    """Return the seconds of one round, the runs that are right, and what the servers have seen."""
    for number, server in enumerate((one, two)):
        server.set(delay=DELAY, faults=FAULTS if storm else None, seed=number)
    pipeline = Pipeline.from_yaml(PIPELINE.replace("WIDE", str(wide)))
    roles = {"bulk": RoleSpec(chain=("one", "two"), timeout=TIMEOUT)}
    with client({"one": one, "two": two}, roles=roles) as fusion:
        fusion.warm()
        seconds, good = right(fusion, pipeline, runs, wide)
    return seconds, good, ", ".join(f"{server.seen()}" for server in (one, two))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--wide", type=int, default=16)
    given = parser.parse_args()
    print(machine())
    calm, storm, good = [], [], 0
    with provider() as one, provider() as two:
        for _ in range(given.repeat):
            calm.append(measure(one, two, given.runs, given.wide, storm=False)[0])
            seconds, right_ones, seen = measure(one, two, given.runs, given.wide, storm=True)
            storm.append(seconds)
            good += right_ones
            print(f"{right_ones} of {given.runs} runs right; seen by the providers: {seen}", flush=True)
    ratios = [bad / fair for bad, fair in zip(storm, calm, strict=True)]
    print(f"calm {spread(calm, '.1f')} s, bad weather {spread(storm, '.1f')} s")
    print(f"{spread(ratios, '.2f')} times the calm wall; bar 2")
    print(f"{good} of {given.repeat * given.runs} runs right; bar all")


if __name__ == "__main__":
    main()
