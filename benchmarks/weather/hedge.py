"""Hedge: runs on a model of which a twentieth of the replies take ten times as long.

    python -m benchmarks.weather.hedge [--runs 1000] [--calls 1] [--at-once 16] [--chain 1]

Each run makes so many calls, one after the other. The same runs are measured without hedges and with `hedge: auto`,
in turn, on servers that draw their tails alike. `--chain 2` hedges with a second model that has the same tail. Bars:
the 99th percentile of the runs at most half of that without; 6% more requests at the servers.
"""

import argparse
import asyncio
import time
from typing import Any, Final

from benchmarks.perf.figures import machine
from benchmarks.weather.client import Provider, client, provider
from fusion import Fusion, Generate, InputSpec, Pipeline, RoleSpec
from fusion.core.statistics import quantile

DELAY: Final = 0.2
TAIL: Final = 0.05
TIMES: Final = 10.0


def chained(calls: int) -> Pipeline:
    """Return a pipeline of so many calls, each of which needs the one before."""
    stages = {
        f"s{at}": Generate(role="bulk", prompt="{{ inputs.task }}\n" + (f"{{{{ s{at - 1} }}}} {at}" if at else "0"))
        for at in range(calls)
    }
    return Pipeline(
        name="hedge", inputs={"task": InputSpec(description="what")}, stages=stages, output=f"s{calls - 1}"
    )


async def runs(fusion: Fusion, given: Any) -> list[float]:
    """Return the seconds of each run."""
    pipeline, slots = chained(given.calls), asyncio.Semaphore(given.at_once)

    async def one(number: int) -> float:
        async with slots:
            began = time.perf_counter()
            await fusion.acomplete(f"task {number}", pipeline=pipeline)
            return time.perf_counter() - began

    return await asyncio.gather(*map(one, range(given.runs)))


def measure(hedge: Any, given: Any, servers: dict[str, Provider], seed: int) -> tuple[list[float], int]:
    """Return the seconds of the runs, and the requests that the servers saw."""
    for number, server in enumerate(servers.values()):
        server.set(delay=DELAY, tail=TAIL, times=TIMES, seed=seed + number)
    role = RoleSpec(chain=tuple(servers), hedge=hedge)
    with client(servers, roles={"bulk": role}) as fusion:
        fusion.warm()
        seconds = asyncio.run(runs(fusion, given))
    return seconds, sum(sum(server.seen().values()) for server in servers.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--chain", type=int, default=1, choices=(1, 2))
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    with provider() as first, provider() as second:
        servers = dict(list({"first": first, "second": second}.items())[: given.chain])
        for seed in range(given.repeat):
            without, plain = measure("off", given, servers, seed)
            with_it, hedged = measure("auto", given, servers, seed)
            before, after = quantile(without, 0.99), quantile(with_it, 0.99)
            ratio, extra = after / before, 100 * (hedged / plain - 1)
            print(f"99th percentile of {given.runs} runs: {before:.2f} s, with hedges {after:.2f} s")
            print(f"{'':>4}{ratio:.2f} times; bar 0.5")
            print(f"{'':>4}{extra:.1f}% more requests; bar 6", flush=True)


if __name__ == "__main__":
    main()
