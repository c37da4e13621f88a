"""The page of a live run in chromium: its longest tasks and its memory while a stage works on many items.

The page shows the run with the stage opened, so that every update draws its graph, its waterfall and 50 rows. `tasks`
is the CPU time of each task of its main thread, from a trace; `long` are the tasks of PerformanceObserver, in wall
time, which other processes lengthen. Memory is taken after a garbage collection.

    python -m benchmarks.perf.page --items 1000 --seconds 600
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvicorn

from fusion import Fusion, Pipeline, Price, Request, Say, ScriptedModel
from fusion.server.app import build

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
PIPELINE = """
name: many
inputs: {rows: The rows.}
stages:
  work: {kind: map, over: "inputs.rows.split(',')", role: bulk, prompt: "do {{ item.value }}", max_tokens: 20}
  answer: {kind: merge, over: work, role: bulk, prompt: "join {{ items | length }} results", max_tokens: 2000}
output: answer
"""
_STATUS = "document.querySelector('[role=status]').innerText"
_OBSERVE = "new PerformanceObserver((l) => l.getEntries().forEach((e) => longTasks.push(e.duration)))"
_LONG_TASKS = f'window.longTasks = []; {_OBSERVE}.observe({{ type: "longtask", buffered: true }});'


@dataclass
class Watch:
    """Measurements of a page over one run: milliseconds of tasks, megabytes of memory, and nodes."""

    tasks: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)
    heap: list[float] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def longest(self) -> float:
        return max(self.tasks, default=0.0)

    def growth(self) -> float:
        """Return the megabytes that the last third of the run has over the first, by their medians."""
        third = max(1, len(self.heap) // 3)
        return statistics.median(self.heap[-third:]) - statistics.median(self.heap[:third])


@contextmanager
def served(items: int, seconds: float) -> Iterator[str]:
    """Serve a pipeline whose `items` take about so many seconds together; yield the address."""
    width = 16
    pause = seconds * width / items

    async def work(request: Request) -> Any:
        text = request.messages[-1].content
        if text.startswith("join"):
            return Say(pieces=[(0.02, f"word {n} ") for n in range(100)])
        await asyncio.sleep(pause)
        return f"done: {text[:40]}"

    model = ScriptedModel(work, name="scripted/bulk", price=Price(input=Decimal("1e-6"), output=Decimal("1e-5")))
    pipeline = Pipeline.from_yaml(PIPELINE.replace("max_tokens: 20}", f"max_tokens: 20, concurrency: {width}}}"))
    with (
        tempfile.TemporaryDirectory() as folder,
        Fusion(profile="local", roles={"bulk": model}, store=Path(folder) / "runs.db") as fusion,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        app = build(fusion, pipelines={"many": pipeline}, warm=False)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def watched(items: int, seconds: float, *, every: float = 5.0) -> Watch:
    """Watch one run to its end in a browser of its own; memory is taken every so many seconds."""
    from playwright.sync_api import sync_playwright

    with served(items, seconds) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            return measured(browser, address, items, every)
        finally:
            browser.close()


def measured(browser: Any, address: str, items: int, every: float) -> Watch:
    """Start a run by the server at this address, and watch its page in this browser to the end of the run."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    rows = ",".join(f"row {n}" for n in range(items))
    page.goto(address)
    form = {"pipeline": "many", "inputs": {"rows": rows}}
    run_id = page.request.post(f"{address}/api/runs", data=form).json()["run_id"]
    page.goto(f"{address}/#/run/{run_id}")
    page.locator("button[data-row=stage]:not([disabled])").first.click()
    page.locator("button[data-row=item]").first.wait_for()
    page.evaluate(_LONG_TASKS)
    browser.start_tracing(page=page, categories=["toplevel"])
    watch = _followed(page, every)
    watch.tasks = _tasks(browser.stop_tracing())
    page.close()
    return watch


def _tasks(trace: bytes) -> list[float]:
    """Return the milliseconds of CPU of each task of the main thread that had most of them."""
    events = json.loads(trace)["traceEvents"]
    named = [one for one in events if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"]
    found: dict[tuple[int, int], list[float]] = {(one["pid"], one["tid"]): [] for one in named}
    for one in events:
        if one["name"] == "ThreadControllerImpl::RunTask" and (place := (one["pid"], one["tid"])) in found:
            found[place].append(one.get("tdur", 0) / 1000)
    return max(found.values(), key=sum)


def _followed(page: Any, every: float) -> Watch:
    watch, began = Watch(), time.monotonic()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    while "running" in page.evaluate(_STATUS):
        session.send("HeapProfiler.collectGarbage")
        found = _metrics(session)
        watch.heap.append(found["JSHeapUsedSize"] / 1e6)
        watch.nodes.append(int(found["Nodes"]))
        time.sleep(every)
    watch.long = page.evaluate("longTasks")
    watch.seconds = time.monotonic() - began
    return watch


def _metrics(session: Any) -> dict[str, float]:
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    before = os.getloadavg()[0]
    watch = watched(given.items, given.seconds)
    print(f"{given.items:,} items in {watch.seconds:.0f} s; load {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(
        f"tasks: {len(watch.tasks):,}, longest {watch.longest:.1f} ms of CPU, {sum(watch.tasks) / 1000:.1f} s in all"
    )
    print(f"long tasks in wall time: {len(watch.long)}, longest {max(watch.long, default=0):.0f} ms")
    print(f"heap: {watch.heap[0]:.1f} MB first, {watch.heap[-1]:.1f} MB last, growth {watch.growth():+.2f} MB")
    print(f"nodes: {min(watch.nodes):,} to {max(watch.nodes):,}, {watch.nodes[-1]:,} last")


if __name__ == "__main__":
    main()
