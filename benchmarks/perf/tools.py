"""Tools: CPU that Fusion adds to a call of a tool over stdio, above that of the protocol's own client.

A map calls a tool of a server in a process of its own, 16 calls at once, without a store and with one. The client
of the protocol alone makes as many calls in turn with it, as many at once.

    python -m benchmarks.perf.tools [--repeat 7] [--calls 500]
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcp import Client, StdioServerParameters
from mcp.server.mcpserver import MCPServer

from benchmarks.perf.figures import machine, spread
from fusion import Fusion, InputSpec, Pipeline
from fusion.core.config import Settings
from fusion.stages.kinds.tool import ToolStage

AT_ONCE = 16
WAYS = ("client", "fusion", "stored")
WORK = ToolStage(over="inputs.rows", tool="bench.echo", arguments={"text": "item.source"}, concurrency=AT_ONCE)
PIPELINE = Pipeline(name="tools", inputs={"rows": InputSpec(default=[])}, stages={"work": WORK}, output="work")


def serve() -> None:
    """Serve a tool that gives back its argument."""
    server = MCPServer("bench")

    @server.tool()
    def echo(text: str) -> str:
        """Give the text back."""
        return text

    server.run()


async def bare(calls: int, repeat: int, command: list[str]) -> list[float]:
    """Return CPU seconds of so many calls by the client of the protocol alone, several times."""
    taken = []
    slots = asyncio.Semaphore(AT_ONCE)
    async with Client(StdioServerParameters(command=command[0], args=command[1:])) as client:

        async def call(number: int) -> None:
            async with slots:
                result = await client.call_tool("echo", {"text": f"row {number}"})
                assert not result.is_error

        await client.list_tools()
        await asyncio.gather(*map(call, range(20)))
        for _ in range(repeat):
            began = time.process_time()
            await asyncio.gather(*map(call, range(calls)))
            taken.append(time.process_time() - began)
    return taken


class Arm:
    """Calls by runs of Fusion, with a store or without one."""

    def __init__(self, settings: Settings, store: Path | None) -> None:
        self._fusion = Fusion(profile="local", settings=settings, store=store)

    def cpu_of(self, calls: int) -> float:
        """Return CPU seconds of a run of so many calls."""
        rows = [f"row {number}" for number in range(calls)]
        began = time.process_time()
        result = self._fusion.complete(pipeline=PIPELINE, inputs={"rows": rows})
        seconds = time.process_time() - began
        assert [item.value for item in result.items] == [{"result": row} for row in rows]
        return seconds

    def close(self) -> None:
        self._fusion.close()


@contextmanager
def arms() -> Iterator[dict[str, Arm]]:
    """Yield the ways of Fusion, warmed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fusion.toml"
        root = Path(__file__).parents[2]
        path.write_text(
            f'[mcp.bench]\ncommand = "{sys.executable}"\nread = ["*"]\n'
            f'args = ["-c", "import sys; sys.path.insert(0, \'{root}\'); '
            'from benchmarks.perf.tools import serve; serve()"]\n'
        )
        settings = Settings.from_environment(config=path)
        made = {"fusion": Arm(settings, None), "stored": Arm(settings, Path(folder) / "runs.db")}
        try:
            for arm in made.values():
                arm.cpu_of(20)
            yield made
        finally:
            for arm in made.values():
                arm.close()


def measure(calls: int, repeat: int) -> dict[str, list[float]]:
    """Return milliseconds of CPU a call by way, measured in turn."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    command = [sys.executable, "-c", "from benchmarks.perf.tools import serve; serve()"]
    with arms() as made:
        for _ in range(repeat):
            taken["client"] += [1e3 * one / calls for one in asyncio.run(bare(calls, 1, command))]
            for way, arm in made.items():
                taken[way].append(1e3 * arm.cpu_of(calls) / calls)
    return taken


def added(taken: dict[str, list[float]], way: str) -> list[float]:
    """Return milliseconds a call beyond those of the client alone, pair by pair."""
    return [one - alone for one, alone in zip(taken[way], taken["client"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    print(machine())
    taken = measure(options.calls, options.repeat)
    for way in WAYS:
        print(f"{way}: {spread(taken[way])} ms a call")
    for way in WAYS[1:]:
        more = added(taken, way)
        print(f"{way}, above the client: {spread(more)} ms a call; median {statistics.median(more):.3f}")


if __name__ == "__main__":
    main()
