"""The wire: CPU, time and memory of a fan-out over HTTP by Fusion, by litellm alone and by aiohttp alone.

The work W(N) is one call for a plan of N parts, N calls at once, one for each part, one that reviews all parts, and
one that merges them: N + 3 calls, of which four follow each other. Every caller and the server have a process of
their own, on loopback; the server counts. The callers are measured in turn, so that a ratio compares measurements
seconds apart.

    python -m benchmarks.perf.wire [--repeat 5] [--callers aiohttp fusion] [--only cpu latency many]
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.perf import server
from benchmarks.perf.figures import machine, spread

CALLERS = ("aiohttp", "litellm", "fusion")
PLANNER = 'You are the planner. Answer with JSON only: [{"title", "prompt"}].'
WORKER = "You do one piece of work and answer with the result only."
REVIEWER = "You are the reviewer. Answer in a line."
WRITER = "You write the final document from the accepted pieces."
TASK = "Write a part of a guide for moving a billing system from one vendor to another: export, mapping, dry runs. "
PIPELINE = """
name: wire
inputs: {n: {default: 8}}
roles: {any: {chain: [openai/mock], concurrency: 10000}}
defaults: {max_tokens: 4000}
stages:
  plan:
    kind: generate
    role: any
    prompt: |
      {% message role="system" %}PLANNER{% endmessage %}
      {% message role="user" %}[[plan {{ inputs.n }}]] TASK{% endmessage %}
  parts: {kind: render, template: "{{ plan.text }}", parse: json}
  work:
    kind: map
    role: any
    over: parts.data
    concurrency: 1000
    prompt: |
      {% message role="system" %}WORKER{% endmessage %}
      {% message role="user" %}TASK{{ item.prompt }}{% endmessage %}
  review:
    kind: generate
    role: any
    prompt: |
      {% message role="system" %}REVIEWER{% endmessage %}
      {% message role="user" %}{% for item in work %}[{{ loop.index0 }}] {{ item.value }}
      {% endfor %}{% endmessage %}
  answer:
    kind: generate
    role: any
    needs: [review]
    prompt: |
      {% message role="system" %}WRITER{% endmessage %}
      {% message role="user" %}{% for item in work %}{{ item.value }}
      {% endfor %}{% endmessage %}
output: answer
"""
for _name in ("PLANNER", "WORKER", "REVIEWER", "WRITER", "TASK"):
    PIPELINE = PIPELINE.replace(_name, "{% raw %}" + globals()[_name] + "{% endraw %}")

Call = Callable[[str, str], Awaitable[str]]
"""Answers a system prompt and a prompt."""
Work = Callable[[int], Awaitable[str]]
"""Does W(N) once."""


# The callers, each in a process of its own.


async def by_aiohttp(base: str) -> Work:
    import aiohttp

    session = aiohttp.ClientSession(
        headers={"authorization": "Bearer none"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(600),
    )

    async def call(system: str, prompt: str) -> str:
        given = {"model": "mock", "messages": _messages(system, prompt), "max_tokens": 4000}
        async with session.post(f"{base}/chat/completions", json=given) as answer:
            answer.raise_for_status()
            return str((await answer.json())["choices"][0]["message"]["content"])

    return _by_hand(call)


async def by_litellm(base: str) -> Work:
    import litellm

    logging.getLogger("LiteLLM").setLevel(logging.ERROR)  # it warns of each call that waits for a connection

    async def call(system: str, prompt: str) -> str:
        answer = await litellm.acompletion(
            model="openai/mock", messages=_messages(system, prompt), max_tokens=4000, api_base=base, api_key="none"
        )
        return str(answer.choices[0].message.content)

    return _by_hand(call)


async def by_fusion(base: str) -> Work:
    from fusion import Fusion, Pipeline

    os.environ.update(OPENAI_BASE_URL=base, OPENAI_API_KEY="none")
    fusion, pipeline = Fusion(), Pipeline.from_yaml(PIPELINE)

    async def work(width: int) -> str:
        return (await fusion.acomplete(pipeline=pipeline, inputs={"n": width})).text

    return work


def _messages(system: str, prompt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def _by_hand(call: Call) -> Work:
    async def work(width: int) -> str:
        planned = json.loads(await call(PLANNER, f"[[plan {width}]] {TASK}"))
        done = await asyncio.gather(*(call(WORKER, TASK + part["prompt"]) for part in planned))
        await call(REVIEWER, "\n".join(f"[{n}] {text}" for n, text in enumerate(done)))
        return await call(WRITER, "\n".join(done))

    return work


async def caller(name: str, base: str) -> None:
    """Do the work that each line of standard input asks for, and write what it took."""
    work = await {"aiohttp": by_aiohttp, "litellm": by_litellm, "fusion": by_fusion}[name](base)
    await work(8)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        width, runs = map(int, line.split())
        before, cpu, wall = _peak_mb(), time.process_time(), time.perf_counter()
        texts = await asyncio.gather(*(work(width) for _ in range(runs)))
        taken = Taken(time.process_time() - cpu, time.perf_counter() - wall, _peak_mb() - before)
        assert texts == ["a result"] * runs
        print(json.dumps(taken), flush=True)
    os._exit(0)  # what a caller leaves open is no part of this


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# The measurement.


class Taken(NamedTuple):
    """Seconds of CPU and of the clock that some work took, and the megabytes that it added to the peak of memory."""

    cpu: float
    wall: float
    memory: float


class Size(NamedTuple):
    """Some work: runs of W(width) at once, with calls that take so many milliseconds."""

    width: int
    runs: int = 1
    latency: int = 0

    @property
    def calls(self) -> int:
        return self.runs * (self.width + 3)


@dataclass
class Figures:
    """What work took by caller and size, and the error of the server's count."""

    taken: dict[tuple[str, Size], list[Taken]]
    miscounted: int = 0

    def cpu_ms(self, name: str, size: Size) -> list[float]:
        """Return milliseconds of CPU a call."""
        return [1000 * one.cpu / size.calls for one in self.taken[name, size]]

    def rate(self, name: str, size: Size) -> list[float]:
        """Return runs a second."""
        return [size.runs / one.wall for one in self.taken[name, size]]

    def ratio(self, value: Callable[[Taken], float], size: Size, of: str, to: str) -> float:
        """Return the median of the ratios of two callers, measured one after the other."""
        pairs = zip(self.taken[of, size], self.taken[to, size], strict=True)
        return statistics.median(value(one) / value(other) for one, other in pairs)


def measure(names: Sequence[str], sizes: Sequence[Size], repeat: int) -> Figures:
    """Start the server and the callers, and measure them in turn."""
    figures = Figures({(name, size): [] for name in names for size in sizes})
    with server.running() as provider, _callers(names, f"{provider.root}/v1") as running:
        for size in [size for size in sizes for _ in range(repeat)]:
            provider.answer_after(size.latency)
            for name, process in running.items():
                before = provider.calls()
                figures.taken[name, size].append(_taken(process, size))
                figures.miscounted += abs(provider.calls() - before - size.calls)
    return figures


def _taken(process: "subprocess.Popen[str]", size: Size) -> Taken:
    assert process.stdin is not None
    process.stdin.write(f"{size.width} {size.runs}\n")
    process.stdin.flush()
    return Taken(*json.loads(_line(process)))


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args} ended without an answer")
    return line


@contextmanager
def _callers(names: Sequence[str], base: str) -> Iterator[Mapping[str, "subprocess.Popen[str]"]]:
    if not names:
        yield {}
        return
    with _process(names[0], base) as process, _callers(names[1:], base) as others:
        assert _line(process) == "ready"
        yield {names[0]: process, **others}


@contextmanager
def _process(name: str, base: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    command = [sys.executable, "-m", "benchmarks.perf.wire", "--caller", name, "--base", base]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# The report.

WIDTHS = tuple(Size(width) for width in (32, 256, 1000))
SLOW = Size(256, latency=200)
MANY = Size(8, runs=200, latency=100)
_DEPTH = 4
"""Calls of W(N) that follow each other."""


def _cpu(names: Sequence[str], repeat: int) -> Iterator[str]:
    figures = measure(names, WIDTHS, repeat)
    for size in WIDTHS:
        for name in names:
            yield f"W({size.width}), {name}: {spread(figures.cpu_ms(name, size), '.3f')} ms CPU a call"
        for other in [name for name in names if name != "fusion"]:
            ratio = figures.ratio(lambda one: one.cpu, size, "fusion", other)
            yield f"W({size.width}), fusion: {ratio:.2f} x {other}"
    few, many = (statistics.median(figures.cpu_ms("fusion", size)) for size in (WIDTHS[0], WIDTHS[-1]))
    yield f"growth of CPU a call from {WIDTHS[0].width} to {WIDTHS[-1].width}: {many / few:.2f} x (bar 1.2)"
    added = sum(one.memory for size in WIDTHS for one in figures.taken["fusion", size])
    yield f"memory added up to W(1000): {added:.1f} MB (bar 25)"
    yield f"calls at the server: {figures.miscounted or 'none'} too many or too few"


def _latency(names: Sequence[str], repeat: int) -> Iterator[str]:
    figures = measure(names, [SLOW], repeat)
    for name in names:
        efficiency = [_DEPTH * SLOW.latency / 1000 / one.wall for one in figures.taken[name, SLOW]]
        yield f"W(256) of calls of 200 ms, {name}: {spread(efficiency, '.2f')} of the critical path (bar 0.80)"


def _many(names: Sequence[str], repeat: int) -> Iterator[str]:
    figures = measure(names, [MANY], repeat)
    for name in names:
        rate, cpu = spread(figures.rate(name, MANY), ".0f"), spread(figures.cpu_ms(name, MANY), ".2f")
        yield f"200 x W(8) of calls of 100 ms, {name}: {rate} runs a second; {cpu} ms CPU a call"
    if "aiohttp" in names:
        ratio = figures.ratio(lambda one: 1 / one.wall, MANY, "fusion", "aiohttp")
        yield f"200 x W(8), fusion: {ratio:.2f} x the runs a second of aiohttp (bar 0.45)"


PARTS = {"cpu": _cpu, "latency": _latency, "many": _many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--callers", nargs="+", choices=CALLERS, default=CALLERS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--caller", choices=CALLERS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.caller:
        asyncio.run(caller(given.caller, given.base))
        return
    for part in given.only:
        print(machine())
        for line in PARTS[part](given.callers, given.repeat):
            print(line)


if __name__ == "__main__":
    main()
