"""The one method that every model has, and what is known about a model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Final

from fusion.core.errors import BadResponseError, ContentFilterError
from fusion.core.types import Deltas, FileKind, Message, Money, Reply, Request, Usage, Value, whole_text

_BYTES: Final = 4


class Price(Value):
    """Dollars per token by class of usage. Cached classes fall back to the price of plain input, reasoning to output.

    Some models charge all of a call's tokens at another price, `beyond`, once its input has more than `above` tokens.
    """

    input: Money
    output: Money
    cached_read: Money | None = None
    cache_write: Money | None = None
    reasoning: Money | None = None
    above: int | None = None
    beyond: "Price | None" = None

    def of(self, usage: Usage) -> Decimal:
        """What this usage costs, in dollars."""
        if self.beyond is not None and self.above is not None and usage.input > self.above:
            return self.beyond.of(usage)
        plain = max(usage.input - usage.cached_read - usage.cache_write, 0)
        said = max(usage.output - usage.reasoning, 0)
        read = self.input if self.cached_read is None else self.cached_read
        write = self.input if self.cache_write is None else self.cache_write
        thought = self.output if self.reasoning is None else self.reasoning
        given = self.output * said + thought * usage.reasoning
        return self.input * plain + read * usage.cached_read + write * usage.cache_write + given

    def bound(self, taken: int, given: int) -> Decimal:
        """What a call of so many tokens in and out costs at most, whatever is cached."""
        if self.beyond is not None and self.above is not None and taken > self.above:
            return self.beyond.bound(taken, given)
        dearest = max(self.input, self.cached_read or Decimal(0), self.cache_write or Decimal(0))
        return dearest * taken + max(self.output, self.reasoning or Decimal(0)) * given


class ModelInfo(Value):
    """What is known about a model. `price` is None where it is unknown, which is never the same as free.

    `keys` are the variables without which it cannot be reached; `retires` is the day from which it is not served any
    more. `refuses` names the parameters that it does not take, with `sampling/reasoning` for one that takes
    `temperature` and `top_p` only while it does not reason; `effort` is how much it reasons where nothing is said.

    `takes` is what it can look at beside text, None where nobody knows.

    `family` is whose model it is by its training, whoever serves it: models of one family refuse alike.
    """

    id: str
    provider: str
    price: Price | None = None
    price_source: str = "unknown"
    family: str | None = None
    region: str | None = None
    keys: tuple[str, ...] = ()
    retires: date | None = None
    refuses: frozenset[str] = frozenset()
    effort: str | None = None
    context: int | None = None
    max_output: int | None = None
    json_schema: bool = False
    takes: frozenset[FileKind] | None = None
    local: bool = False


class Model(ABC):
    """Anything that answers a request. The same object serves many calls at once, all on one event loop."""

    info: ModelInfo

    @abstractmethod
    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        """Answer `request`; with `on_delta` the text is handed on in pieces while it comes.

        Raises a ModelError when there is no answer. An answer cut off at `max_tokens` is a Reply whose
        `finish_reason` is "length".
        """

    async def close(self) -> None:  # noqa: B027 - most models hold nothing
        """Give back sockets and processes."""


class ModelWrapper(Model):
    """A model around a model: changes one thing about a call and leaves the rest."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.info = inner.info

    async def close(self) -> None:
        await self.inner.close()


class Heard:
    """Hands the pieces of a reply on, and knows whether any came (`any`) since the reply last began."""

    def __init__(self, to: Deltas) -> None:
        self.any = False
        self._to = to

    @property
    def committed(self) -> bool:
        return self._to.committed

    def add(self, text: str) -> None:
        self.any = True
        self._to.add(whole_text(text))

    def restart(self) -> None:
        self.any = False
        self._to.restart()


def input_bound(request: Request) -> int:
    """No tokenizer makes more tokens of a text than it has bytes: that, and what a chat format adds, is the most."""
    return 64 + sum([message.size + 16 for message in request.messages]) + _schema_bytes(request)


def _schema_bytes(request: Request) -> int:
    return len(repr(request.json_schema)) if request.json_schema else 0


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: four bytes each, the mean of English under today's tokenizers."""
    return -(-len(text.encode(errors="replace")) // _BYTES)


def estimate_input(messages: Sequence[Message]) -> int:
    """About how many tokens these messages have."""
    return sum([-(-message.size // _BYTES) for message in messages])


def is_usable(reply: Reply) -> bool:
    """False for a reply that `check_usable` refuses."""
    return reply.finish_reason != "content_filter" and bool(reply.text.strip())


def check_usable(reply: Reply) -> Reply:
    """The reply if somebody can work with it; raises BadResponseError or ContentFilterError if not."""
    if reply.finish_reason == "content_filter":
        said = f"; it had said: {reply.text.strip()[:100]!r}" if reply.text.strip() else ""
        raise ContentFilterError(f"{reply.asked!r} cut its answer for its content filter{said}", model=reply.asked)
    if not reply.text.strip():
        raise BadResponseError(
            f"{reply.asked!r} gave an empty answer ({reply.usage.output} output tokens, {reply.finish_reason})",
            model=reply.asked,
        )
    text = whole_text(reply.text)
    return reply if text is reply.text else reply.model_copy(update={"text": text})
