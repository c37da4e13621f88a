"""Pace: a wide stage against a server that admits so many requests a second and refuses the rest.

    python -m benchmarks.weather.pace [--repeat 3] [--rows steady told changing]

`steady` refuses without a word, `told` with a Retry-After of a second. `changing` halves its limit after 8 seconds,
and doubles it again after 20. The ideal time admits all items at the limits of the server. Bars: 1.15 times the
ideal; 5% of the requests refused where the limit stays; no item lost; 80% of a new limit within 10 seconds.
"""

import argparse
import time
from itertools import pairwise
from typing import Any, Final

from benchmarks.perf.figures import machine, spread
from benchmarks.weather.client import Provider, client, provider
from fusion import InputSpec, Map, Pipeline

ITEMS: Final = 200
RATE: Final = 10.0
CHANGES: Final = ((0.0, RATE), (8.0, RATE / 2), (20.0, RATE))
_PROMPT: Final = "{{ inputs.task }}\n{{ item.source }}"
ROWS: Final[dict[str, dict[str, Any]]] = {
    "steady": {"rps": RATE},
    "told": {"rps": RATE, "retry_after": 1},
    "changing": {"rps": RATE, "changes": CHANGES},
}


def run(server: Provider, items: int) -> tuple[float, int]:
    """Return the seconds of a run over so many items, and the items that were lost."""
    pipeline = Pipeline(
        name="pace",
        inputs={"task": InputSpec(description="what")},
        stages={
            "work": Map(over=f"range({items}) | list", role="bulk", prompt="{{ inputs.task }}\n{{ item.source }}")
        },
        output="work",
    )
    with client({"paced": server}, roles={"bulk": "paced"}) as fusion:
        fusion.warm()
        began = time.perf_counter()
        result = fusion.complete("the task", pipeline=pipeline)
        seconds = time.perf_counter() - began
    return seconds, sum(not item.ok or item.value != str(item.index) for item in result.items)


def ideal(items: int, changes: tuple[tuple[float, float], ...], delay: float) -> float:
    """Return the seconds in which a server with these limits admits so many items and answers the last."""
    left = float(items)
    for (since, rate), (until, _) in pairwise((*changes, (float("inf"), 0.0))):
        if left <= rate * (until - since):
            return since + left / rate + delay
        left -= rate * (until - since)
    raise AssertionError


def follows(admitted: list[float]) -> list[float]:
    """Return the seconds after each change until four fifths of the new limit are admitted, over two seconds."""
    found = []
    for since, rate in CHANGES[1:]:
        starts = [since + 0.1 * step for step in range(200)]
        rates = ((at - since, sum(at <= one < at + 2 for one in admitted) / 2) for at in starts)
        found.append(next((late for late, one in rates if 0.8 * rate <= one <= 1.2 * rate), float("inf")))
    return found


def measure(name: str, items: int, repeat: int) -> list[str]:
    """Return the lines of one row."""
    weather = ROWS[name]
    best = ideal(items, weather.get("changes", ((0.0, RATE),)), 0.3)
    ratios, refused, lost, late = [], [], 0, []
    with provider(**weather) as server:
        for _ in range(repeat):
            server.set(**weather)
            seconds, missing = run(server, items)
            seen = server.seen()
            ratios.append(seconds / best)
            refused.append(100 * seen.get("429", 0) / sum(seen.values()))
            lost += missing
            late += follows(server.admitted()) if name == "changing" else []
    lines = [f"{name:>9}: {spread(ratios, '.2f')} times the ideal of {best:.1f} s; bar 1.15"]
    bar = "" if late else "; bar 5"
    lines.append(f"{'':>11}{spread(refused, '.1f')}% of the requests refused{bar}")
    lines.append(f"{'':>11}{lost} items lost of {repeat * items}; bar 0")
    if late:
        lines.append(f"{'':>11}a new limit followed after {spread(late, '.1f')} s; bar 10")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    given = parser.parse_args()
    print(machine())
    for row in given.rows:
        print("\n".join(measure(row, given.items, given.repeat)), flush=True)


if __name__ == "__main__":
    main()
