"""CPU per call over HTTP: Fusion's engine, litellm alone and aiohttp alone, on the same prompts in the same run.

Every caller and the server have a process of their own, on loopback. The server answers at once and counts. The
callers are measured in turn, with 32, 256 and 1,000 calls in flight at once.

    python -m benchmarks.perf.overhead [--repeat 5] [--widths 32 256 1000]
"""

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.perf.figures import machine, spread

CALLERS = ("aiohttp", "litellm", "fusion")
WIDTHS = (32, 256, 1000)
SYSTEM = "You do one piece of work and answer with the result only."
TASK = "Write a part of a guide for moving a billing system from one vendor to another: export, mapping, dry runs. "
PIPELINE = """
name: overhead
inputs: {rows: {default: []}}
roles: {bulk: {chain: [openai/mock], concurrency: 1000}}
stages:
  work:
    kind: map
    over: inputs.rows
    concurrency: 1000
    prompt: |
      {% message role="system" %}SYSTEM{% endmessage %}
      {% message role="user" %}TASK{{ item.value }}{% endmessage %}
output: work
""".replace("SYSTEM", SYSTEM).replace("TASK", TASK)

Run = Callable[[int], Awaitable[None]]
"""Makes this many calls at once."""


def conversation(number: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{TASK}Part {number}."}]


# The callers, each in a process of its own.


async def by_aiohttp(base: str) -> Run:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def call(number: int) -> str:
        given = {"model": "mock", "messages": conversation(number), "max_tokens": 2000}
        async with session.post(f"{base}/chat/completions", json=given) as answer:
            return str((await answer.json())["choices"][0]["message"]["content"])

    return _all(call)


async def by_litellm(base: str) -> Run:
    import litellm

    logging.getLogger("LiteLLM").setLevel(logging.ERROR)  # it warns of each call that waits for a connection

    async def call(number: int) -> str:
        answer = await litellm.acompletion(
            model="openai/mock", messages=conversation(number), max_tokens=2000, api_base=base, api_key="none"
        )
        return str(answer.choices[0].message.content)

    return _all(call)


async def by_fusion(base: str) -> Run:
    from fusion import Fusion, Pipeline

    os.environ.update(OPENAI_BASE_URL=base, OPENAI_API_KEY="none")
    fusion, pipeline = Fusion(), Pipeline.from_yaml(PIPELINE)

    async def run(width: int) -> None:
        result = await fusion.acomplete(pipeline=pipeline, inputs={"rows": [f"Part {n}." for n in range(width)]})
        assert [item.value for item in result.items] == ["a result"] * width

    return run


def _all(call: Callable[[int], Awaitable[str]]) -> Run:
    async def run(width: int) -> None:
        assert await asyncio.gather(*(call(number) for number in range(width))) == ["a result"] * width

    return run


async def caller(name: str, base: str) -> None:
    """Make as many calls as each line of standard input asks for, and write their CPU seconds."""
    run = await {"aiohttp": by_aiohttp, "litellm": by_litellm, "fusion": by_fusion}[name](base)
    await run(8)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        began = time.process_time()
        await run(int(line))
        print(time.process_time() - began, flush=True)
    os._exit(0)  # what a caller leaves open is no part of this


# The measurement.


@dataclass
class Figures:
    """Return CPU milliseconds per call by caller and width, and the error of the server's count."""

    cpu: dict[tuple[str, int], list[float]]
    miscounted: int = 0

    def middle(self, name: str, width: int) -> float:
        return statistics.median(self.cpu[name, width])


def measure(names: Sequence[str], widths: Sequence[int], repeat: int) -> Figures:
    """Start the server and the callers, and measure them in turn."""
    with server.running() as provider:
        figures = Figures({(name, width): [] for name in names for width in widths})
        with _callers(names, f"{provider.root}/v1") as running:
            for width in [width for width in widths for _ in range(repeat)]:
                for name, process in running.items():
                    before = provider.calls()
                    figures.cpu[name, width].append(_cpu_ms(process, width))
                    figures.miscounted += abs(provider.calls() - before - width)
        return figures


def _cpu_ms(process: "subprocess.Popen[str]", width: int) -> float:
    assert process.stdin is not None
    process.stdin.write(f"{width}\n")
    process.stdin.flush()
    return 1000 * float(_line(process)) / width


def _calls(root: str) -> int:
    with urllib.request.urlopen(f"{root}/calls", timeout=10) as answer:
        return int(json.load(answer))


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args} ended without an answer")
    return line


@contextmanager
def _callers(names: Sequence[str], base: str) -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    if not names:
        yield {}
        return
    with (
        _process("benchmarks.perf.overhead", "--caller", names[0], "--base", base) as process,
        _callers(names[1:], base) as others,
    ):
        assert _line(process) == "ready"
        yield {names[0]: process, **others}


@contextmanager
def _process(*module: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    with subprocess.Popen(
        [sys.executable, "-m", *module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--caller", choices=CALLERS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.caller:
        asyncio.run(caller(given.caller, given.base))
        return
    print(machine())
    figures = measure(CALLERS, given.widths, given.repeat)
    for width in given.widths:
        for name in CALLERS:
            print(f"{width:>5} in flight, {name:<8} {spread(figures.cpu[name, width], '.2f')} ms CPU a call")
        fusion, litellm, aiohttp = (figures.middle(name, width) for name in reversed(CALLERS))
        more = f"{fusion - litellm:+.2f} ms against litellm (bar +0.6)"
        print(f"{'':>15}fusion is {fusion / litellm:.2f} x litellm, {fusion / aiohttp:.1f} x aiohttp; {more}")
    least, most = min(given.widths), max(given.widths)
    growth = figures.middle("fusion", most) / figures.middle("fusion", least)
    print(f"growth of fusion from {least} to {most}: {growth:.2f} x (bar 1.5)")
    print(f"calls at the server: {figures.miscounted or 'none'} too many or too few")


if __name__ == "__main__":
    main()
