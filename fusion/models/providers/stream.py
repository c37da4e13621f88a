"""What comes of one answer, whole or streamed: its text, its end, and what it cost in tokens."""

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from fusion.core.types import Deltas, Usage
from fusion.models.redaction import Mask, MaskedPieces

if TYPE_CHECKING:
    import aiohttp


_CLASSES: Final = ("input", "cached_read", "cache_write", "output", "reasoning")
_STRAY: Final = 300


class RefusedInStreamError(Exception):
    """A provider that has said 200 already says in its stream that it will not answer."""

    def __init__(self, words: str, status: int) -> None:
        self.status = status
        super().__init__(words)


class NoStreamError(Exception):
    """What came where a stream was to come."""


class Answer:
    """What has come of one answer, whole or in pieces, without the keys that its mask knows."""

    def __init__(self, on_delta: Deltas | None, mask: Mask) -> None:
        self.finish = ""
        self.first: float | None = None
        self.usage: Usage | None = None
        self.begun = False
        self.thrown: Exception | None = None
        self.mask = mask
        self._masked = MaskedPieces(mask)
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

    def know(self, sent: Iterable[str]) -> None:
        """Mask these keys too, with which the request was sent."""
        known = self.mask.also(sent)
        if known is not self.mask:
            self.mask, self._masked = known, MaskedPieces(known)

    def end(self) -> None:
        """No more will come."""
        self._keep(self._masked.end())

    def take_whole(self, answer: Any) -> None:
        """A whole answer, in litellm's shape."""
        choice = answer.choices[0]
        self.begun = True
        self._keep(self._masked.add(choice.message.content or ""))
        self._end_as(choice.finish_reason)
        self._refuse(_refusal(choice.message))
        self._serve(answer.model)
        self.usage = _usage(getattr(answer, "usage", None))

    def take(self, chunk: Any) -> None:
        """A chunk of a stream, in OpenAI's shape: parsed JSON, or litellm's object."""
        self.begun = True
        self._serve(_of(chunk, "model"))
        for choice in (_of(chunk, "choices") or ())[:1]:
            delta = _of(choice, "delta")
            self.take_piece(_of(delta, "content"), _of(choice, "finish_reason"))
            self._refuse(_refusal(delta))
        usage = _of(chunk, "usage")
        if usage is not None:
            self.take_usage(usage)

    def take_piece(self, piece: Any, finish: Any) -> None:
        if piece and isinstance(piece, str):
            if self.first is None:
                self.first = time.perf_counter()
            self._keep(self._masked.add(piece))
        self._end_as(finish)

    def _refuse(self, words: str) -> None:
        """A refusal comes in a field of its own, and ends as if all were well."""
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
            self.thrown = error  # is its listener's own, and no fault of the model
            raise

    def take_usage(self, given: Any) -> None:
        """Providers that report more than once report what it is so far, or each class once: the most counts."""
        new, old = _usage(given), self.usage
        if new is None or old is None:
            self.usage = old if new is None else new
            return
        most = {name: max(getattr(old, name), getattr(new, name)) for name in _CLASSES}
        self.usage = Usage(**most)


async def listen(stream: Any, answer: Answer, *, http: "aiohttp.ClientResponse | None", openai: type) -> None:
    """Read a stream that litellm has opened to its end, by the shortest way that is right for it.

    `http` is the response behind it, where it is ours, and `openai` litellm's parser of OpenAI's own format.
    litellm's wrapper costs 0.6 ms a chunk, its parsers alone 0.1 ms, and OpenAI's format, which is JSON lines,
    needs neither of them.
    """
    chunks: Any = getattr(stream, "completion_stream", None)
    if http is not None and type(chunks) is openai:
        await _listen_to_lines(http, answer)
    elif http is not None and hasattr(chunks, "chunk_parser"):
        async for chunk in chunks:
            if isinstance(chunk, dict):
                _take_generic(chunk, answer)
            else:
                answer.take(chunk)
    else:
        async for chunk in stream:
            answer.take(chunk)


async def _listen_to_lines(http: "aiohttp.ClientResponse", answer: Answer) -> None:
    """https://developers.openai.com/api/reference/resources/chat/subresources/completions/streaming-events"""
    rest, stray = b"", b""
    async for block in http.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                stray = stray if len(stray) > _STRAY or line.startswith((b":", b"event:", b"id:")) else stray + line
            elif _take_line(line, answer):
                return
    if rest.startswith(b"data:"):
        _take_line(rest, answer)
    elif not answer.begun:
        raise NoStreamError((stray + rest).decode(errors="replace") or "an empty stream")


def _take_line(line: bytes, answer: Answer) -> bool:
    """Take one line of data; True where it is the end mark."""
    data = line[5:].strip()
    if data == b"[DONE]":
        return True
    chunk = json.loads(data)
    error = chunk.get("error")
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise RefusedInStreamError(json.dumps({"error": error}), status)
    answer.take(chunk)
    return False


def _take_generic(chunk: dict[str, Any], answer: Answer) -> None:
    """A chunk in the shape of litellm's own that some of its parsers give."""
    answer.take_piece(chunk.get("text"), chunk.get("finish_reason") if chunk.get("is_finished") else None)
    if chunk.get("usage"):
        answer.take_usage(chunk["usage"])


def _of(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _refusal(message: Any) -> str:
    """https://platform.openai.com/docs/guides/structured-outputs#refusals"""
    said = _of(message, "refusal") or _of(_of(message, "provider_specific_fields"), "refusal")
    return said if isinstance(said, str) else ""


def _usage(given: Any) -> Usage | None:
    """Usage in OpenAI's shape, to which litellm brings all; None where there is none."""
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
