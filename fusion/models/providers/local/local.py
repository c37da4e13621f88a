"""The embedded models: llama.cpp's server for each model file, started at its first call and ended with us.

They are asked for as `local/small`, `local/strong`, `local/tiny`, or `local:/path/any.gguf`.
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
from decimal import Decimal
from pathlib import Path

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo, Price
from fusion.models.providers.local.weights import manifest, require

Door = Callable[[str, str, ModelInfo], Model]
"""Makes the model behind an OpenAI-style server: of the name it serves under, the base of its URL, and its info."""

OWN_CONTEXT = 8192


class LocalModels:
    """The models of this machine, each file behind one server whoever asks for it.

    `slots` lets one call at a time compute, whichever model it is for: two at once on the same cores are slower than
    one after the other, and a prompt shared by several calls would be read once for each. Whoever calls these models
    holds it while they answer (the wrapper Limited takes it as its shared slots), so that waiting for it is not
    counted as the time of the call.
    """

    def __init__(self, settings: Settings, door: Door) -> None:
        self.slots = asyncio.Semaphore(1)
        self._settings = settings
        self._door = door
        self._servers: dict[Path, _Server] = {}

    def model(self, model_id: str) -> Model:
        """The model; nothing is loaded yet.

        Raises MissingKeyError where its weights or llama.cpp are not installed, UsageError where its file is not
        what it should be.
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
        return _LocalModel(info, self._servers[path], self._door)

    def close(self) -> None:
        """End every server at once, with what it is answering. A later call starts it anew."""
        for server in self._servers.values():
            server.stop()


class _LocalModel(Model):
    """A model of this machine, reached over loopback.

    Where a request says no temperature it is 0: the likeliest token each time, so the same request has the same
    answer. Where it says one, each call is another sample.
    """

    def __init__(self, info: ModelInfo, server: "_Server", door: Door) -> None:
        self.info = info
        self._server = server
        self._make_door = door
        self._base = ""
        self._inner: Model | None = None

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        base = await self._server.base()
        if self._inner is None or base != self._base:
            self._inner = self._make_door(self._server.alias, base, self.info)
            self._base = base
        if request.temperature is None:
            request = request.model_copy(update={"temperature": 0.0})
        return await self._inner.complete(request, on_delta)


class _Server:
    """One model file, served by a process of its own while it is needed."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        self.path = path
        self.alias = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
        self._context = context
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._loading: Future[str] = Future()
        self._finalizer: weakref.finalize[..., _Server] | None = None

    async def base(self) -> str:
        """The base of its URL once it is loaded; it is started if it is not running."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        return await asyncio.shield(asyncio.wrap_future(self._loading))

    def stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def _start(self) -> None:
        self.stop()
        # What nobody can guess keeps other users of the machine, and pages in a browser, from the server.
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
    """The server's process, out of reach of the terminal's Ctrl-C: we end it, once its calls are cancelled."""
    script = Path(__file__).with_name("server.py")
    return subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-P", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _load(process: "subprocess.Popen[bytes]", order: dict[str, object], path: Path) -> str:
    """Give the order, wait for the answer: the base of the server's URL."""
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
        f"llama.cpp cannot load {str(path)!r} ({said}): the file is damaged, of a kind that it does not know, "
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
    return ModelInfo(
        id=model_id,
        provider="local",
        price=Price(input=Decimal(0), output=Decimal(0)),
        price_source="local (free)",
        context=weights.context if weights else OWN_CONTEXT,
        json_schema=True,
        local=True,
    )
