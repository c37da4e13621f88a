"""LiteLLMModel: calls a model by litellm, with one HTTP request each, and errors of our own tree."""

import asyncio
import logging
import os
import sys
import threading
import warnings
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from fusion.core.types import Request
from fusion.models.base import ModelInfo
from fusion.models.catalog import lookup
from fusion.models.providers.http.body import bound
from fusion.models.providers.http.session import SESSIONS, Requests
from fusion.models.providers.litellm_client import SingleRequestClient, WarmUpClient
from fusion.models.providers.openai import message_of, response_format, sampling_of, tool_choice, tools_of
from fusion.models.providers.parsed import add_parsed
from fusion.models.providers.reader.reply import ReplyBuilder, read
from fusion.models.providers.wire import WireModel

_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no price list from the internet
    "LITELLM_MODE": "PRODUCTION",  # no .env file
}
for _name, _value in _ENVIRONMENT.items():  # before any import of litellm, by this module or another
    os.environ.setdefault(_name, _value)

_PLAIN_HTTP: Final = "EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER"
"""Makes `openai/…` use the client passed to it, as other providers do, and not the openai package."""

_OWN_CLIENT: Final = ("azure", "azure_text", "text-completion-openai")
"""Providers that litellm reaches by the openai package only, whose clients take a timeout and no retries."""
_MARKED: Final = frozenset({"anthropic", "bedrock", "openrouter", "vertex_ai"})
"""Providers of Claude that take marks of a prompt cache."""
_PREPARING: Final = 1.0
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


class LiteLLMModel(WireModel[SingleRequestClient]):
    """A model of litellm, by litellm's id: `openai/gpt-5.6`, `gemini/…`, `bedrock/…`.

    `info` is by default looked up in the price file; replies name its id as requested. `api_base` and `api_key`
    override the provider's address and the key in the environment.
    """

    def __init__(
        self,
        model_id: str,
        *,
        info: ModelInfo | None = None,
        api_base: str | None = None,
        api_key: str | None = None,
        **reading: Any,
    ) -> None:
        ours = model_id.partition("/")[0] not in _OWN_CLIENT
        known = lookup(model_id) if info is None else info
        super().__init__(known, api_key=api_key, tracks_connections=ours, **reading)
        self._own_server = api_base is not None and model_id.startswith("openai/")
        self._marks = known.family == "claude" and known.provider in _MARKED
        given = {"model": model_id, "api_base": api_base, "api_key": api_key}
        self._fixed = {name: value for name, value in given.items() if value is not None}

    async def ready(self) -> None:
        await _LIBRARY.ready()
        await SESSIONS.ready()

    async def _exchange(self, request: Request, session: Requests) -> SingleRequestClient:
        library = await _LIBRARY.ready()
        return library.client(session, bound(request.max_tokens))

    async def _ask(
        self, exchange: SingleRequestClient, request: Request, reply: ReplyBuilder, *, stream: bool
    ) -> None:
        library = await _LIBRARY.ready()
        response = await _send(library, exchange, self._arguments(request, exchange, stream=stream))
        reply.mask_also(exchange.secrets)
        if exchange.format == "anthropic":
            reply.read_messages()
        if exchange.format is not None:
            await read(exchange.blocks(), reply)
        else:
            await add_parsed(response, reply, stream=stream, http=exchange.response is not None)

    def _arguments(self, request: Request, client: SingleRequestClient, *, stream: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            **self._fixed,
            "messages": [message_of(message, marks=self._marks) for message in request.messages],
            "max_tokens": request.max_tokens,
            "timeout": request.timeout,
            "num_retries": 0,
            "max_retries": 0,
            "no-log": True,
        }
        if self.tracks_connections:
            arguments["client"] = client
        arguments |= _params(request)
        extra = request.extra
        if request.cache_key is not None and self.info.provider == "openai" and not self._own_server:
            extra = {"prompt_cache_key": request.cache_key, **extra}
        if self._own_server and request.reasoning_effort:  # litellm does not know which of its models support it
            extra = {"reasoning_effort": arguments.pop("reasoning_effort"), **extra}
        if self.tracks_connections:
            client.extra, client.renamed = extra, self.renamed
        elif extra:
            arguments["extra_body"] = extra
        if request.json_schema is not None:
            arguments["response_format"] = response_format(request)
        if request.tools:
            arguments |= {"tools": tools_of(request), "tool_choice": tool_choice(request)}
        if stream:
            arguments["stream"] = True
            arguments["stream_options"] = {"include_usage": True}
        return arguments


async def warm() -> None:
    """Load litellm, which takes seconds, before the first call needs it."""
    await _LIBRARY.ready()


async def close_all() -> None:
    """Close the connections of this loop and litellm's own clients, if litellm has been loaded."""
    await SESSIONS.close()
    await _LIBRARY.close()


async def _send(library: "_Loaded", client: SingleRequestClient, arguments: dict[str, Any]) -> Any:
    """Return litellm's response. A cancelled call leaves no connection and no unawaited coroutine behind.

    litellm prepares a call in a thread, which creates the coroutine that sends it. Cancelling at that moment would
    lose the coroutine, so a call that has not been sent yet continues up to the point of sending.
    """
    task = asyncio.create_task(library.acompletion(**arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        is_sent = client.abandon()
        while not task.done():
            if is_sent:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,), timeout=_PREPARING)
            is_sent = True
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it
        raise


def _params(request: Request) -> dict[str, Any]:
    """Return the parameters by their names in OpenAI's API, which litellm uses."""
    budget = request.thinking_budget
    given = {
        **sampling_of(request),
        "reasoning_effort": request.reasoning_effort,
        "thinking": budget and {"type": "enabled", "budget_tokens": budget},
    }
    return {name: value for name, value in given.items() if value is not None}


class _Loaded(NamedTuple):
    """The parts of litellm in use."""

    acompletion: Any
    client_type: type

    def client(self, session: Requests, most: int) -> SingleRequestClient:
        made: SingleRequestClient = self.client_type(session, most)
        return made


class _Library:
    """litellm, loaded once per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    async def ready(self) -> _Loaded:
        """Return litellm, loading it in a thread at the first call."""
        if self._loaded is None:
            return await asyncio.to_thread(self._load)
        return self._loaded

    async def close(self) -> None:
        if self._loaded is None:
            return
        litellm = sys.modules["litellm"]
        await litellm.close_litellm_async_clients()
        module = sys.modules.get("litellm.litellm_core_utils.logging_worker")
        if module is not None:
            await _stop(module.GLOBAL_LOGGING_WORKER)

    def _load(self) -> _Loaded:
        with self._lock:
            loaded = self._loaded or _load()
            self._loaded = loaded
        return loaded


async def _stop(worker: Any) -> None:
    """Stop litellm's worker, unless another loop runs it: that of a program that calls litellm itself."""
    if getattr(worker, "_bound_loop", None) is asyncio.get_running_loop():
        await worker.stop()


_LIBRARY: Final = _Library()


def _load() -> _Loaded:
    """Import litellm with everything but the call itself turned off."""
    os.environ[_PLAIN_HTTP] = "True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm
        from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        loaded = _Loaded(
            acompletion=_quiet(litellm.acompletion),
            client_type=type("Client", (SingleRequestClient, AsyncHTTPHandler), {}),  # litellm checks the class
        )
        asyncio.run(_warm_up(loaded, type("WarmUp", (WarmUpClient, AsyncHTTPHandler), {})()))
    warnings.filterwarnings("ignore", message="Items? .*ReadOnly", category=UserWarning, module="pydantic")
    return loaded


async def _warm_up(loaded: _Loaded, client: WarmUpClient) -> None:
    """Make one call without network, at which litellm loads the rest of itself, another half a second."""
    messages = [{"role": "user", "content": "warm-up"}]
    await loaded.acompletion(model="openai/warm-up", messages=messages, api_key="none", client=client, max_tokens=1)


def _quiet(acompletion: Any) -> Any:
    """Return `acompletion` without the logging of each call, which takes a millisecond and leaves tasks behind."""
    try:
        from litellm._internal_context import is_internal_call as unlogged
    except ImportError:  # logging then only costs time
        unlogged = ContextVar("unlogged", default=False)

    async def call(**arguments: Any) -> Any:
        unlogged.set(True)
        return await acompletion(**arguments)

    return call
