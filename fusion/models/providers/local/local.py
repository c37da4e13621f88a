"""Embedded models: a server of llama.cpp for each file, started at its first call and ended with this process.

Their ids are `local/small`, `local/strong`, `local/tiny`, or `local:/path/any.gguf`.
"""

import asyncio
import importlib.util
import json
import re
import secrets
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo
from fusion.models.catalog import lookup
from fusion.models.providers.local.weights import manifest, require

MakeClient = Callable[[str, str, ModelInfo], Model]
"""Returns the model of an OpenAI-compatible server, given its name there, its base URL and its info."""

OWN_CONTEXT = 8192


class LocalModels:
    """The models of this machine, one server per file.

    `slots` lets one call at a time compute, for all models: two at once on the same cores are slower than one after
    the other, and would each read a shared prompt. The wrapper Limited takes it as its shared slots, so that waiting
    for it does not count towards the timeout of a call.
    """

    def __init__(self, settings: Settings, make_client: MakeClient) -> None:
        self.slots = asyncio.Semaphore(1)
        self._settings = settings
        self._make_client = make_client
        self._servers: dict[Path, _Server] = {}

    def model(self, model_id: str) -> Model:
        """Return the model, without loading it.

        Raises MissingKeyError if its weights or llama.cpp are not installed, UsageError if its file is invalid.
        """
        path = require(model_id, self._settings).resolve()
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingKeyError(
                f"{model_id!r} needs llama.cpp, which is not installed: run `pip install 'compound-fusion[local]'`, "
                "or set a provider's key, such as OPENROUTER_API_KEY, and choose its profile"
            )
        info = _info(model_id)
        if path not in self._servers:
            self._servers[path] = _Server(path, info.context or OWN_CONTEXT, self._settings.local_threads)
        return _LocalModel(info, self._servers[path], self._make_client)

    def close(self) -> None:
        """End all servers at once, with their calls. A later call starts its server again."""
        for server in self._servers.values():
            server.stop()


class _LocalModel(Model):
    """A model of this machine, reached over loopback.

    The default temperature is 0, so that equal requests get equal replies.
    """

    def __init__(self, info: ModelInfo, server: "_Server", make_client: MakeClient) -> None:
        self.info = info
        self._server = server
        self._make_client = make_client
        self._base = ""
        self._inner: Model | None = None

    async def ready(self) -> None:
        """Load the weights; raises UsageError if llama.cpp cannot."""
        await (await self._client()).ready()

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        client = await self._client()
        if request.temperature is None:
            request = request.model_copy(update={"temperature": 0.0})
        return await client.complete(request, on_delta)

    async def _client(self) -> Model:
        base = await self._server.base()
        if self._inner is None or base != self._base:
            self._inner = self._make_client(self._server.alias, base, self.info)
            self._base = base
        return self._inner


class _Server:
    """The server process of one model file."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        self.path = path
        self.alias = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
        self._context = context
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._loading: Future[str] = Future()
        self._finalizer: weakref.finalize[..., _Server] | None = None

    async def base(self) -> str:
        """Return the base URL once the model is loaded, starting the server if needed."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        return await asyncio.shield(asyncio.wrap_future(self._loading))

    def stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def _start(self) -> None:
        self.stop()
        # A secret path keeps other users of the machine, and pages in a browser, from the server.
        prefix = f"/{secrets.token_urlsafe(16)}"
        order = {
            "path": str(self.path),
            "alias": self.alias,
            "context": self._context,
            "threads": self._threads,
            "prefix": prefix,
        }
        process = _launch()
        self._process = process
        self._finalizer = weakref.finalize(self, _end, process)
        reader = ThreadPoolExecutor(1, thread_name_prefix="fusion-local")
        self._loading = reader.submit(_load, process, order, self.path)
        reader.shutdown(wait=False)


def _launch() -> "subprocess.Popen[bytes]":
    """Start the process in its own session, so that Ctrl-C cancels the calls before the server ends."""
    script = Path(__file__).with_name("server.py")
    return subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-P", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _load(process: "subprocess.Popen[bytes]", order: dict[str, object], path: Path) -> str:
    """Send the order and return the base URL. Raises UsageError if the model cannot be loaded."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except (OSError, ValueError):
        line = b""
    answer: dict[str, str] = json.loads(line) if line else {}
    if "address" in answer:
        return f"{answer['address']}{order['prefix']}/v1"
    code = process.wait()
    said = answer.get("error") or f"its process ended with {code}"
    raise UsageError(
        f"llama.cpp cannot load {str(path)!r} ({said}): the file is damaged, of an unknown architecture, "
        "or larger than the free memory"
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _info(model_id: str) -> ModelInfo:
    weights = manifest().get(model_id.removeprefix("local/"))
    context = weights.context if weights else OWN_CONTEXT
    return lookup(model_id).model_copy(update={"context": context})
