"""The time of `fusion runs list` and `fusion runs show` as whole processes, on a store of many calls.

The store holds runs of 1,000 calls each, made by `benchmarks.perf.store`. One run is shown by its id.

    python -m benchmarks.perf.history [--repeat 7] [--calls 100000]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.perf.figures import machine, spread
from benchmarks.perf.store import finished, opened, started
from fusion.store.open import open_store
from fusion.store.rows import Ended

OF_A_RUN = 1000


def fill(place: Path, calls: int) -> list[str]:
    """Fill a store with this many calls. Returns the ids of its runs."""
    store = open_store(place)
    ids = []
    for number in range(calls // OF_A_RUN):
        run_id = f"20261125-12{number // 60:02}{number % 60:02}-{number:06x}"
        rows = list(started(run_id, 1_700_000_000.0 + number))
        for call in range(OF_A_RUN):
            rows += [opened(run_id, call), *finished(run_id, call)]
        usd = sum((row.usd for row in rows if type(row).__name__ == "AttemptEnd" and row.usd), start=0)
        ended = Ended(run_id, 1, "ok", 1_700_009_000.0 + number, usd, 0, OF_A_RUN, None, None)  # type: ignore[arg-type]
        store.put(*rows, ended)
        ids.append(run_id)
    store.flush()
    store.close()
    return ids


def timed(repeat: int, *words: str, env: dict[str, str]) -> tuple[list[float], list[float]]:
    """Return milliseconds of whole processes: wall time and CPU time."""
    wall, cpu = [], []
    for _ in range(repeat):
        began, used = time.perf_counter(), _used()
        subprocess.run([sys.executable, "-m", "fusion", *words], env=env, check=True, capture_output=True)
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((_used() - used) * 1000)
    return wall, cpu


def _used() -> float:
    """Return CPU seconds of finished child processes."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--calls", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "runs.db"
        ids = fill(place, given.calls)
        env = {**os.environ, "FUSION_STORE": str(place)}
        size = sum(file.stat().st_size for file in Path(folder).glob("runs.db*") if file.is_file())
        print(f"{given.calls:,} calls in {len(ids):,} runs, {size / 1e6:,.0f} MB; {machine()}")
        for words in (
            ("--version",),
            ("runs", "list"),
            ("runs", "list", "--json"),
            ("runs", "show", ids[len(ids) // 2]),
            ("runs", "show", ids[len(ids) // 2], "--json"),
            ("runs", "show", ids[len(ids) // 2], "500"),
        ):
            wall, cpu = timed(given.repeat, *words, env=env)
            print(f"fusion {' '.join(words):<42} {spread(wall, '.0f')} ms, CPU {spread(cpu, '.0f')} ms")


if __name__ == "__main__":
    main()
