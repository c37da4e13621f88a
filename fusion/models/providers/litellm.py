"""LiteLLMModel: calls a model by litellm, with one HTTP request each, and errors of our own tree."""

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

from fusion.core import budget
from fusion.core.errors import BadResponseError, ModelError, ParameterNameError
from fusion.core.types import Deltas, File, Message, Reply, Request
from fusion.models.base import Model, ModelInfo
from fusion.models.catalog import lookup
from fusion.models.providers.body import bound
from fusion.models.providers.errors import model_error, other_name, redacted_chain
from fusion.models.providers.http import SingleRequestClient, WarmUpClient, mark_connected
from fusion.models.providers.parsed import add_parsed
from fusion.models.providers.reader.reply import ReplyBuilder, read
from fusion.models.providers.reader.thoughts import Hold
from fusion.models.redaction import Redactor

if TYPE_CHECKING:
    import ssl

    import aiohttp


_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no price list from the internet
    "LITELLM_MODE": "PRODUCTION",  # no .env file
}
_PLAIN_HTTP: Final = "EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER"
"""Makes `openai/…` use the client passed to it, as other providers do, and not the openai package."""

_OWN_CLIENT: Final = ("azure", "azure_text", "text-completion-openai")
"""Providers that litellm reaches by the openai package only, whose clients take a timeout and no retries."""
_PREPARING: Final = 1.0
_CONNECTING: Final = 5.0
"""Seconds for a connection: name, sockets, proxy and TLS."""
_LOGGERS: Final = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


class LiteLLMModel(Model):
    """A model of litellm, by litellm's id: `openai/gpt-5.6`, `anthropic/…`, `openrouter/…`.

    `info` is by default looked up in the price file; replies name its id as requested. `api_base` and `api_key`
    override the provider's address and the key in the environment. `served_as` is the name of the model in replies
    of a server that gives none. Replies and errors hold no keys: `api_key`, those of the environment, and those in
    the variables `key_names`. The wrapper Limited enforces the timeout of a request.

    With `thinks`, replies begin with thoughts that only a closing mark ends, so that the text of a stream is held
    back to that mark. None finds that out by the first reply; JSON streams at once until then.

    A server that refuses `max_tokens` for `max_completion_tokens`, or the reverse, is sent that from then on; the
    refused attempt raises ParameterNameError.
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
        thinks: bool | None = False,
    ) -> None:
        self.info = lookup(model_id) if info is None else info
        self._served_as = served_as
        self._redactor = Redactor(key_names, api_key)
        self._own_server = api_base is not None and model_id.startswith("openai/")
        self._takes_client = model_id.partition("/")[0] not in _OWN_CLIENT
        self._thinks = thinks
        self._learns = thinks is None
        self._renamed: dict[str, str] = {}
        given = {"model": model_id, "api_base": api_base, "api_key": api_key}
        self._fixed = {name: value for name, value in given.items() if value is not None}

    async def ready(self) -> None:
        await _LIBRARY.ready()

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        library = await _LIBRARY.ready()
        client = library.client(bound(request.max_tokens))
        started = time.perf_counter()
        reply = ReplyBuilder(request, on_delta, self._redactor.mask(), self._hold_of(request))
        try:
            arguments = self._arguments(request, client, stream=on_delta is not None)
            response = await _send(library, client, arguments)
            reply.mask_also(client.secrets)
            if client.format == "anthropic":
                reply.read_messages()
            if client.format is not None:
                await read(client.blocks(), reply)
            else:
                await add_parsed(response, reply, stream=on_delta is not None, http=client.response is not None)
        except asyncio.CancelledError as error:
            self._note_unsent(client)
            error.__context__ = None
            raise
        except Exception as error:  # litellm and its providers raise anything
            if error is reply.thrown:
                raise
            self._note_unsent(client)
            failure = self._error(error, client, reply)
        else:
            return self._reply(reply, started)
        finally:
            client.close()
        raise failure  # outside the `except`, whose error would become its context and holds the raw response

    def _hold_of(self, request: Request) -> Hold:
        """Return the text to hold back. Thoughts do not begin as JSON, so that JSON streams until they are known."""
        if self._thinks:
            return "everything"
        if request.json_schema is not None:
            return "unless JSON"
        return "nothing" if self._thinks is False else "everything"

    def _note_unsent(self, client: SingleRequestClient) -> None:
        """Mark the attempt as not sent if there was no connection to send it on."""
        reservation = budget.attempt.get()
        if reservation is not None and self._takes_client and not client.connected:
            reservation.sent = False

    def _error(self, error: Exception, client: SingleRequestClient, reply: ReplyBuilder) -> ModelError:
        """Return the error of our tree, with litellm's exception as its cause, keys masked."""
        mask = reply.mask.also(client.secrets)
        text = "" if reply.finish else reply.text
        failure = model_error(error, self.info, client, mask, text=text, answered=reply.answered)
        names = other_name(client)
        if names is not None and names[1] not in self._renamed:
            failure = self._rename(*names)
        failure.__cause__ = redacted_chain(error, mask)
        return failure

    def _rename(self, refused: str, taken: str) -> ModelError:
        self._renamed = {refused: taken}
        return ParameterNameError(
            f"{self.info.id!r} takes {taken!r} in place of {refused!r}, and is asked again with it",
            model=self.info.id,
            retry_after=0.0,
        )

    def _arguments(self, request: Request, client: SingleRequestClient, *, stream: bool) -> dict[str, Any]:
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
            arguments["client"] = client
        arguments |= _params(request)
        extra = request.extra
        if self._own_server and request.reasoning_effort:  # litellm does not know which of its models support it
            extra = {"reasoning_effort": arguments.pop("reasoning_effort"), **extra}
        if self._takes_client:
            client.extra, client.renamed = extra, self._renamed
        elif extra:
            arguments["extra_body"] = extra
        if request.json_schema is not None:
            arguments["response_format"] = _response_format(request)
        if stream:
            arguments["stream"] = True
            arguments["stream_options"] = {"include_usage": True}
        return arguments

    def _reply(self, reply: ReplyBuilder, started: float) -> Reply:
        finish, text, usage = reply.finish, reply.text, reply.usage()
        if finish is None or finish == "unknown":
            raise self._unfinished(reply)
        if self._learns or reply.closed:  # a server writes such thoughts always or never
            self._thinks = reply.closed
        return Reply(
            text=text,
            finish_reason=finish,
            usage=usage,
            asked=self.info.id,
            served=reply.served or self._served_as or self.info.id,
            cost=None if self.info.price is None else self.info.price.of(usage),
            latency=time.perf_counter() - started,
            first_token=None if reply.first is None else reply.first - started,
        )

    def _unfinished(self, reply: ReplyBuilder) -> BadResponseError:
        if reply.finish is None:
            why = f"the reply of {self.info.id!r} broke off without a finish reason"
            return BadResponseError(why, model=self.info.id, text=reply.text)
        why = f"the reply of {self.info.id!r} broke off with the unknown finish reason {reply.said!r}"
        return BadResponseError(why, model=self.info.id)


async def warm() -> None:
    """Load litellm, which takes seconds, before the first call needs it."""
    await _LIBRARY.ready()


async def close_all() -> None:
    """Close the connections of this loop and litellm's own clients, if litellm has been loaded."""
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
    """Return the content of a message in OpenAI's format, which litellm converts for other providers."""
    return [_part(part) for part in message.parts] if message.files else message.content


def _part(part: str | File) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.url}}
    return {"type": "file", "file": {"file_data": part.url, "filename": part.name or "document.pdf"}}


def _response_format(request: Request) -> dict[str, Any]:
    if request.json_mode == "object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.json_schema, "strict": True}}


@dataclass(frozen=True)
class _Loaded:
    """The parts of litellm in use, and an HTTP session per event loop."""

    acompletion: Any
    client_type: type
    ssl: "ssl.SSLContext | bool"
    sessions: dict[asyncio.AbstractEventLoop, "aiohttp.ClientSession"] = field(default_factory=dict)

    def client(self, most: int) -> SingleRequestClient:
        made: SingleRequestClient = self.client_type(self._session(), most)
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
    """Return a session without limits of concurrency and time, which the wrappers set, but for connecting."""
    import aiohttp

    async def connected(session: object, context: Any, params: object) -> None:
        mark_connected(context.trace_request_ctx)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    trace.on_connection_reuseconn.append(connected)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl, ttl_dns_cache=300),
        timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECTING, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        auto_decompress=False,
        trust_env=False,
    )


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
    """Import litellm with everything but the call itself turned off."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[_PLAIN_HTTP] = "True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm
        from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, get_ssl_configuration

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        loaded = _Loaded(
            acompletion=_quiet(litellm.acompletion),
            client_type=type("Client", (SingleRequestClient, AsyncHTTPHandler), {}),  # litellm checks the class
            ssl=get_ssl_configuration(),
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
