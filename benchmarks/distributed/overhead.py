"""Overhead: CPU of a row on workers or on Ray over that of a row in one process, on the same PostgreSQL store.

    python -m benchmarks.distributed.overhead [--on workers ray] [--few 300] [--many 3300] [--repeat 3]

A row renders a template and asks no model. The CPU of a row is the slope between maps of few and of many rows, so
starts do not count. It is that of all processes of Fusion and of Ray, also of those that end with the map: driver,
connection, actors or workers, raylets, GCS and their helpers. The same processes spend some when they have no map:
that is measured in each round and subtracted for the seconds of each map. The processes of the database are told
apart in all places. The places take turns, so that their difference hardly depends on the load of the machine.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.distributed.cluster import Cluster, cluster
from benchmarks.distributed.meter import DRIVER, Meter, children
from benchmarks.distributed.nodes import Nodes, nodes
from benchmarks.distributed.scene import fusion
from benchmarks.perf.figures import cpu_times, machine, spread

BARS: Final = {"workers": 1.5, "ray": 2.5}
_SLOTS: Final = 32
_REST_SECONDS: Final = 10.0
_PIPELINE: Final = """
name: rendered
inputs: {text: A row.}
stages:
  answer: {kind: render, template: "row {{ inputs.text }}"}
output: answer
"""


class Spent(NamedTuple):
    """CPU of each kind of process of Fusion and of Ray, of the database, and of the same processes without a map.

    `rate` is the CPU of a second without a map.
    """

    kinds: Mapping[str, float]
    database: float
    idle: float
    rate: float

    @property
    def net(self) -> float:
        return sum(self.kinds.values()) - self.idle


class Place:
    """A store and the processes that may run its rows: `on` None is the process of the map."""

    def __init__(self, folder: Path, database: Cluster, meter: Meter, on: str | None) -> None:
        self.folder = folder
        self._meter = meter
        self._rate = 0.0
        self.config = folder / "fusion.toml"
        self._database = database
        self._pipeline = folder / "rendered.yaml"
        self._pipeline.write_text(_PIPELINE)
        self.config.write_text('profile = "local"\n')
        self._numbers = itertools.count()
        self._nodes: Nodes | None = None if on is None else nodes(on, folder, self.config, database.url(), _SLOTS)

    def close(self) -> None:
        if self._nodes is not None:
            self._nodes.close()

    def rest(self, seconds: float) -> None:
        """Measure the CPU that the nodes spend without a map."""
        if self._nodes is not None:
            self._meter.settle(self._rate)
            before = self._meter.read()
            time.sleep(seconds)
            self._rate = sum(self._since(before).values()) / seconds

    def map(self, rows: int) -> Spent:
        """Return the CPU seconds of a map of so many rows that are new to the store."""
        number = next(self._numbers)
        table = self.folder / f"rows{number}.jsonl"
        table.write_text("".join(f'{{"text": "{number} {row}"}}\n' for row in range(rows)))
        words = ["map", str(self._pipeline), str(table), "-o", str(self.folder / f"out{number}.jsonl"), "-q"]
        words += ["--store", self._database.url(), "--config", str(self.config), "--concurrency", str(2 * _SLOTS)]
        words += [] if self._nodes is None else ["--on", self._nodes.on]
        began, before, served = time.monotonic(), self._meter.read(), tree(self._database.pid)
        driver = fusion(words, self.folder / "map.log")
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        self._meter.read()  # its last moment, of which nothing is left once it is reaped
        assert driver.wait() == 0, (self.folder / "map.log").read_text()
        if self._nodes is not None:
            self._meter.settle(self._rate)
        idle = self._rate * (time.monotonic() - began)
        return Spent(self._since(before), tree(self._database.pid) - served, idle, self._rate)

    def _since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Return the CPU of this place. Nodes of another place are idle, and are not its own."""
        spent = {kind: seconds - before.get(kind, 0.0) for kind, seconds in self._meter.read().items()}
        return {kind: seconds for kind, seconds in spent.items() if self._nodes is not None or kind == DRIVER}


def tree(pid: int) -> float:
    """Return the CPU seconds of a process, its children, and those that have ended."""
    try:
        times = cpu_times(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return times.own + times.ended + sum(map(tree, children(pid)))


def slope(place: Place, few: int, many: int) -> Spent:
    """Return milliseconds of CPU of a row, and of a second without a map."""
    less, more = place.map(few), place.map(many)
    scale = 1000 / (many - few)
    return Spent(
        {kind: scale * (spent - less.kinds.get(kind, 0.0)) for kind, spent in more.kinds.items()},
        scale * (more.database - less.database),
        scale * (more.idle - less.idle),
        1000 * more.rate,
    )


def measure(on: str, few: int, many: int, repeat: int) -> tuple[list[Spent], list[Spent]]:
    """Return the CPU of a row here and there, of rounds that take turns."""
    with ExitStack() as stack:
        databases = [stack.enter_context(cluster("-c", "max_connections=200")) for _ in range(2)]
        meter = stack.enter_context(Meter(*(one.pid for one in databases)))
        places = []
        for where, database in zip((None, on), databases, strict=True):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            places.append(Place(folder, database, meter, where))
            stack.callback(places[-1].close)
        for place in places:
            place.map(few)
        rounds = []
        for _ in range(repeat):
            for place in places:
                place.rest(_REST_SECONDS)
            rounds.append([slope(place, few, many) for place in places])
    return [here for here, _ in rounds], [there for _, there in rounds]


def tell(where: str, some: list[Spent]) -> None:
    """Print the CPU of a row in a place."""
    print(f"a row {where}: {spread([one.net for one in some], '.2f')} ms CPU")
    for kind in sorted({kind for one in some for kind in one.kinds}):
        print(f"  {kind}: {spread([one.kinds.get(kind, 0.0) for one in some], '.2f')}")
    print(f"  less what these spend without a map: {spread([one.idle for one in some], '.2f')}")
    print(f"    which is in a second {spread([one.rate for one in some], '.1f')}")
    print(f"  beside them, the database: {spread([one.database for one in some], '.2f')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=BARS, nargs="+", default=["workers"])
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=3300)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    for on in given.on:
        here, there = measure(on, given.few, given.many, given.repeat)
        tell("in one process", here)
        tell(f"on {on}", there)
        over = [one.net - alone.net for one, alone in zip(there, here, strict=True)]
        print(f"overhead of {on}: {spread(over, '.2f')} ms CPU a row; bar {BARS[on]}")
    print(machine())


if __name__ == "__main__":
    main()
