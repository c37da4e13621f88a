"""Overhead: CPU of a row on workers or on Ray over that of a row in one process, on the same PostgreSQL store.

    python -m benchmarks.distributed.overhead [--on workers ray] [--few 200] [--many 1200] [--repeat 3]

A row renders a template and asks no model. The CPU of a row is the slope between maps of few and of many rows, so
starts do not count. It is that of all processes of Fusion and of Ray: driver, nodes, raylets. That of the database is
told apart. The places take turns, so that their difference hardly depends on the load of the machine.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.distributed.cluster import Cluster, cluster
from benchmarks.distributed.nodes import Nodes, nodes
from benchmarks.distributed.scene import fusion
from benchmarks.perf.figures import machine, spread

BARS: Final = {"workers": 1.5, "ray": 2.5}
_SLOTS: Final = 32
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PIPELINE: Final = """
name: rendered
inputs: {text: A row.}
stages:
  answer: {kind: render, template: "row {{ inputs.text }}"}
output: answer
"""


class Spent(NamedTuple):
    """CPU seconds of Fusion, with Ray, and of the database."""

    fusion: float
    database: float


class Place:
    """A store and the processes that may run its rows: `on` None is the process of the map."""

    def __init__(self, folder: Path, database: Cluster, on: str | None) -> None:
        self.folder = folder
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

    def map(self, rows: int) -> Spent:
        """Return the CPU of a map of so many rows that are new to the store."""
        number = next(self._numbers)
        table = self.folder / f"rows{number}.jsonl"
        table.write_text("".join(f'{{"text": "{number} {row}"}}\n' for row in range(rows)))
        words = ["map", str(self._pipeline), str(table), "-o", str(self.folder / f"out{number}.jsonl"), "-q"]
        words += ["--store", self._database.url(), "--config", str(self.config), "--concurrency", str(2 * _SLOTS)]
        words += [] if self._nodes is None else ["--on", self._nodes.on]
        before, served = self._of_nodes(), tree(self._database.pid)
        driver = fusion(words, self.folder / "map.log")
        _, code, used = os.wait4(driver.pid, 0)
        assert code == 0, (self.folder / "map.log").read_text()
        own = used.ru_utime + used.ru_stime
        return Spent(own + self._of_nodes() - before, tree(self._database.pid) - served)

    def _of_nodes(self) -> float:
        return 0.0 if self._nodes is None else sum(map(tree, self._nodes.pids))


def tree(pid: int) -> float:
    """Return the CPU seconds of a process, its children, and those that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS + sum(tree(int(child)) for child in children)


def slope(place: Place, few: int, many: int) -> Spent:
    """Return milliseconds of CPU of a row."""
    less, more = place.map(few), place.map(many)
    return Spent(*(1000 * (much - little) / (many - few) for little, much in zip(less, more, strict=True)))


def measure(on: str, few: int, many: int, repeat: int) -> tuple[list[Spent], list[Spent]]:
    """Return the CPU of a row here and there, of rounds that take turns."""
    with ExitStack() as stack:
        places = []
        for where in (None, on):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = stack.enter_context(cluster("-c", "max_connections=200"))
            places.append(Place(folder, database, where))
            stack.callback(places[-1].close)
        for place in places:
            place.map(few)
        rounds = [[slope(place, few, many) for place in places] for _ in range(repeat)]
    return [here for here, _ in rounds], [there for _, there in rounds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=BARS, nargs="+", default=["workers"])
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=1200)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    for on in given.on:
        here, there = measure(on, given.few, given.many, given.repeat)
        print(f"a row in one process: {spread([one.fusion for one in here], '.2f')} ms CPU")
        print(f"a row on {on}: {spread([one.fusion for one in there], '.2f')} ms CPU")
        over = statistics.median(one.fusion - alone.fusion for one, alone in zip(there, here, strict=True))
        print(f"  overhead {over:.2f} ms; bar {BARS[on]}")
        told = " and ".join(spread([one.database for one in some], ".2f") for some in (here, there))
        print(f"  the database: {told} ms")
    print(machine())


if __name__ == "__main__":
    main()
