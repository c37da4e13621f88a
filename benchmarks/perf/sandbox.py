"""The time of a command in the sandbox: bubblewrap against the same process bare, and monty, each in turn.

CPU is that of this process and of what it starts itself; bubblewrap leaves the command within to the kernel. With
`--at-once` several commands run in threads, as those of a run do.

    python -m benchmarks.perf.sandbox [--repeat 40] [--at-once 2]
"""

import argparse
import asyncio
import os
import resource
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from threading import Event
from typing import Any

from benchmarks.perf.figures import machine, spread
from fusion.core.config import SandboxTable
from fusion.sandbox import SandboxDoor
from fusion.sandbox.base import Command
from fusion.sandbox.probe import found

CODE = "total = sum(n * n for n in range(1000))\nassert total == 332833500\nprint(total)"
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c", CODE)
TRUE = ("/bin/true",)


def bare(*argv: str) -> None:
    """Run a command without a sandbox."""
    subprocess.run(argv, check=True, capture_output=True, env={}, cwd="/")


def boxed(*argv: str, python: Any = "process") -> None:
    """Run a command in the sandbox."""
    assert found(SandboxTable(python=python)).run(Command.of(argv), Event()).ok


def in_turn(ways: dict[str, Callable[[], None]], repeat: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return milliseconds by the clock and of CPU for each way, all in turn."""
    figures: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            began, used = time.perf_counter(), cpu()
            way()
            figures[name][0].append((time.perf_counter() - began) * 1000)
            figures[name][1].append((cpu() - used) * 1000)
    return figures


def cpu() -> float:
    """Return CPU seconds of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def at_once(count: int, many: int) -> float:
    """Return commands a second, with so many at once."""

    async def run() -> None:
        door = SandboxDoor(SandboxTable(concurrency=count))
        await asyncio.gather(*(door.run(Command.of(PYTHON)) for _ in range(many)))

    began = time.perf_counter()
    asyncio.run(run())
    return many / (time.perf_counter() - began)


def ways() -> dict[str, Callable[[], None]]:
    """Return the ways to run a command."""
    known: dict[str, Callable[[], None]] = {
        "true, bare": lambda: bare(*TRUE),
        "true, bubblewrap": lambda: boxed(*TRUE),
        "python, bare": lambda: bare(*PYTHON),
        "python, bubblewrap": lambda: boxed(*PYTHON),
    }
    if find_spec("pydantic_monty") is not None:
        known["python, monty"] = lambda: boxed(*PYTHON, python="monty")
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(machine())
    in_turn(ways(), 2)
    for name, (clock, used) in in_turn(ways(), options.repeat).items():
        print(f"{name:20} {spread(clock, '.2f')} ms, CPU {spread(used, '.2f')} ms")
    print(f"{options.at_once} at once: {at_once(options.at_once, 40):.1f} commands a second")


if __name__ == "__main__":
    main()
