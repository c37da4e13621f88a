"""Served runs: CPU and time to the first byte that `fusion serve` adds to a run of the same pipeline in process.

The work W(N) is that of the benchmark `wire`, with a store. A server, a program that uses Fusion in process, and the
provider of both have a process of their own, on loopback. Server and program do the same work in turn, so that a
difference compares measurements seconds apart; the client of the server is not counted. The server streams every
answer; the program awaits it, and streams only where the first byte is timed.

    python -m benchmarks.perf.served [--repeat 5] [--runs 200] [--widths 1 8]
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from benchmarks.perf import server
from benchmarks.perf.figures import machine, spread
from benchmarks.perf.wire import PIPELINE

AT_ONCE = 100
GARBAGE = 200_000
"""Objects between two garbage collections, as in the commands of Fusion."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Taken(NamedTuple):
    """CPU seconds of some runs at once, and seconds to the first byte of each of some runs in turn."""

    cpu: float
    first: list[float]


class Arm:
    """A process that does W(N): the server, or the program."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def line(self) -> str:
        assert self._process.stdout is not None
        found = self._process.stdout.readline().strip()
        if not found:
            raise RuntimeError(f"{self._process.args} ended without an answer")
        return found

    def ask(self, **given: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(given)}\n")
        self._process.stdin.flush()
        return json.loads(self.line())

    @property
    def cpu(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


# The program: it does what each line of standard input asks for.


async def program(store: str) -> None:
    from fusion import Fusion, Pipeline

    gc.set_threshold(GARBAGE)
    pipeline = Pipeline.from_yaml(PIPELINE)
    async with Fusion(store=store) as fusion:
        await fusion.awarm()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            given = json.loads(line)
            options: Any = {"pipeline": pipeline, "inputs": {"n": given["width"]}}
            if given["at_once"]:
                await _at_once(lambda options=options: fusion.acomplete(**options), given["runs"])
                print("[]", flush=True)
            else:
                firsts = [await _first(fusion.astream(**options)) for _ in range(given["runs"])]
                print(json.dumps(firsts), flush=True)


async def _at_once(make: Callable[[], Awaitable[Any]], runs: int) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with limit:
            await make()

    await asyncio.gather(*(one() for _ in range(runs)))


async def _first(stream: AsyncIterator[str]) -> float:
    """Return the seconds to the first piece of a stream, and read the others."""
    began, first = time.perf_counter(), 0.0
    async for _ in stream:
        first = first or time.perf_counter() - began
    return first


# The client of the server.


async def served(base: str, *, width: int, runs: int, at_once: bool) -> list[float]:
    """Ask the server for so many runs; return the seconds to the first piece of each answer."""
    body = {
        "model": "fusion/wire",
        "stream": True,
        "messages": [{"role": "user", "content": "go"}],
        "fusion": {"inputs": {"n": width}},
    }
    limit = asyncio.Semaphore(AT_ONCE if at_once else 1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> float:
            async with limit:
                began, first = time.perf_counter(), 0.0
                async with session.post(f"{base}/v1/chat/completions", json=body) as answer:
                    answer.raise_for_status()
                    async for line in answer.content:
                        if not first and b'"content":"a ' in line:
                            first = time.perf_counter() - began
                    assert line == b"\n", line
                assert first
                return first

        return list(await asyncio.gather(*(one() for _ in range(runs))))


# The measurement.


class Figures(NamedTuple):
    """CPU seconds a run, and seconds to the first byte, of the server and of the program, by repetition."""

    served: list[Taken]
    program: list[Taken]

    @property
    def cpu(self) -> list[float]:
        """CPU seconds that the server adds to a run."""
        return [one.cpu - other.cpu for one, other in zip(self.served, self.program, strict=True)]

    @property
    def first(self) -> list[float]:
        """Seconds that the first byte comes later."""
        pairs = zip(self.served, self.program, strict=True)
        return [statistics.median(one.first) - statistics.median(other.first) for one, other in pairs]


def measure(widths: Sequence[int], *, runs: int, repeat: int) -> dict[int, Figures]:
    """Measure the server and the program in turn, for each width."""
    with _running() as (base, server_, program_):

        def by_server(width: int, count: int, *, at_once: bool) -> list[float]:
            return asyncio.run(served(base, width=width, runs=count, at_once=at_once))

        def by_program(width: int, count: int, *, at_once: bool) -> list[float]:
            found: list[float] = program_.ask(width=width, runs=count, at_once=at_once)
            return found

        figures: dict[int, Figures] = {}
        for width in widths:
            figures[width] = Figures([], [])
            for arm, work, into in (
                (server_, by_server, figures[width].served),
                (program_, by_program, figures[width].program),
            ) * (repeat + 1):
                before = arm.cpu
                work(width, runs, at_once=True)
                cpu = (arm.cpu - before) / runs
                into.append(Taken(cpu, work(width, 20, at_once=False)))
            for taken in figures[width]:
                del taken[0]  # the first one warms both
    return figures


@contextmanager
def _running() -> Iterator[tuple[str, Arm, Arm]]:
    with ExitStack() as stack:
        provider = stack.enter_context(server.running())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "wire.yaml").write_text(PIPELINE)
        (folder / "fusion.toml").write_text("[server]\nconcurrency = 10000\nqueue = 10000\n")
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": f"{provider.root}/v1",
            "OPENAI_API_KEY": "none",
            "FUSION_CONFIG": str(folder / "fusion.toml"),
        }

        def process(*words: str) -> Arm:
            running = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
            stack.callback(running.kill)
            return Arm(running)

        serving = process(
            "fusion", "serve", str(folder / "wire.yaml"), "-q", "--port", "0", "--store", str(folder / "a")
        )
        program_ = process("benchmarks.perf.served", "--program", str(folder / "b"))
        assert program_.line() == "ready"
        yield serving.line(), serving, program_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--program", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        asyncio.run(program(given.program))
        return
    print(machine())
    for width, figures in measure(given.widths, runs=given.runs, repeat=given.repeat).items():
        for name, taken in zip(("served", "in process"), figures, strict=True):
            cpu = spread([1000 * one.cpu for one in taken], ".2f")
            first = spread([1000 * statistics.median(one.first) for one in taken], ".1f")
            print(f"W({width}), {name}: {cpu} ms CPU a run, {AT_ONCE} at once; first byte after {first} ms")
        ratio = statistics.median(one.cpu for one in figures.served) / statistics.median(
            one.cpu for one in figures.program
        )
        print(
            f"W({width}): {spread([1000 * one for one in figures.cpu], '.2f')} ms CPU more (bar 1.0), {ratio:.2f} x"
        )
        print(f"W({width}): first byte {spread([1000 * one for one in figures.first], '.1f')} ms later (bar 5)")
    print(machine())


if __name__ == "__main__":
    main()
