"""ReplyBuilder: one reply as it arrives, whole or in chunks, with its answer, finish reason and usage."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from fusion.core.types import Deltas, Request, ToolCall, Usage
from fusion.models.providers.reader.events import EventDecoder, MalformedError, OversizedError, Payload
from fusion.models.providers.reader.finish import Finish, finish_of, worst
from fusion.models.providers.reader.message import JSON_TOOL, Content, content_of
from fusion.models.providers.reader.messages import MessageFormat
from fusion.models.providers.reader.refusals import refusal_of, words_of
from fusion.models.providers.reader.thoughts import AnswerStream, Hold, parted
from fusion.models.providers.reader.tools import ToolCalls
from fusion.models.providers.reader.usage import Counts
from fusion.models.redaction import Mask, StreamMask

_LEAST_TEXT: Final = 65_536
_TEXT_OF_A_TOKEN: Final = 64
_IN_THREAD: Final = 65_536
"""Bytes from which parsing would hold the event loop too long."""


class ReplyBuilder:
    """The parts of one reply received so far, with keys masked.

    `finish` is the meaning of its finish reason, `said` the reason itself. `thrown` is an exception of the receiver
    of the chunks, which is not a failure of the model. `ended` is True after the last event of a stream. `closed` is
    True if the text held a closing mark of thoughts without an opening one. `tool_calls` are set at the end.
    """

    def __init__(self, request: Request, on_delta: Deltas | None, mask: Mask, hold: Hold = "nothing") -> None:
        self.finish: Finish | None = None
        self.said = ""
        self.first: float | None = None
        self.thrown: Exception | None = None
        self.mask = mask
        self.closed = False
        self._request = request
        self._on_delta = on_delta
        self._stream = None if on_delta is None else AnswerStream(hold)
        self._masked = StreamMask(mask)
        self._given: list[str] = []
        self._pending: list[str] = []
        self._restarts = False
        self._received: list[str] = []
        self._refusal = ""
        self._translated: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self.ended = False
        self._thoughts = 0
        self._counts = Counts()
        self._served = ""
        self._chosen = False
        self._others: set[str] = set()
        self._stray = ""
        self._tool = ""
        self._tools = ToolCalls() if request.tools else None
        self.tool_calls: tuple[ToolCall, ...] = ()
        self._text: str | None = None
        self._left = _LEAST_TEXT + _TEXT_OF_A_TOKEN * request.max_tokens

    @property
    def answered(self) -> bool:
        """True once the model has written something, which the provider may bill."""
        return self._thoughts > 0 or any(self._received)

    @property
    def text(self) -> str:
        """The answer so far, without thoughts."""
        if self._text is not None:
            return self._text
        return self.mask.text(parted("".join(self._received)).answer + self._refusal)

    @property
    def served(self) -> str:
        return self.mask.text(self._served)

    def usage(self) -> Usage:
        """Return the usage, measured or estimated from the answer and the thoughts beside it."""
        unseen = self._thoughts + max(0, sum(map(len, self._received)) - len(self.text))
        return self._counts.usage(self._request, self.text, unseen)

    def mask_also(self, sent: Iterable[str]) -> None:
        """Mask the keys that the request was sent with, too."""
        known = self.mask.also(sent)
        if known is not self.mask:
            self.mask, self._masked = known, StreamMask(known)

    def add(self, payload: Payload) -> None:
        """Add a payload of a body. Raises RefusedError, MalformedError, OversizedError."""
        data = payload.data
        if isinstance(data, list) and payload.whole:  # some gateways wrap an error into a list
            data = data[0] if len(data) == 1 else None
        if not isinstance(data, dict):
            raise MalformedError(f"JSON that is no completion: {payload.data!r:.80}")
        refused = refusal_of(data, payload.event)
        if refused is not None:
            raise refused
        self.ended = data.get("type") == "message_stop"
        self.add_chunk(self._translated(data))
        if payload.whole and not self._chosen:
            raise MalformedError(self._unchosen())

    def read_messages(self) -> None:
        """Read payloads in Anthropic's format from now on."""
        self._translated = MessageFormat().chunk

    def add_chunk(self, data: dict[str, Any]) -> None:
        """Add a completion or a chunk of one; of several choices, the one of index 0."""
        model, usage, choices = data.get("model"), data.get("usage"), data.get("choices")
        self._served = model if model and isinstance(model, str) else self._served
        groq = data.get("x_groq")
        for report in (usage, groq.get("usage") if isinstance(groq, dict) else None):
            if report is not None:
                self._counts.add(report)
        if not choices:
            self._stray = self._stray or words_of({"message": data.get("message"), **data}) or ""
            if usage is None and data.get("object") == "chat.completion.chunk" and "choices" not in data:
                raise MalformedError("a chunk without choices")
        elif isinstance(choices, list) and all(isinstance(one, dict) for one in choices):
            self._add_choices(choices)
        else:
            raise MalformedError(f"choices that are {choices!r:.80}")

    def close(self) -> None:
        """Read the end of the reply: hand the held-back rest of the answer on. Raises MalformedError."""
        if not self._chosen:
            raise MalformedError(self._unchosen())
        if self._others:
            raise MalformedError(f"a choice of index {min(self._others)} that never ends")
        if self._tools is not None:
            self.tool_calls = tuple(map(self._masked_call, self._tools.read()))
        if self._refusal and self.finish is not None:  # a refusal comes with the finish reason of a normal reply
            self.finish = "content_filter"
        if self._stream is None:
            answer, self.closed = parted("".join(self._received))
            self._text = self.mask.text(answer + self._refusal)
            return
        rest, replaces, self.closed = self._stream.end()
        if replaces:
            self._restart()
        self._give(self._masked.add(rest))
        self._give(self._masked.end())
        self._text = "".join(self._given) + self.mask.text(self._refusal)

    def deliver(self) -> None:
        """Hand on what has been read: on the thread of the receiver, whose exceptions are its own."""
        if self._on_delta is None:
            return
        try:
            if self._restarts:
                self._on_delta.restart()
            if self._pending:
                self._on_delta.add("".join(self._pending))
        except Exception as error:
            self.thrown = error
            raise
        self._restarts = False
        self._pending.clear()

    def _add_choices(self, choices: list[dict[str, Any]]) -> None:
        """Add the choice of index 0; note the others, each of which has to end."""
        for choice in choices:
            index = choice.get("index")
            if index in (0, None, "0"):
                self._add_choice(choice)
                return
            if choice.get("finish_reason") is None:
                self._others.add(repr(index))
            else:
                self._others.discard(repr(index))

    def _add_choice(self, choice: dict[str, Any]) -> None:
        delta, message, reason = choice.get("delta"), choice.get("message"), choice.get("finish_reason")
        if delta is None and message is None and "text" not in choice and (reason is None or _holds_message(choice)):
            raise MalformedError("a choice without content")
        self._chosen = True
        if not isinstance(delta or message or {}, dict):
            raise MalformedError(f"a message that is {delta or message!r:.80}")
        content = content_of(delta or message or {"content": choice.get("text")})
        if self._tools is not None:
            self._left -= self._tools.add((delta or message or {}).get("tool_calls"))
        if not delta and message and self._received:
            content = self._rest_of(content)
        self._add_content(content)
        self._end_as(reason)
        if choice.get("usage") is not None:
            self._counts.add(choice["usage"])

    def _rest_of(self, content: Content) -> Content:
        """Return what a whole message adds to the pieces of a stream that it repeats. Raises MalformedError."""
        so_far = "".join(self._received)
        if not content.text:
            return content
        if not content.text.startswith(so_far):
            raise MalformedError("a stream whose last message contradicts its pieces")
        return content._replace(text=content.text[len(so_far) :], thoughts=0)

    def _add_content(self, content: Content) -> None:
        self._left -= len(content.text) + content.thoughts + len(content.refusal)
        if self._left < 0:
            raise OversizedError(f"far more text than `max_tokens` of {self._request.max_tokens} allows")
        self._tool = content.tool or self._tool
        if self._tool == JSON_TOOL:
            content = content._replace(text=content.text + content.arguments)
        self._thoughts += content.thoughts
        self._refusal += content.refusal
        if content.text:
            if self.first is None:
                self.first = time.perf_counter()
            self._received.append(content.text)
            if self._stream is not None:
                self._give(self._masked.add(self._stream.add(content.text)))

    def _end_as(self, reason: Any) -> None:
        if reason is None:
            return
        found = worst(self.finish, finish_of(reason))
        if found != self.finish:
            self.said = self.mask.text(str(reason))[:80]
        self.finish = found

    def _masked_call(self, call: ToolCall) -> ToolCall:
        return call.model_copy(update={"arguments": self.mask.text(call.arguments)})

    def _give(self, piece: str) -> None:
        self._given.append(piece)
        if piece and self._on_delta is not None:
            self._pending.append(piece)

    def _restart(self) -> None:
        """Take back thoughts that were handed on as an answer. Raises MalformedError if they are in use."""
        assert self._on_delta is not None
        if self._on_delta.committed:
            raise MalformedError("thoughts without an opening mark, of which a part is already in use")
        self._given.clear()
        self._pending.clear()
        self._masked = StreamMask(self.mask)
        self._restarts = True

    def _unchosen(self) -> str:
        return f"no choices; the server says: {self._stray}" if self._stray else "no choices"


def _holds_message(choice: dict[str, Any]) -> bool:
    return any(isinstance(value, dict) and "content" in value for value in choice.values())


async def read(blocks: AsyncIterator[bytes], reply: ReplyBuilder) -> None:
    """Read the blocks of a body to its end, or to its end mark. Large parts are read in a thread."""
    decoder, size = EventDecoder(), 0
    async for block in blocks:
        size += len(block)
        for payload in decoder.feed(block):
            await _add(reply, payload)
        if decoder.ended or reply.ended:
            break
    large = size > _IN_THREAD
    for payload in await asyncio.to_thread(list, decoder.end()) if large else decoder.end():
        await _add(reply, payload)
    await asyncio.to_thread(reply.close) if large else reply.close()
    reply.deliver()


async def _add(reply: ReplyBuilder, payload: Payload) -> None:
    await asyncio.to_thread(reply.add, payload) if payload.size > _IN_THREAD else reply.add(payload)
    reply.deliver()
