"""Start-up: user and system CPU of short commands, each in a new process with cached bytecode.

python -m benchmarks.perf.startup [--repeat 15]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.perf.figures import machine, spread

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "import fusion": (["-c", "import fusion"], None),
    "fusion --help": (["-m", "fusion", "--help"], 0.35),
    "fusion validate plan-execute-review.yaml": (
        ["-m", "fusion", "validate", str(ROOT / "pipelines" / "plan-execute-review.yaml")],
        0.6,
    ),
}
"""Commands, and their bars in seconds."""


def cpu_of(arguments: Sequence[str]) -> float:
    """Return CPU seconds of one process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    words = process.stderr.read().decode()
    process.stderr.close()
    assert process.returncode == 0, words
    return used.ru_utime + used.ru_stime


def measure(arguments: Sequence[str], repeat: int) -> list[float]:
    cpu_of(arguments)  # writes the bytecode
    return [cpu_of(arguments) for _ in range(repeat)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    repeat = parser.parse_args().repeat
    print(machine())
    for name, (arguments, bar) in COMMANDS.items():
        print(f"{name}: {spread(measure(arguments, repeat))} s CPU{f'; bar {bar:g}' if bar else ''}")


if __name__ == "__main__":
    main()
