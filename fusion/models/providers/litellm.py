"""The one door to litellm: a request in, a reply or an error of our own tree out, one HTTP request for each."""

import asyncio
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Collection
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fusion.core.errors import BadResponseError, ModelError
from fusion.core.types import Deltas, File, FinishReason, Message, Reply, Request, Usage
from fusion.models.base import Model, ModelInfo, estimate_input, estimate_tokens
from fusion.models.providers import errors as faults
from fusion.models.providers.http import Exchange, Rehearsal
from fusion.models.providers.stream import Answer, listen
from fusion.models.redaction import Masks

if TYPE_CHECKING:
    import ssl

    import aiohttp


_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no price list from the internet
    "LITELLM_MODE": "PRODUCTION",  # no .env file
}
_PLAIN_HTTP: Final = "EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER"
"""Lets `openai/…` go by the client that we give, as all other providers do, and not by the openai package."""

_OWN_CLIENT: Final = ("azure", "azure_text", "text-completion-openai")
"""Providers that litellm reaches by the openai package only; its clients keep to our timeout and to one request."""
_PREPARING: Final = 1.0
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")

_FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "tool_use": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


class LiteLLMModel(Model):
    """A model that litellm reaches, by litellm's id: `openai/gpt-5.6`, `anthropic/…`, `openrouter/…`.

    `info` is what is known of it, by default from the price file; its id is what replies give as asked for.
    `api_base` and `api_key` take the place of the provider's address and of the key in the environment. `served_as`
    is the name to give as served where the server gives none of its own. No key comes out of what it answers or
    raises: neither those in the environment, of which `key_names` are some whose names do not say so, nor `api_key`.
    """

    def __init__(
        self,
        model_id: str,
        *,
        info: ModelInfo | None = None,
        api_base: str | None = None,
        api_key: str | None = None,
        served_as: str | None = None,
        key_names: Collection[str] = (),
    ) -> None:
        self.info = _looked_up(model_id) if info is None else info
        self._served_as = served_as
        self._masks = Masks(key_names, api_key)
        self._own_server = api_base is not None and model_id.startswith("openai/")
        self._takes_client = model_id.partition("/")[0] not in _OWN_CLIENT
        given = {"model": model_id, "api_base": api_base, "api_key": api_key}
        self._fixed = {name: value for name, value in given.items() if value is not None}

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        library = await _LIBRARY.ready()
        exchange = library.exchange()
        started = time.perf_counter()
        answer = Answer(on_delta, self._masks.now())
        try:
            async with asyncio.timeout(request.timeout):
                arguments = self._arguments(request, exchange, stream=on_delta is not None)
                given = await _asked(library, exchange, arguments)
                answer.know(exchange.secrets)
                if on_delta is None:
                    answer.take_whole(given)
                else:
                    await listen(given, answer, http=exchange.answer, openai=library.openai_chunks)
                answer.end()
        except asyncio.CancelledError as error:
            error.__context__ = None
            raise
        except Exception as error:  # litellm's own code and its providers' raise anything
            if error is answer.thrown:
                raise
            fault = self._fault(error, request, exchange, answer)
        else:
            return self._reply(request, answer, started)
        finally:
            exchange.close()
        raise fault  # out of reach of the error that was caught, which would be its context as it came

    def _fault(self, error: Exception, request: Request, exchange: Exchange, answer: Answer) -> ModelError:
        """The error of our tree, with the words of what litellm raised as its cause."""
        mask = answer.mask.also(exchange.secrets)
        if isinstance(error, TimeoutError):
            fault: ModelError = faults.too_late(self.info, request.timeout)
        else:
            text = "" if answer.finish else answer.text
            fault = faults.explain(error, self.info, exchange, mask, text=text)
        fault.__cause__ = faults.told(error, mask)
        return fault

    def _arguments(self, request: Request, exchange: Exchange, *, stream: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            **self._fixed,
            "messages": [{"role": message.role, "content": _content(message)} for message in request.messages],
            "max_tokens": request.max_tokens,
            "timeout": request.timeout,
            "num_retries": 0,
            "max_retries": 0,
            "no-log": True,
        }
        if self._takes_client:
            arguments["client"] = exchange
        arguments |= _params(request)
        extra = request.extra
        if self._own_server and request.reasoning_effort:  # litellm does not know which of its models take it
            extra = {"reasoning_effort": arguments.pop("reasoning_effort"), **extra}
        if self._takes_client:
            exchange.extra = extra
        elif extra:
            arguments["extra_body"] = extra
        if request.json_schema is not None:
            arguments["response_format"] = _response_format(request)
        if stream:
            arguments["stream"] = True
            arguments["stream_options"] = {"include_usage": True}
        return arguments

    def _reply(self, request: Request, answer: Answer, started: float) -> Reply:
        if not answer.finish:
            raise BadResponseError(
                f"the answer of {self.info.id!r} broke off without a finish reason",
                model=self.info.id,
                text=answer.text,
            )
        usage = answer.usage or _estimated(request, answer.text)
        return Reply(
            text=answer.text,
            finish_reason=_FINISH.get(answer.finish, "stop"),
            usage=usage,
            asked=self.info.id,
            served=answer.served or self._served_as or self.info.id,
            cost=None if self.info.price is None else self.info.price.of(usage),
            latency=time.perf_counter() - started,
            first_token=None if answer.first is None else answer.first - started,
        )


async def warm() -> None:
    """Load litellm, which takes seconds of one core, before the first call needs it."""
    await _LIBRARY.ready()


async def close_all() -> None:
    """Close this loop's connections and litellm's own clients. Does nothing if litellm was never loaded."""
    await _LIBRARY.close()


async def _asked(library: "_Loaded", exchange: Exchange, arguments: dict[str, Any]) -> Any:
    """litellm's answer. When cancelled it leaves nothing behind: neither a connection nor a coroutine never awaited.

    litellm prepares a call in a thread that makes the coroutine which sends it. Cancelling in that moment would
    lose the coroutine, so a call that has not sent anything yet is let go on to where it would send.
    """
    task = asyncio.create_task(library.acompletion(**arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        under_way = exchange.abandon()
        while not task.done():
            if under_way:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,), timeout=_PREPARING)
            under_way = True
        if not task.cancelled():
            task.exception()  # seen, so that nobody is told that it was not
        raise


def _params(request: Request) -> dict[str, Any]:
    """The parameters under litellm's names, which are OpenAI's."""
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "reasoning_effort": request.reasoning_effort,
        "thinking": request.thinking_budget and {"type": "enabled", "budget_tokens": request.thinking_budget},
    }
    return {name: value for name, value in given.items() if value is not None}


def _content(message: Message) -> str | list[dict[str, Any]]:
    """A message's content as OpenAI has it: litellm knows how other providers take its parts."""
    return [_part(part) for part in message.parts] if message.files else message.content


def _part(part: str | File) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.url}}
    return {"type": "file", "file": {"file_data": part.url, "filename": part.name or "document.pdf"}}


def _estimated(request: Request, text: str) -> Usage:
    return Usage(
        input=estimate_input(request.messages),
        output=estimate_tokens(text),
        source="estimated",
    )


def _response_format(request: Request) -> dict[str, Any]:
    if request.json_mode == "object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.json_schema, "strict": True}}


def _looked_up(model_id: str) -> ModelInfo:
    from fusion.models.catalog import lookup

    return lookup(model_id)


@dataclass(frozen=True)
class _Loaded:
    """litellm as we use it."""

    acompletion: Any
    openai_chunks: type
    client: type
    ssl: "ssl.SSLContext | bool"
    sessions: dict[asyncio.AbstractEventLoop, "aiohttp.ClientSession"] = field(default_factory=dict)

    def exchange(self) -> Exchange:
        made: Exchange = self.client(self._session())
        return made

    async def close(self) -> None:
        session = self.sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _session(self) -> "aiohttp.ClientSession":
        loop = asyncio.get_running_loop()
        session = self.sessions.get(loop)
        if session is None or session.closed:
            session = self.sessions[loop] = _new_session(self.ssl)
        return session


def _new_session(ssl: "ssl.SSLContext | bool") -> "aiohttp.ClientSession":
    """Connections without limits of their own: how many calls are in flight is for the wrappers to say."""
    from urllib.request import getproxies

    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl, ttl_dns_cache=300),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=bool(getproxies()),
    )


class _Library:
    """litellm, loaded once per process: what it is and does is of the process, not of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    async def ready(self) -> _Loaded:
        """litellm, loaded in a thread where it is not yet; first calls at once share the loading."""
        if self._loaded is None:
            return await asyncio.to_thread(self._load)
        return self._loaded

    async def close(self) -> None:
        if self._loaded is None:
            return
        await self._loaded.close()
        litellm = sys.modules["litellm"]
        await litellm.close_litellm_async_clients()
        worker = sys.modules.get("litellm.litellm_core_utils.logging_worker")
        if worker is not None:
            await worker.GLOBAL_LOGGING_WORKER.stop()

    def _load(self) -> _Loaded:
        with self._lock:
            loaded = self._loaded or _load()
            self._loaded = loaded
        return loaded


_LIBRARY: Final = _Library()


def _load() -> _Loaded:
    """Import litellm with everything off that is not the call itself."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[_PLAIN_HTTP] = "True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm
        from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, get_ssl_configuration
        from litellm.llms.openai.chat.gpt_transformation import OpenAIChatCompletionStreamingHandler

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        loaded = _Loaded(
            acompletion=_quiet(litellm.acompletion),
            openai_chunks=OpenAIChatCompletionStreamingHandler,
            client=type("Exchange", (Exchange, AsyncHTTPHandler), {}),  # litellm takes a client of its own class only
            ssl=get_ssl_configuration(),
        )
        asyncio.run(_rehearse(loaded, type("Rehearsal", (Rehearsal, AsyncHTTPHandler), {})()))
    warnings.filterwarnings("ignore", message="Items? .*ReadOnly", category=UserWarning, module="pydantic")
    return loaded


async def _rehearse(loaded: _Loaded, client: Rehearsal) -> None:
    """One call that goes nowhere: at its first one litellm loads what it has put off, another half a second."""
    messages = [{"role": "user", "content": "rehearsal"}]
    await loaded.acompletion(model="openai/rehearsal", messages=messages, api_key="none", client=client, max_tokens=1)


def _quiet(acompletion: Any) -> Any:
    """Without the logging of every call, which leaves tasks behind and takes a millisecond."""
    try:
        from litellm._internal_context import is_internal_call as unlogged
    except ImportError:  # it costs time only
        unlogged = ContextVar("unlogged", default=False)

    async def call(**arguments: Any) -> Any:
        unlogged.set(True)
        return await acompletion(**arguments)

    return call
