"""A model of a map on 1 to 1,000 nodes: throughput, load of the database, deaths of nodes, money in open leases.

Throughput is the state in which runs, commits and waits for them agree. Deaths and leases are simulated. All figures
that it rests on are printed with their sources, and each can be set.

    python -m benchmarks.distributed.model [--nodes 1 10 100 1000] [--seed 0] [--set NAME=VALUE]...
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from benchmarks.distributed.assumptions import Assumptions, stated
from benchmarks.distributed.blocks import RULES, Account
from benchmarks.distributed.deaths import Deaths
from benchmarks.distributed.limits import Load, breaks, load, server_seconds

NODES: Final = (1, 10, 100, 1000)
HOURLY: Final = 24.0


def assumptions(given: Assumptions) -> Iterator[str]:
    """Yield a table of the figures."""
    yield from head("assumption", "value", "unit", "source")
    for one in stated(given):
        yield row(one.name, f"{one.value:,g}", one.unit, one.source)


def throughput(nodes: Sequence[int], given: Assumptions) -> Iterator[str]:
    """Yield a table of runs/s and of the database's load."""
    yield from head("nodes", "runs/s", "of ideal", "commit", "rows/s", "cores", "connections", "beats/s", "limits")
    for number in nodes:
        state = load(number, given)
        yield row(number, *cells(state, given))
        yield row("no NOTIFY", *cells(load(number, given, notify=False), given))


def ends(given: Assumptions) -> Iterator[str]:
    """Yield a table of the numbers of nodes at which the resources end the growth, the first one first."""
    yield from head("limit", "nodes")
    for name, number in sorted(breaks(given).items(), key=lambda one: one[1]):
        yield row(name, f"{number:,.0f}")


def cells(state: Load, given: Assumptions) -> Iterator[str]:
    """Yield the cells of a state, without the number of its nodes."""
    yield f"{state.runs:,.0f}"
    yield f"{state.runs * given.run_seconds / (state.nodes * given.slots):.0%}"
    yield f"{state.commit_ms:,.1f} ms"
    yield f"{state.runs * given.written:,.0f}"
    yield f"{state.runs * server_seconds(given):.1f}"
    yield f"{state.nodes * given.connections:,.0f}"
    yield f"{state.nodes / given.beat_seconds:,.1f}"
    yield state.first + ("; over: " + ", ".join(state.over) if state.over else "")


def deaths(nodes: Sequence[int], given: Assumptions, seed: int) -> Iterator[str]:
    """Yield a table of the time lost to deaths of nodes, and of calls paid twice."""
    yield from head("nodes", "deaths a node and day", "deaths", "time", "lost", "calls paid twice")
    for number in nodes:
        for rate in (given.deaths_a_day, HOURLY):
            end = Deaths(load(number, given), replace(given, deaths_a_day=rate), seed).run()
            yield row(number, f"{rate:g}", end.deaths, f"{end.seconds:,.0f} s", f"{end.lost:.1%}", f"{end.again:.2%}")


def money(nodes: Sequence[int], given: Assumptions, seed: int) -> Iterator[str]:
    """Yield a table of rules for a block's size: under a cap that is not reached, and under one that is."""
    yield from head("nodes", "block", "cap / cost", "stuck", "spent", "time / ideal", "no money", "leases/s")
    for number in nodes:
        for name, rule in RULES.items():
            for headroom in (given.headroom, 0.8):
                end = Account(load(number, given), replace(given, headroom=headroom), rule, seed).run()
                shares = (f"{end.stuck:.1%}", f"{end.spent:.1%}", f"{end.seconds:.2f}", f"{end.starved:.1%}")
                yield row(number, name, headroom, *shares, f"{end.leases:.0f}")


def head(*names: str) -> Iterator[str]:
    """Yield the first lines of a table."""
    yield row(*names)
    yield row(*("---" for _ in names))


def row(*texts: object) -> str:
    return f"| {' | '.join(map(str, texts))} |"


def report(nodes: Sequence[int], given: Assumptions, seed: int) -> Iterator[str]:
    """Yield the lines of all tables."""
    yield from assumptions(given)
    for table in (throughput(nodes, given), ends(given), deaths(nodes, given, seed), money(nodes, given, seed)):
        yield ""
        yield from table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    print("\n".join(report(options.nodes, Assumptions().having(options.set), options.seed)))


if __name__ == "__main__":
    main()
