"""Served runs: CPU and time to the first byte that `fusion serve` adds to a run of the same pipeline in process.

The work W(N) is that of the benchmark `wire`, with a store. A server, a program that uses Fusion in process, and the
provider of both have a process of their own, on loopback. Server and program do the same work in turn, so that a
difference compares measurements seconds apart; the client of the server is not counted. Both await whole answers, or
both stream them.

    python -m benchmarks.perf.served [--repeat 5] [--runs 200] [--widths 1 8] [--ways whole streamed]
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
from benchmarks.perf.figures import cpu_times, machine, spread
from benchmarks.perf.wire import PIPELINE

AT_ONCE = 100
WAYS = ("whole", "streamed")
GARBAGE = 200_000
"""Objects between two garbage collections, as in the commands of Fusion."""


class Taken(NamedTuple):
    """CPU seconds of some runs at once, and seconds to the first byte of each of some in turn, if they stream."""

    cpu: float
    first: list[float]


class Work(NamedTuple):
    """Runs of W(width), whose answers are awaited whole or streamed."""

    width: int
    way: str

    def __str__(self) -> str:
        return f"W({self.width}), {self.way}"


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
        return cpu_times(self._process.pid).own


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

            async def one(options: Any = options, stream: bool = given["stream"]) -> float:
                if stream:
                    return await _first(fusion.astream(**options))
                await fusion.acomplete(**options)
                return 0.0

            print(json.dumps(await _together(one, given["runs"], AT_ONCE if given["at_once"] else 1)), flush=True)


async def _together(make: Callable[[], Awaitable[float]], runs: int, width: int) -> list[float]:
    limit = asyncio.Semaphore(width)

    async def one() -> float:
        async with limit:
            return await make()

    return list(await asyncio.gather(*(one() for _ in range(runs))))


async def _first(stream: AsyncIterator[str]) -> float:
    """Return the seconds to the first piece of a stream, and read the others."""
    began, first = time.perf_counter(), 0.0
    async for _ in stream:
        first = first or time.perf_counter() - began
    return first


# The client of the server.


async def served(base: str, *, width: int, runs: int, at_once: bool, stream: bool) -> list[float]:
    """Ask the server for so many runs; return the seconds to the first piece of each answer that streams."""
    body = {
        "model": "fusion/wire",
        "stream": stream,
        "messages": [{"role": "user", "content": "go"}],
        "fusion": {"inputs": {"n": width}},
    }
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> float:
            began, first = time.perf_counter(), 0.0
            async with session.post(f"{base}/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                if not stream:
                    assert b'"content":"a result"' in await answer.read()
                    return 0.0
                async for line in answer.content:
                    if not first and b'"content":"a ' in line:
                        first = time.perf_counter() - began
                assert line == b"\n", line
            assert first
            return first

        return await _together(one, runs, AT_ONCE if at_once else 1)


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


def measure(widths: Sequence[int], *, runs: int, repeat: int, ways: Sequence[str] = WAYS) -> dict[Work, Figures]:
    """Measure the server and the program in turn, for each width and way."""
    with _running() as (base, server_, program_):

        def by_server(**given: Any) -> list[float]:
            return asyncio.run(served(base, **given))

        def by_program(**given: Any) -> list[float]:
            found: list[float] = program_.ask(**given)
            return found

        figures: dict[Work, Figures] = {}
        for work in (Work(width, way) for width in widths for way in ways):
            given: dict[str, Any] = {"width": work.width, "stream": work.way == "streamed"}
            figures[work] = Figures([], [])
            for arm, ask, into in (
                (server_, by_server, figures[work].served),
                (program_, by_program, figures[work].program),
            ) * (repeat + 1):
                before = arm.cpu
                ask(runs=runs, at_once=True, **given)
                cpu = (arm.cpu - before) / runs
                into.append(Taken(cpu, ask(runs=20, at_once=False, **given) if given["stream"] else []))
            for taken in figures[work]:
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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--program", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        asyncio.run(program(given.program))
        return
    print(machine())
    for work, figures in measure(given.widths, runs=given.runs, repeat=given.repeat, ways=given.ways).items():
        for name, taken in zip(("served", "in process"), figures, strict=True):
            cpu = spread([1000 * one.cpu for one in taken], ".2f")
            print(f"{work}, {name}: {cpu} ms CPU a run, {AT_ONCE} at once")
        ratio = statistics.median(one.cpu for one in figures.served) / statistics.median(
            one.cpu for one in figures.program
        )
        print(f"{work}: {spread([1000 * one for one in figures.cpu], '.2f')} ms CPU more (bar 1.0), {ratio:.2f} x")
        if work.way == "streamed":
            print(f"{work}: first byte {spread([1000 * one for one in figures.first], '.1f')} ms later (bar 5)")
    print(machine())


if __name__ == "__main__":
    main()
