"""What the tests of the server share: an app on a loopback port, with scripted models behind it."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from starlette.applications import Starlette

from fusion import Fusion, Pipeline, ScriptedModel
from fusion.core.config import ServerTable
from fusion.server.app import build
from fusion.server.listener.serve import Listener, address, bound
from tests.cli.conftest import command as command
from tests.conftest import scripted

ECHO = """
name: echo
description: Answers with what the model says.
inputs: {prompt: The question.}
stages:
  answer: {kind: generate, prompt: "{{ inputs.prompt }}", max_tokens: 400}
output: answer
"""


def pipeline(text: str = ECHO) -> Pipeline:
    return Pipeline.from_yaml(text, file="test.yaml")


@dataclass
class Served:
    """A server on a loopback port. `models` are the scripted models by role."""

    url: str
    fusion: Fusion
    models: dict[str, ScriptedModel] = field(default_factory=dict)
    stop: Callable[[], None] = lambda: None
    """Ends the server as a signal does, and returns at once."""

    def openai(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, verify=False, **options)

    def chat(self, content: Any = "hello", *, model: str = "echo", **more: Any) -> dict[str, Any]:
        """A body of a chat completion."""
        return {"model": model, "messages": [{"role": "user", "content": content}], **more}

    def metrics(self) -> str:
        with self.client() as client:
            return client.get("/metrics").text

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, headers={n.replace("_", "-"): v for n, v in headers.items()})


Serve = Callable[..., Served]


def until(true: Callable[[], bool]) -> None:
    """Wait until a condition that something else brings about is true."""
    pause = threading.Event()
    for _ in range(2000):
        if true():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come about")


class Held:
    """A script that answers once it may. `calls` counts its calls, `busy` is set by the first."""

    def __init__(self, text: str = "late") -> None:
        self.calls = 0
        self.busy = threading.Event()
        self.release = threading.Event()
        self._text = text

    async def __call__(self, request: Any) -> str:
        self.calls += 1
        self.busy.set()
        while not self.release.is_set():
            await asyncio.sleep(0.005)
        return self._text


class _Thread:
    """The server with real sockets, in a thread."""

    def __init__(self, app: Any) -> None:
        self._socket = bound("127.0.0.1", 0)
        self.url = address(self._socket)
        ready = threading.Event()
        self._listener = Listener(app, ready=ready.set)
        self._thread = threading.Thread(
            target=self._listener.run_on, args=(self._socket,), name="served", daemon=True
        )
        self._thread.start()
        assert ready.wait(20)

    def stop(self) -> None:
        self._listener.stop()

    def close(self) -> None:
        self.stop()
        self._thread.join(10)
        self._socket.close()
        assert not self._thread.is_alive()


@contextmanager
def serving(
    fusion: Fusion,
    models: dict[str, ScriptedModel],
    *,
    pipelines: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    everything: bool = False,
    make: Callable[..., Starlette] = build,
) -> Iterator[Served]:
    """Serve a Fusion until the block is left; by default the pipeline `echo`, with `everything` all that is found."""
    settings = ServerTable(**{"grace": 1, **(table or {})})
    given = None if everything else pipelines or {"echo": pipeline()}
    running = _Thread(make(fusion, table=settings, pipelines=given))
    try:
        yield Served(running.url, fusion, models, running.stop)
    finally:
        running.close()


def models_of(scripts: Any) -> dict[str, ScriptedModel]:
    """The scripted models by role; one script plays both roles."""
    by_role = scripts if isinstance(scripts, Mapping) else {"frontier": scripts, "bulk": scripts}
    return {role: one if isinstance(one, ScriptedModel) else scripted(one, role) for role, one in by_role.items()}


@pytest.fixture
def serve(fusion: Callable[..., Fusion]) -> Iterator[Serve]:
    """Serves pipelines with scripted models: `serve("hello")`, `serve({"frontier": …}, pipelines={"x": …})`."""
    with ExitStack() as running:

        def start(scripts: Any = "the answer", **options: Any) -> Served:
            own = ("pipelines", "table", "everything", "make")
            mine = {name: options.pop(name) for name in own if name in options}
            models = models_of(scripts)
            return running.enter_context(serving(fusion(models, **{"store": True, **options}), models, **mine))

        yield start


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for a module: the pipeline `echo`, of which the answer is "the answer"."""
    models = models_of("the answer")
    store = tmp_path_factory.mktemp("echo") / "runs.db"
    with Fusion(profile="local", roles=models, store=store) as fusion, serving(fusion, models) as served:
        yield served
