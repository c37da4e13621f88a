"""ScriptedModel: replies from a script, for tests, examples and measurements without a provider."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fusion.core.errors import BadRequestError, BadResponseError, UsageError
from fusion.core.types import Deltas, FinishReason, Reply, Request, ToolCall, Usage, as_text
from fusion.models.base import BYTES_PER_TOKEN, Model, ModelInfo, Price, estimate_usage

_FREE: Final = Price(input=Decimal(0), output=Decimal(0))


@dataclass(frozen=True, slots=True)
class Say:
    """One scripted reply.

    `pieces` is a stream in place of `text`: strings, or pairs of a delay in seconds and a string. `delay` comes
    first, in addition to that of the model. `finish_reason` None breaks the stream: BadResponseError after the last
    piece. `error` is raised after the last piece. `usage` is the measured usage; by default it is estimated.
    `tool_calls` are the tools that it wants called.
    """

    text: str = ""
    delay: float = 0.0
    pieces: Sequence[str | tuple[float, str]] | None = None
    finish_reason: FinishReason | None = "stop"
    usage: Usage | None = None
    error: Exception | None = None
    tool_calls: Sequence[ToolCall] = ()

    def __post_init__(self) -> None:
        if self.text and self.pieces is not None:
            raise UsageError("a Say has `text` or `pieces`, not both: the text of a stream is that of its pieces")

    def stream(self) -> list[tuple[float, str]]:
        """Return the pieces, each with the seconds of delay before it."""
        if self.pieces is None:
            return [(0.0, self.text)]
        return [(0.0, piece) if isinstance(piece, str) else piece for piece in self.pieces]


Answer = str | Say | Exception | dict[str, Any]
Script = Answer | Sequence[Answer] | Callable[[Request], Answer | Awaitable[Answer]]


class ScriptedModel(Model):
    """A model that replies from a script and records its requests.

    `script` is one answer for every call, a list with one for each call in order, or a function of the request,
    sync or async. An answer is a text, a Say, an exception to raise, or a dict, which becomes JSON.

    `delay` is in seconds, before every reply. `info` replaces `name` and `price`; the default price is zero. A reply
    longer than the request's `max_tokens` is truncated with finish reason "length", unless `respect_limit` is False.

    `requests` holds all requests in order of arrival. `in_flight` counts the current calls, `peak` their maximum,
    and `cancelled` the cancelled ones.

    >>> model = ScriptedModel(["first", Say("second", finish_reason="length"), RateLimitError("slow down")])
    >>> (await model.complete(request)).text
    'first'
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted/model",
        delay: float = 0.0,
        info: ModelInfo | None = None,
        price: Price | None = None,
        respect_limit: bool = True,
    ) -> None:
        if info is not None and price is not None:
            raise UsageError("a ScriptedModel has `info` or `price`, not both: put the price into the info")
        self.info = info or ModelInfo(
            id=name,
            provider=name.partition("/")[0],
            price=price or _FREE,
            price_source="scripted",
            json_schema=True,
        )
        self.requests: list[Request] = []
        self.in_flight = 0
        self.peak = 0
        self.cancelled = 0
        self._next = _reader(script, self.info.id)
        self._delay = delay
        self._respect_limit = respect_limit

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        started = time.perf_counter()
        self.requests.append(request)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            say = self._next(request, len(self.requests))
            if not isinstance(say, Say):
                say = _say(await say)
            return await self._speak(say, request, on_delta, started)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1

    async def _speak(self, say: Say, request: Request, on_delta: Deltas | None, started: float) -> Reply:
        stream, cut = say.stream(), False
        if self._respect_limit:
            stream, cut = _within(request.max_tokens, stream)
        if (pause := self._delay + say.delay) > 0:
            await asyncio.sleep(pause)
        first_token = await _hand_on(stream, on_delta, started)
        text = "".join(piece for _, piece in stream)
        if say.error is not None:
            raise say.error.with_traceback(None)
        finish: FinishReason | None = "length" if cut else say.finish_reason
        if finish is None:
            raise BadResponseError(
                f"the stream of {self.info.id!r} broke off without a finish reason", model=self.info.id, text=text
            )
        if say.tool_calls and finish == "stop":
            finish = "tool_calls"
        usage = say.usage or estimate_usage(request, text, say.tool_calls)
        return Reply(
            text=text,
            finish_reason=finish,
            tool_calls=tuple(say.tool_calls),
            usage=usage,
            asked=self.info.id,
            served=self.info.id,
            cost=None if self.info.price is None else self.info.price.of(usage),
            latency=time.perf_counter() - started,
            first_token=first_token,
        )


def _within(limit: int, stream: list[tuple[float, str]]) -> tuple[list[tuple[float, str]], bool]:
    """Return the stream up to `limit` tokens, and True if it is truncated."""
    if sum([len(piece.encode()) for _, piece in stream]) <= BYTES_PER_TOKEN * limit:
        return stream, False
    kept: list[tuple[float, str]] = []
    left = BYTES_PER_TOKEN * limit
    for wait, piece in stream:
        part = piece.encode()[:left].decode(errors="ignore")
        kept.append((wait, part))
        left -= len(part.encode())
        if part != piece:
            break
    return kept, True


def _reader(script: Script, model: str) -> Callable[[Request, int], Say | Awaitable[Answer]]:
    """Return the function that answers a request, given its number from 1."""
    if callable(script):
        return lambda request, number: _made(script(request))
    if isinstance(script, str | Say | Exception | dict):
        always = _say(script)
        return lambda request, number: always
    says = [_say(answer) for answer in script]

    def in_order(request: Request, number: int) -> Say:
        if number <= len(says):
            return says[number - 1]
        raise BadRequestError(
            f"{model!r} was called {number} times and its script has {len(says)} answers: add the missing ones, or"
            " give a function of the request",
            model=model,
        )

    return in_order


def _made(answer: Answer | Awaitable[Answer]) -> Say | Awaitable[Answer]:
    return answer if inspect.isawaitable(answer) else _say(answer)


def _say(answer: Answer) -> Say:
    if isinstance(answer, Say):
        return answer
    if isinstance(answer, Exception):
        return Say(error=answer)
    return Say(as_text(answer))


async def _hand_on(stream: list[tuple[float, str]], on_delta: Deltas | None, started: float) -> float | None:
    """Send the stream with its delays; return the seconds from `started` to its first piece."""
    first: float | None = None
    for wait, piece in stream:
        if wait > 0:
            await asyncio.sleep(wait)
        if on_delta is not None and piece:
            first = time.perf_counter() - started if first is None else first
            on_delta.add(piece)
    return first
