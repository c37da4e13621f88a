"""The server of the double, in this process or in one of its own, and its control.

with Double(expire_batches=1) as double:
    monkeypatch.setenv("OPENAI_BASE_URL", double.env["OPENAI_BASE_URL"])
    ...
    assert max(double.counts.bodies.values()) == 1
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from aiohttp import web

from tests.models.batches.double import anthropic, gemini, live, openai, openrouter
from tests.models.batches.double.calls import BOOKS, books, guarded
from tests.models.batches.double.state import Books, Counts, Switches

_MOST = 2**30
_ROOT = Path(__file__).parents[4]


def app_of(kept: Books) -> web.Application:
    app = web.Application(middlewares=[guarded], client_max_size=_MOST)
    app[BOOKS] = kept
    for api in (openai, anthropic, gemini, openrouter, live):
        app.add_routes(api.routes())
    app.add_routes([web.post("/control", control), web.get("/control", shown)])
    return app


async def control(request: web.Request) -> web.Response:
    """Set switches."""
    for name, value in (await request.json()).items():
        _set(books(request), name, value)
    return web.json_response({})


async def shown(request: web.Request) -> web.Response:
    return web.json_response(books(request).as_json())


async def listening(kept: Books, port: int = 0) -> tuple[web.AppRunner, str]:
    """Serve on a port of loopback; return the server and its address."""
    runner = web.AppRunner(app_of(kept), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


class _Served:
    """The addresses of a double at `root`, by the variables that Fusion reads."""

    root: str

    @property
    def env(self) -> dict[str, str]:
        bases = {
            "OPENAI_BASE_URL": f"{self.root}/v1",
            "GROQ_API_BASE": f"{self.root}/v1",
            "ANTHROPIC_BASE_URL": self.root,
            "OPENROUTER_API_BASE": f"{self.root}/api/v1",
            "GEMINI_API_BASE": f"{self.root}/v1beta",
        }
        return bases | {f"{name}_API_KEY": "sk-double-12345" for name in ("OPENAI", "GROQ", *_VENDORS)}


_VENDORS = ("ANTHROPIC", "OPENROUTER", "GEMINI")


class Double(_Served):
    """A double that serves from a thread of its own while it is entered."""

    def __init__(self, **switches: Any) -> None:
        self.books = Books()
        self.set(**switches)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="double", daemon=True)

    def __enter__(self) -> "Double":
        self._thread.start()
        served = asyncio.run_coroutine_threadsafe(listening(self.books), self._loop)
        self._runner, self.root = served.result()
        return self

    def __exit__(self, *exit_of: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def counts(self) -> Counts:
        return self.books.counts

    @property
    def switches(self) -> Switches:
        return self.books.switches

    def set(self, **switches: Any) -> None:
        """Set switches."""
        for name, value in switches.items():
            _set(self.books, name, value)


class DoubleProcess(_Served):
    """A double in a process of its own, which outlives every client."""

    def __init__(self, **switches: Any) -> None:
        self._first = switches

    def __enter__(self) -> "DoubleProcess":
        command = [sys.executable, "-m", "tests.models.batches.double"]
        env = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=_ROOT)
        assert self._process.stdout is not None
        self.root = self._process.stdout.readline().strip()
        self.set(**self._first)
        return self

    def __exit__(self, *exit_of: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def counts(self) -> Counts:
        with urlopen(f"{self.root}/control", timeout=10) as response:
            found = json.load(response)
        return Counts(**{name: Counter(one) if isinstance(one, dict) else one for name, one in found.items()})

    def set(self, **switches: Any) -> None:
        """Set switches."""
        raw = json.dumps(switches).encode()
        with urlopen(Request(f"{self.root}/control", data=raw, method="POST"), timeout=10):
            pass


def _set(kept: Books, name: str, value: Any) -> None:
    if not hasattr(kept.switches, name):
        raise AttributeError(f"the double has no switch {name!r}")
    setattr(kept.switches, name, value)
