"""Model: the interface of every model, with its info and price."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, cast

from fusion.core.errors import BadResponseError, ContentFilterError, UsageError
from fusion.core.types import (
    Deltas,
    FileKind,
    Message,
    Money,
    Reply,
    Request,
    ToolCall,
    ToolSpec,
    Usage,
    Value,
    whole_text,
)

if TYPE_CHECKING:
    from fusion.models.batches.base import BatchDoor

BYTES_PER_TOKEN: Final = 4
_TOOLS: Final = 600
"""The most tokens that a provider adds to a request with tools."""
_A_TOOL: Final = 64
"""The most tokens of the format around a tool."""
_DAY: Final = 86_400
_UNITS: Final = (
    (120, 1, "s"),
    (7_200, 60, "minutes"),
    (2 * _DAY, 3_600, "hours"),
    (1_000 * _DAY, _DAY, "days"),
    (1_000_000 * _DAY, 365.25 * _DAY, "years"),
)
"""Units of a time: the seconds below which each is used, its length in seconds, and its name."""


class Price(Value):
    """Dollars per token by class of usage. Cached classes default to `input`, `reasoning` to `output`.

    A call with more than `above` tokens of input costs the price `beyond` for all its tokens.
    """

    input: Money
    output: Money
    cached_read: Money | None = None
    cache_write: Money | None = None
    reasoning: Money | None = None
    above: int | None = None
    beyond: "Price | None" = None

    def of(self, usage: Usage) -> Decimal:
        """Return the cost of a usage, in dollars."""
        if self.beyond is not None and self.above is not None and usage.input > self.above:
            return self.beyond.of(usage)
        plain = max(usage.input - usage.cached_read - usage.cache_write, 0)
        written = max(usage.output - usage.reasoning, 0)
        read = self.input if self.cached_read is None else self.cached_read
        write = self.input if self.cache_write is None else self.cache_write
        reasoning = self.output if self.reasoning is None else self.reasoning
        taken = self.input * plain + read * usage.cached_read + write * usage.cache_write
        return taken + self.output * written + reasoning * usage.reasoning

    def uncached(self, usage: Usage) -> Decimal:
        """Return the cost of a usage without a prompt cache: all its input at the price of new input."""
        return self.of(usage.model_copy(update={"cached_read": 0, "cache_write": 0}))

    def bound(self, taken: int, given: int) -> Decimal:
        """Return the most that a call with so many tokens of input and output can cost, in dollars."""
        if self.beyond is not None and self.above is not None and taken > self.above:
            return self.beyond.bound(taken, given)
        dearest, dearest_output = self._dearest
        return dearest * taken + dearest_output * given

    @cached_property
    def _dearest(self) -> tuple[Decimal, Decimal]:
        """The highest prices of a token, in and out."""
        none = Decimal(0)
        return max(self.input, self.cached_read or none, self.cache_write or none), max(
            self.output, self.reasoning or none
        )


class ModelInfo(Value):
    """Facts about a model. `price` is None if it is unknown, which is not the same as free.

    `keys` are the environment variables required to reach it; `retires` is the first day without service. `refuses`
    names unsupported parameters; `sampling/reasoning` stands for a model that takes `temperature` and `top_p` only
    while it does not reason. `effort` is its default reasoning effort. `context` and `max_output` are in tokens.
    `takes` are the kinds of files it reads; None if unknown. `family` is the vendor's line of models on any provider:
    models of one family refuse the same parameters. `thinking` is for a model that adapts its reasoning to an effort:
    it reasons when `asked`, by `default`, or `always`. `mode` is its API in the price file, such as `chat`.
    `batch_price` is the price in the provider's batches; None if it is a share of `price`, or unknown.
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
    thinking: Literal["asked", "default", "always"] | None = None
    mode: str | None = None
    batch_price: Price | None = None

    @property
    def priced_by(self) -> str:
        """The origin of the price: `own info` for one given without a source."""
        return "own info" if self.price is not None and self.price_source == "unknown" else self.price_source


class _ClassInfo:
    """The info of a model whose class states none: named by its class, of unknown price."""

    def __get__(self, model: object, of: type) -> ModelInfo:
        return ModelInfo(id=of.__name__, provider="own")


class Model(ABC):
    """A model that answers requests. One object serves many concurrent calls on one event loop.

    `info` has its id, price and abilities; by default the id is the name of the class, and the price is unknown.
    """

    info: ModelInfo = cast(ModelInfo, _ClassInfo())

    @abstractmethod
    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        """Return the reply to a request; with `on_delta`, stream its text in chunks too.

        A reply truncated at `max_tokens` has the `finish_reason` "length". Raises ModelError without a reply.
        """

    def batch_door(self) -> "BatchDoor | None":
        """Return the batch API of the model; None if it has none."""
        return None

    async def ready(self) -> None:  # noqa: B027 - most models need nothing
        """Load what the first call needs; the time it takes is part of no call."""

    async def close(self) -> None:  # noqa: B027 - most models hold no resources
        """Release sockets and processes."""


def checked(model: Model) -> Model:
    """Return a model of the user. Raises UsageError if its `info` is no ModelInfo."""
    name = type(model).__name__
    if not isinstance(model, Model):
        raise UsageError(f"{name} is no model: give an object of a subclass of `fusion.Model`")
    if not isinstance(model.info, ModelInfo):
        raise UsageError(
            f"`info` of the model {name} is {type(model.info).__name__}: give it as ModelInfo(id=..., provider=...)"
        )
    return model


class ModelWrapper(Model):
    """Base of models that wrap another one and change one aspect of its calls."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.info = inner.info

    async def ready(self) -> None:
        await self.inner.ready()

    async def close(self) -> None:
        await self.inner.close()


class TrackedDeltas:
    """Forwards the chunks of a reply; `any` is True once one has arrived since the last restart."""

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
    """Return an upper bound of the input tokens: bytes, since no token is shorter, plus the chat format."""
    schema = len(repr(request.json_schema)) if request.json_schema else 0
    tools = tools_bound(request.tools) if request.tools else 0
    return 64 + sum([message.size + 16 for message in request.messages]) + schema + tools


def tools_bound(tools: Sequence[ToolSpec]) -> int:
    """Return an upper bound of the input tokens of tools: bytes, plus the format around them."""
    return _TOOLS + sum(len(json.dumps(tool.model_dump())) + _A_TOOL for tool in tools) if tools else 0


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text: four bytes each, the mean of English with current tokenizers."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def estimate_input(messages: Sequence[Message]) -> int:
    """Estimate the tokens of messages."""
    return sum([-(-message.size // BYTES_PER_TOKEN) for message in messages])


def estimate_request(request: Request) -> int:
    """Estimate the input tokens of a request: those of its messages and tools."""
    tools = sum([estimate_tokens(tool.model_dump_json()) for tool in request.tools])
    return estimate_input(request.messages) + tools


def estimate_usage(request: Request, text: str, calls: Sequence[ToolCall] = ()) -> Usage:
    """Estimate the usage of a call from its request, the text of its reply, and the calls of tools in it."""
    said = text + "".join(f"{call.name}{call.arguments}" for call in calls)
    return Usage(input=estimate_request(request), output=estimate_tokens(said), source="estimated")


def in_words(seconds: float) -> str:
    """Return a time from now for people.

    >>> in_words(5400)
    'in 90 minutes'
    """
    for most, size, unit in _UNITS:
        if seconds < most:
            return f"in {seconds:.3g} s" if size == 1 else f"in {seconds / size:.0f} {unit}"
    return "in years"


def is_usable(reply: Reply) -> bool:
    """Return False for a reply that `check_usable` rejects."""
    return reply.finish_reason != "content_filter" and _says_something(reply)


def _says_something(reply: Reply) -> bool:
    return bool(reply.text.strip() or reply.tool_calls)


def check_usable(reply: Reply) -> Reply:
    """Return a usable reply. Raises ContentFilterError if it is filtered, BadResponseError if it is empty."""
    if reply.finish_reason == "content_filter":
        text = f"; its text so far: {reply.text.strip()[:100]!r}" if reply.text.strip() else ""
        raise ContentFilterError(
            f"the content filter of {reply.asked!r} truncated the reply{text}", model=reply.asked
        )
    if not _says_something(reply):
        raise BadResponseError(
            f"{reply.asked!r} gave an empty answer ({reply.usage.output} output tokens, {reply.finish_reason})",
            model=reply.asked,
        )
    whole = whole_text(reply.text)
    return reply if whole is reply.text else reply.model_copy(update={"text": whole})
