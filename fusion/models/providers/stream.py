"""Parsing of one response, whole or streamed: text, finish reason and usage."""

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from fusion.core.types import Deltas, Usage
from fusion.models.redaction import Mask, StreamMask

if TYPE_CHECKING:
    import aiohttp


_CLASSES: Final = ("input", "cached_read", "cache_write", "output", "reasoning")
_STRAY: Final = 300


class StreamRefusedError(Exception):
    """A stream with status 200 that carries an error in place of a reply."""

    def __init__(self, words: str, status: int) -> None:
        self.status = status
        super().__init__(words)


class NotAStreamError(Exception):
    """A response that is not an event stream; its message is the body."""


class ReplyBuilder:
    """The parts of one reply received so far, with keys masked.

    `thrown` is an exception of the receiver of the chunks, which is not a failure of the model.
    """

    def __init__(self, on_delta: Deltas | None, mask: Mask) -> None:
        self.finish = ""
        self.first: float | None = None
        self.usage: Usage | None = None
        self.begun = False
        self.thrown: Exception | None = None
        self.mask = mask
        self._masked = StreamMask(mask)
        self._served = ""
        self._pieces: list[str] = []
        self._refused = False
        self._on_delta = on_delta

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def served(self) -> str:
        return self.mask.text(self._served)

    def mask_also(self, sent: Iterable[str]) -> None:
        """Mask the keys that the request was sent with, too."""
        known = self.mask.also(sent)
        if known is not self.mask:
            self.mask, self._masked = known, StreamMask(known)

    def close(self) -> None:
        """Add the held-back rest of the text at the end of the response."""
        self._keep(self._masked.end())

    def add_response(self, response: Any) -> None:
        """Add a whole response, in litellm's format."""
        choice = response.choices[0]
        self.begun = True
        self._keep(self._masked.add(choice.message.content or ""))
        self._end_as(choice.finish_reason)
        self._refuse(_refusal(choice.message))
        self._serve(response.model)
        self.usage = _usage(getattr(response, "usage", None))

    def add_chunk(self, chunk: Any) -> None:
        """Add a chunk of a stream, in OpenAI's format: parsed JSON, or an object of litellm."""
        self.begun = True
        self._serve(_of(chunk, "model"))
        for choice in (_of(chunk, "choices") or ())[:1]:
            delta = _of(choice, "delta")
            self.add_text(_of(delta, "content"), _of(choice, "finish_reason"))
            self._refuse(_refusal(delta))
        usage = _of(chunk, "usage")
        if usage is not None:
            self.add_usage(usage)

    def add_text(self, piece: Any, finish: Any) -> None:
        """Add a piece of text and a finish reason, either of which may be missing."""
        if piece and isinstance(piece, str):
            if self.first is None:
                self.first = time.perf_counter()
            self._keep(self._masked.add(piece))
        self._end_as(finish)

    def _refuse(self, words: str) -> None:
        """Add a refusal, which has a field of its own and the finish reason of a normal reply."""
        if words:
            self._refused = True
            self._pieces.append(self._masked.add(words))
        if self._refused and self.finish:
            self.finish = "refusal"

    def _serve(self, model: Any) -> None:
        if model and isinstance(model, str):
            self._served = model

    def _end_as(self, finish: Any) -> None:
        if finish:
            self.finish = str(finish)

    def _keep(self, piece: str) -> None:
        self._pieces.append(piece)
        if piece and self._on_delta is not None:
            self._hand_on(piece, self._on_delta)

    def _hand_on(self, piece: str, on_delta: Deltas) -> None:
        try:
            on_delta.add(piece)
        except Exception as error:
            self.thrown = error
            raise

    def add_usage(self, given: Any) -> None:
        """Add a usage report. Several ones are running totals or single classes, so the maximum counts."""
        new, old = _usage(given), self.usage
        if new is None or old is None:
            self.usage = old if new is None else new
            return
        most = {name: max(getattr(old, name), getattr(new, name)) for name in _CLASSES}
        self.usage = Usage(**most)


async def read_stream(
    stream: Any, reply: ReplyBuilder, *, http: "aiohttp.ClientResponse | None", openai: type
) -> None:
    """Read a stream opened by litellm to its end, in the fastest correct way.

    `http` is the response behind it, if our client has made it; `openai` is litellm's parser of OpenAI's format.
    litellm's wrapper costs 0.6 ms a chunk and its parsers 0.1 ms; OpenAI's format, JSON lines, needs neither.
    """
    chunks: Any = getattr(stream, "completion_stream", None)
    if http is not None and type(chunks) is openai:
        await _read_lines(http, reply)
    elif http is not None and hasattr(chunks, "chunk_parser"):
        async for chunk in chunks:
            if isinstance(chunk, dict):
                _add_generic(chunk, reply)
            else:
                reply.add_chunk(chunk)
    else:
        async for chunk in stream:
            reply.add_chunk(chunk)


async def _read_lines(http: "aiohttp.ClientResponse", reply: ReplyBuilder) -> None:
    """https://developers.openai.com/api/reference/resources/chat/subresources/completions/streaming-events"""
    rest, stray = b"", b""
    async for block in http.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                stray = stray if len(stray) > _STRAY or line.startswith((b":", b"event:", b"id:")) else stray + line
            elif _add_line(line, reply):
                return
    if rest.startswith(b"data:"):
        _add_line(rest, reply)
    elif not reply.begun:
        raise NotAStreamError((stray + rest).decode(errors="replace") or "an empty stream")


def _add_line(line: bytes, reply: ReplyBuilder) -> bool:
    """Add one line of data; return True for the end mark."""
    data = line[5:].strip()
    if data == b"[DONE]":
        return True
    chunk = json.loads(data)
    error = chunk.get("error")
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise StreamRefusedError(json.dumps({"error": error}), status)
    reply.add_chunk(chunk)
    return False


def _add_generic(chunk: dict[str, Any], reply: ReplyBuilder) -> None:
    """Add a chunk in the format of some of litellm's parsers."""
    reply.add_text(chunk.get("text"), chunk.get("finish_reason") if chunk.get("is_finished") else None)
    if chunk.get("usage"):
        reply.add_usage(chunk["usage"])


def _of(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _refusal(message: Any) -> str:
    """https://platform.openai.com/docs/guides/structured-outputs#refusals"""
    text = _of(message, "refusal") or _of(_of(message, "provider_specific_fields"), "refusal")
    return text if isinstance(text, str) else ""


def _usage(given: Any) -> Usage | None:
    """Parse a usage in OpenAI's format, which litellm converts all others to; None if there is none."""
    if given is None:
        return None
    details = _of(given, "prompt_tokens_details")
    read = _of(details, "cached_tokens") or _of(given, "cache_read_input_tokens") or 0
    written = _of(given, "cache_creation_input_tokens") or _of(details, "cache_creation_tokens") or 0
    usage = Usage(
        input=_of(given, "prompt_tokens") or 0,
        cached_read=read,
        cache_write=written,
        output=_of(given, "completion_tokens") or 0,
        reasoning=_of(_of(given, "completion_tokens_details"), "reasoning_tokens") or 0,
    )
    return usage if usage.total else None
