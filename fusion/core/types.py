"""Values of a run: messages, requests, replies, usage, items and limits.

Money is a Decimal of US dollars. Times are seconds. Tokens are whole numbers.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

_TOKENS_OF_A_PAGE = 8000
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")

JsonSchema = dict[str, Any]
JsonMode = Literal["schema", "object"]
FileKind = Literal["image", "pdf"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
Reuse = Literal["journal", "other run", "cache"]
OnOutage = Literal["wait", "fail"]
Hedge = Literal["off", "auto"]
Money = Decimal


class Value(BaseModel):
    """A frozen pydantic model that rejects undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy as pydantic does, without the cached properties of the original."""
        fields = type(self).__pydantic_fields__
        own = {name: value for name, value in self.__dict__.items() if name in fields}
        copied = type(self).__new__(type(self))
        _set(copied, "__dict__", {**(deepcopy(own) if deep else own), **(update or {})})
        _set(copied, "__pydantic_fields_set__", self.model_fields_set.union(update or ()))
        _set(copied, "__pydantic_extra__", None)  # no value has any, nor private attributes
        _set(copied, "__pydantic_private__", None)
        return copied


_set: Final = object.__setattr__


def _in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class File(Value):
    """An image or a PDF document for a model. `media_type` is a MIME type such as `image/png`."""

    media_type: str
    data: Annotated[bytes, PlainSerializer(_in_base64, when_used="json")]
    name: str = ""

    @property
    def kind(self) -> FileKind:
        return "pdf" if self.media_type == "application/pdf" else "image"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of media type and bytes."""
        return hashlib.sha256(self.media_type.encode() + b"\n" + self.data).hexdigest()

    @cached_property
    def size(self) -> int:
        """An upper bound of its tokens: 8,000 for each image or page, about four times the usual count."""
        pages = max(1, len(_PAGE.findall(self.data))) if self.kind == "pdf" else 1
        return _TOKENS_OF_A_PAGE * pages

    @property
    def url(self) -> str:
        """The bytes as a data URL."""
        return f"data:{self.media_type};base64,{_in_base64(self.data)}"

    def __str__(self) -> str:
        return f"[{self.name or self.kind}: {self.media_type}, {len(self.data):,} bytes]"


class ToolSpec(Value):
    """A tool that a model may call. `parameters` is the JSON Schema of its arguments, an object."""

    name: str
    description: str = ""
    parameters: JsonSchema = Field(default_factory=dict)


class ToolCall(Value):
    """A call of a tool by a model. `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Value):
    """One message of a conversation with a model.

    `files` holds pairs of an offset into `content`, in characters, and the file inserted there. `tool_calls` are
    those of an assistant; a message of role `tool` holds the result of the call `tool_call_id`. The first `stable`
    characters of `content` are equal in all calls of a stage, for the provider's prompt cache.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    files: tuple[tuple[int, File], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    stable: int = Field(default=0, exclude=True, repr=False)

    @cached_property
    def size(self) -> int:
        """An upper bound of its tokens: the UTF-8 bytes of `content` plus the bounds of its files."""
        return len(self.content.encode()) + sum(file.size for _, file in self.files)

    @property
    def parts(self) -> list[str | File]:
        """Text and files in order; empty texts are left out."""
        found: list[str | File] = []
        begin = 0
        for at, file in self.files:
            found += [self.content[begin:at], file]
            begin = at
        return [part for part in (*found, self.content[begin:]) if part]


class CallKey(Value):
    """Identity of a call, stable across sessions: its place in the run and a digest of its content.

    `stage` is a path, `item` an index, `step` the step within the item. `digest` is the SHA-256 (hex) of model,
    parameters, messages, output limit and schema.
    """

    stage: str
    item: int | None = None
    step: str
    digest: str


class Request(Value):
    """A request to a model.

    `max_tokens` limits the output, reasoning included; `thinking_budget` is the part of it for reasoning. `timeout`
    is in seconds for each attempt, measured from the moment it gets its slot. `extra` holds further fields of the
    HTTP body, named as the provider does. `json_schema` is the schema of the reply. `json_mode` is "schema" for the
    provider's strict mode, "object" for any JSON object. `tools` are the tools that the model may call, and
    `tool_choice` is "auto", "none", "required" or the name of one. `cache_key` names the provider's prompt cache to
    use; it changes no reply. `key`, `sample`, `on_outage` and `patience` are not sent; `sample` tells requests apart
    that ask the same and need replies of their own. `on_outage` says if a call waits while its last model is down, or
    fails. `patience` is the seconds for which failed attempts are repeated.
    """

    messages: tuple[Message, ...]
    max_tokens: int = Field(gt=0)
    timeout: float = Field(default=120.0, gt=0)
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None
    thinking_budget: int | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    json_schema: JsonSchema | None = None
    json_mode: JsonMode = "schema"
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    cache_key: str | None = None
    key: CallKey | None = None
    sample: int = 0
    on_outage: OnOutage = "wait"
    patience: float = Field(default=300.0, ge=0)


class Usage(Value):
    """Tokens of one or more calls, measured by the provider or estimated here.

    `input` includes `cached_read` and `cache_write`; `output` includes `reasoning`.
    """

    input: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    source: Literal["measured", "estimated"] = "measured"

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input=self.input + other.input,
            cached_read=self.cached_read + other.cached_read,
            cache_write=self.cache_write + other.cache_write,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            source="measured" if self.source == other.source == "measured" else "estimated",
        )


class Waited(Value):
    """Seconds that a call waited before the request was sent that got its reply.

    `library` is the loading of libraries and weights, `budget` the wait for room in a budget, `slot` for a free slot,
    `pause` for a backoff, a rate limit or a provider's outage, and `failed` the duration of failed attempts.
    """

    library: float = 0.0
    budget: float = 0.0
    slot: float = 0.0
    pause: float = 0.0
    failed: float = 0.0


class Reply(Value):
    """A reply of a model.

    `asked` is the requested model, `by` the fallback that replied in its place, `served` the name in the provider's
    response. `cost` is in dollars; None if the price is unknown, never zero for unknown. `latency` and `first_token`
    are seconds since sending. `reused` is the origin of a reply that was not requested now, and is free: the journal
    of this run, another run, or the cache. `tool_calls` are the tools that the model wants called.
    """

    text: str
    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage
    asked: str
    served: str
    by: str | None = None
    cost: Money | None = None
    latency: float = 0.0
    first_token: float | None = None
    reused: Reuse | None = None

    @property
    def writer(self) -> str:
        """The id of the model that replied."""
        return self.by or self.asked


class Deltas(Protocol):
    """Receiver of the chunks of a streamed reply.

    `committed` is True once a chunk has been used irrevocably; from then on no wrapper may retry the call.
    """

    @property
    def committed(self) -> bool: ...

    def add(self, text: str) -> None:
        """Receive the next chunk."""

    def restart(self) -> None:
        """Discard the chunks received so far; the reply starts over."""


OnDelta = Callable[[str], None]


class FileText(str):
    """A text read from a file; `where` names the file in messages."""

    __slots__ = ("where",)
    where: str

    def __new__(cls, text: str, where: str) -> "FileText":
        made = super().__new__(cls, text)
        made.where = where
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # a text and its file, not a text alone
        return str(self), self.where


class Attached(str):
    """A text with files: a template that prints it shows the text, then each file."""

    __slots__ = ("files",)
    files: "tuple[File, ...]"

    def __new__(cls, text: str = "", files: "tuple[File, ...]" = ()) -> Self:
        made = super().__new__(cls, text)
        made.files = files
        return made

    def __bool__(self) -> bool:
        return len(self) > 0 or bool(self.files)

    @property
    def text(self) -> str:
        """The text alone, for a place that takes no files."""
        return str.__str__(self)


class Turn(NamedTuple):
    """An earlier turn of a conversation."""

    role: str
    text: str


class Asked(Attached):
    """A prompt given as chat messages: the last user turn, with the files and the system prompt of the user.

    `conversation` holds the turns before it.
    """

    __slots__ = ("conversation", "system")
    system: str
    conversation: tuple[Turn, ...]

    def __new__(
        cls,
        text: str = "",
        files: "tuple[File, ...]" = (),
        system: str = "",
        conversation: tuple[Turn, ...] = (),
    ) -> Self:
        made = super().__new__(cls, text, files)
        made.system, made.conversation = system, conversation
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.files, self.system


class Failure(Value):
    """A failure as a value. `reason` is the class name of the error; `message` says what to do."""

    reason: str
    message: str


class Item(Value):
    """One element of a list that flows between stages.

    `source` is the original element (a subtask, a row, a chunk) and stays the same from stage to stage. `value` is
    the result of the last stage; `failure` is set instead if it failed. `by` is the id of the model that wrote the
    value, `confidence` is from 0 to 1. `needs` holds the indexes of earlier items whose results this one reads.
    `shown` is the text that the value was written from: the user messages of its call. It is kept only while a later
    template reads it, and is no part of JSON data.

    Templates read the fields of `source` directly: `item.title` is `item.source.title`. A field of the item itself
    comes before a field of `source` with the same name.
    """

    index: int
    source: Any = None
    value: Any = None
    failure: Failure | None = None
    by: str | None = None
    confidence: float | None = None
    needs: tuple[int, ...] = ()
    shown: Any = Field(default=None, exclude=True, repr=False)

    @property
    def ok(self) -> bool:
        return self.failure is None

    def __str__(self) -> str:
        return as_text(self.value)

    def worked(self, value: Any, by: str, shown: "Attached | None" = None) -> "Item":
        """Return the item with the value that the model `by` wrote, from `shown` if it is given."""
        given = self.shown if shown is None else shown
        return Item(index=self.index, source=self.source, value=value, by=by, needs=self.needs, shown=given)

    def failed(self, failure: Failure) -> "Item":
        """Return the item with a failure in place of its value."""
        return Item(index=self.index, source=self.source, failure=failure, by=self.by, needs=self.needs)


ITEM_FIELDS: Final = frozenset(Item.model_fields) | {"ok"}
"""Fields of an item itself: they come before the fields of its source."""


class Limits(Value):
    """Spending limits, each optional and independent of the others."""

    usd: Annotated[Money, Field(gt=0)] | None = Field(default=None, description="Dollars.")
    tokens: int | None = Field(default=None, gt=0, description="Tokens, input and output.")
    calls: int | None = Field(default=None, gt=0, description="Requests sent, refused ones too.")
    seconds: float | None = Field(default=None, gt=0, description="Seconds from the start.")

    def tighter(self, other: "Limits") -> "Limits":
        """Return the lower limit of the two for each unit."""
        given = [limits.model_dump(exclude_none=True) for limits in (self, other)]
        return Limits(**{name: min(one[name] for one in given if name in one) for one in given for name in one})


def as_text(value: Any) -> str:
    """Return text unchanged and any other value as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def whole_text(text: str) -> str:
    """Return the text with U+FFFD in place of each lone surrogate, which UTF-8 cannot encode."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def whole_data(data: Any) -> Any:
    """Return JSON data without lone surrogates."""
    text = json.dumps(data, ensure_ascii=False)
    whole = whole_text(text)
    return data if whole is text else json.loads(whole)


def _plain(value: Any) -> Any:
    if isinstance(value, File):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
