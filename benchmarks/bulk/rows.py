"""Rows of a map on scripted models, with six calls each and a SQLite store: CPU of a row and memory.

    python -m benchmarks.bulk.rows [--rows 100000] [--concurrency 64] [--repeat 1]

The CPU is that of the whole process, start and end of the map included. Memory is the resident set after 1,000 rows
and at the end, each after a collection of garbage.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.perf.figures import machine, spread
from benchmarks.perf.rows import PIPELINE, Instant
from fusion import Fusion, Pipeline

FIRST = 1000


class Figures(NamedTuple):
    """CPU of a row in ms, of all threads; memory in MB after the first rows and at the end; seconds in all."""

    cpu: float
    first: float
    last: float
    seconds: float


def measured(rows: int, concurrency: int, folder: Path) -> Figures:
    """Map so many rows, and check that each is in the output once."""
    process, output = psutil.Process(), folder / "out.jsonl"
    began, cpu, first = time.perf_counter(), time.process_time(), 0.0
    with Fusion(roles={"bulk": Instant()}, store=folder / "runs.db") as fusion:
        found = fusion.map(
            _inputs(rows),
            pipeline=Pipeline.from_yaml(PIPELINE),
            id="rows",
            key="id",
            output=output,
            concurrency=concurrency,
        )
        for number, _ in enumerate(found, start=1):
            if number == FIRST:
                first = _memory(process)
        last = _memory(process)
    spent = time.process_time() - cpu
    keys = {json.loads(line)["key"] for line in output.open()}
    if len(keys) != rows or sum(1 for _ in output.open()) != rows:
        raise SystemExit(f"{len(keys)} of {rows} rows are in the output")
    return Figures(1000 * spent / rows, first, last, time.perf_counter() - began)


def _inputs(rows: int) -> Iterator[dict[str, str]]:
    for number in range(rows):
        yield {"id": str(number), "text": f"Ticket {number}: the lamp in room {number % 97} flickers since Monday."}


def _memory(process: psutil.Process) -> float:
    gc.collect()
    return process.memory_info().rss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    print(machine())
    figures = []
    for _ in range(given.repeat):
        with tempfile.TemporaryDirectory() as folder:
            figures.append(measured(given.rows, given.concurrency, Path(folder)))
    print(f"{given.rows:,} rows of six calls, {given.concurrency} at once")
    print(f"CPU of a row, ms: {spread([one.cpu for one in figures])}")
    print(f"memory after {FIRST:,} rows, MB: {spread([one.first for one in figures], '.1f')}")
    print(f"memory at the end, MB: {spread([one.last for one in figures], '.1f')}")
    print(f"seconds: {spread([one.seconds for one in figures], '.1f')}")
    print(machine())


if __name__ == "__main__":
    main()
