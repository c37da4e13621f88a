"""Answers: the replies of one model, from what has been read of them to Reply, whatever brought them."""

import time
from collections.abc import Iterable

from fusion.core.errors import BadResponseError
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import ModelInfo
from fusion.models.providers.reader.reply import ReplyBuilder
from fusion.models.providers.reader.thoughts import Hold
from fusion.models.redaction import Mask


class Answers:
    """Reads the replies of one model, and learns if they begin with thoughts.

    With `thinks`, replies begin with thoughts that only a closing mark ends, so that the text of a stream is held
    back to that mark. None finds that out by the first reply; JSON streams at once until then. `served_as` is the
    name of the model in replies of a server that gives none.
    """

    def __init__(self, info: ModelInfo, *, served_as: str | None = None, thinks: bool | None = False) -> None:
        self._info = info
        self._served_as = served_as
        self._thinks = thinks
        self._learns = thinks is None

    def begin(self, request: Request, on_delta: Deltas | None, mask: Mask, sent: Iterable[str] = ()) -> ReplyBuilder:
        """Return the reader of one reply; keys in `sent` are masked, too."""
        reply = ReplyBuilder(request, on_delta, mask, self._hold_of(request))
        reply.mask_also(sent)
        return reply

    def reply(self, read: ReplyBuilder, started: float) -> Reply:
        """Return the reply that has been read. Raises BadResponseError for one that broke off."""
        finish, usage, info = read.finish, read.usage(), self._info
        if finish is None or finish == "unknown":
            raise self._unfinished(read)
        if self._learns or read.closed:  # a server writes such thoughts always or never
            self._thinks = read.closed
        calls = read.tool_calls
        return Reply(
            text=read.text,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            tool_calls=calls,
            usage=usage,
            asked=info.id,
            served=read.served or self._served_as or info.id,
            cost=None if info.price is None else info.price.of(usage),
            latency=time.perf_counter() - started,
            first_token=None if read.first is None else read.first - started,
        )

    def _hold_of(self, request: Request) -> Hold:
        """Return the text to hold back. Thoughts do not begin as JSON, so that JSON streams until they are known."""
        if self._thinks:
            return "everything"
        if request.json_schema is not None:
            return "unless JSON"
        return "nothing" if self._thinks is False else "everything"

    def _unfinished(self, read: ReplyBuilder) -> BadResponseError:
        model = self._info.id
        if read.finish is None:
            why = f"the reply of {model!r} broke off without a finish reason"
            return BadResponseError(why, model=model, text=read.text)
        return BadResponseError(
            f"the reply of {model!r} broke off with the unknown finish reason {read.said!r}", model=model
        )
