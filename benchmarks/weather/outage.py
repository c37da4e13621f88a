"""Outage: a wide stage with two providers, of which the first hangs for good.

    python -m benchmarks.weather.outage [--repeat 3] [--items 200] [--concurrency 16] [--timeout 5]

`start` hangs from the first request on, `middle` from a fifth of the calm time on. Each is compared with a calm run
just before it. Bars: the calm time plus one timeout; requests to the dead provider at most those in flight when it
stopped answering, and one for each probe; no item lost.
"""

import argparse
import threading
import time
from typing import Any, Final

from benchmarks.perf.figures import machine, spread
from benchmarks.weather.client import Provider, client, provider
from fusion import Fusion, InputSpec, Map, Pipeline, RoleSpec
from fusion.core.events import EventBase, OutageChanged

ROWS: Final = ("start", "middle")
DELAY: Final = 0.3


def run(fusion: Fusion, items: int, concurrency: int) -> tuple[float, int, int]:
    """Return the seconds of a run over so many items, the items that were lost, and the probes."""
    over = f"range({items}) | list"
    stage = Map(over=over, role="bulk", concurrency=concurrency, prompt="{{ inputs.task }}\n{{ item.source }}")
    pipeline = Pipeline(
        name="outage", inputs={"task": InputSpec(description="what")}, stages={"work": stage}, output="work"
    )
    events: list[EventBase] = []
    began = time.perf_counter()
    result = fusion.complete("the task", pipeline=pipeline, on_event=events.append)
    seconds = time.perf_counter() - began
    probes = sum(isinstance(event, OutageChanged) and event.state == "probing" for event in events)
    return seconds, sum(not item.ok for item in result.items), probes


def measure(name: str, given: Any, dead: Provider, well: Provider) -> tuple[float, float, int, int]:
    """Return the calm seconds, those of the outage, the requests above the bar, and the lost items."""
    role = RoleSpec(chain=("dead", "well"), timeout=given.timeout)
    with client({"dead": dead, "well": well}, roles={"bulk": role}) as fusion:
        fusion.warm()
        dead.set(delay=DELAY)
        calm, _, _ = run(fusion, given.items, given.concurrency)
    with client({"dead": dead, "well": well}, roles={"bulk": role}) as fusion:
        fusion.warm()
        dead.set(delay=DELAY, faults={"hang": 1.0 if name == "start" else 0.0})
        timer = threading.Timer(calm / 5, dead.set, kwargs={"delay": DELAY, "faults": {"hang": 1.0}})
        if name == "middle":
            timer.start()
        seconds, lost, probes = run(fusion, given.items, given.concurrency)
        timer.join() if name == "middle" else None
    return calm, seconds, dead.seen().get("hang", 0) - given.concurrency - probes, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=5.0)
    given = parser.parse_args()
    print(machine())
    with provider(delay=DELAY) as dead, provider(delay=DELAY) as well:
        for name in ROWS:
            found = [measure(name, given, dead, well) for _ in range(given.repeat)]
            over = [seconds - calm for calm, seconds, _, _ in found]
            print(f"{name:>7}: {spread([calm for calm, *_ in found], '.2f')} s in calm weather")
            print(f"{'':>9}{spread(over, '.2f')} s more in the outage; bar {given.timeout:g}")
            print(f"{'':>9}{max(more for _, _, more, _ in found)} requests above in flight and probes; bar 0")
            print(f"{'':>9}{sum(lost for *_, lost in found)} items lost; bar 0", flush=True)


if __name__ == "__main__":
    main()
