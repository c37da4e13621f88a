"""The values that travel through a run: messages, requests, replies, items, and what they cost.

Money is a Decimal of US dollars. Times are seconds. Tokens are whole numbers.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

_TOKENS_OF_A_PAGE = 8000
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")

JsonSchema = dict[str, Any]
JsonMode = Literal["schema", "object"]
FileKind = Literal["image", "pdf"]
FinishReason = Literal["stop", "length", "content_filter"]
Reuse = Literal["journal", "other run", "cache"]
Money = Decimal


class Value(BaseModel):
    """A frozen value: what is not declared is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, but nothing comes along that was worked out of the fields and kept beside them."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


def _in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class File(Value):
    """A picture or a PDF document for a model to look at. `media_type` is that of its bytes: `image/png`."""

    media_type: str
    data: Annotated[bytes, PlainSerializer(_in_base64, when_used="json")]
    name: str = ""

    @property
    def kind(self) -> FileKind:
        return "pdf" if self.media_type == "application/pdf" else "image"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of type and bytes."""
        return hashlib.sha256(self.media_type.encode() + b"\n" + self.data).hexdigest()

    @cached_property
    def size(self) -> int:
        """How many tokens no model makes more of: 8,000 of a picture or page, that is about four times the usual."""
        pages = max(1, len(_PAGE.findall(self.data))) if self.kind == "pdf" else 1
        return _TOKENS_OF_A_PAGE * pages

    @property
    def url(self) -> str:
        """Its bytes as a data URL."""
        return f"data:{self.media_type};base64,{_in_base64(self.data)}"

    def __str__(self) -> str:
        return f"[{self.name or self.kind}: {self.media_type}, {len(self.data):,} bytes]"


class Message(Value):
    """One message of a conversation with a model.

    `files` are pictures and documents, each with the character of `content` that it stands before.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    files: tuple[tuple[int, File], ...] = ()

    @cached_property
    def size(self) -> int:
        """The bytes of its content in UTF-8, and the most tokens of its files: no model makes more tokens of it."""
        return len(self.content.encode()) + sum(file.size for _, file in self.files)

    @property
    def parts(self) -> list[str | File]:
        """Its text and its files in their order."""
        found: list[str | File] = []
        begin = 0
        for at, file in self.files:
            found += [self.content[begin:at], file]
            begin = at
        return [part for part in (*found, self.content[begin:]) if part]


class CallKey(Value):
    """What a call is, whenever and however often it is made: its place in the run and a digest of its content.

    `digest` is the SHA-256 (hex) of model, parameters, messages, output limit and schema.
    """

    stage: str
    item: int | None = None
    step: str
    digest: str


class Request(Value):
    """What is asked of a model in one call.

    `max_tokens` limits the output, thinking included; `thinking_budget` is the part of it to think with. `timeout` is
    in seconds and counts for each attempt from the moment it has its slot. `extra` are further fields of the
    request's body, in the provider's words. `json_schema` is the shape that the reply has to have, `json_mode` how
    it is asked for: under a strict schema, or as any JSON object. `key` and `sample` are not sent: `sample` numbers
    those that are to have answers of their own though they ask the same.
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
    key: CallKey | None = None
    sample: int = 0


class Usage(Value):
    """Tokens of one call or of many; `source` says whether the provider measured them or we estimated them.

    `input` holds the cached tokens too, `output` holds the reasoning tokens too.
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


class Reply(Value):
    """What a model answered.

    `asked` is the model that was asked for, `by` the one of its chain that answered in its place, `served` what the
    provider says it was. `cost` is in dollars, None where the price is unknown (never zero for unknown). `latency`
    and `first_token` are seconds from sending. `reused` says where it comes from if no model was asked now, and
    nothing was paid: from this run's own journal, another run's, or the cache.
    """

    text: str
    finish_reason: FinishReason
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
        """The model that answered."""
        return self.by or self.asked


class Deltas(Protocol):
    """Where the pieces of a streamed reply go.

    `committed` is True once a piece has been acted on for good: from then on no wrapper may try the call again.
    """

    @property
    def committed(self) -> bool: ...

    def add(self, text: str) -> None:
        """Take the next piece."""

    def restart(self) -> None:
        """Forget the pieces so far: the reply begins again from nothing."""


OnDelta = Callable[[str], None]


class FileText(str):
    """A text that was read from a file; `where` names it in messages."""

    __slots__ = ("where",)
    where: str

    def __new__(cls, text: str, where: str) -> "FileText":
        made = super().__new__(cls, text)
        made.where = where
        return made


class Asked(str):
    """A request that came as messages: its text, the pictures and documents with it, and the user's system prompt."""

    __slots__ = ("files", "system")
    files: "tuple[File, ...]"
    system: str

    def __new__(cls, text: str, files: "tuple[File, ...]" = (), system: str = "") -> "Asked":
        made = super().__new__(cls, text)
        made.files, made.system = files, system
        return made


class Failure(Value):
    """Why something has no value. `reason` is the name of the error's kind, `message` says what to do."""

    reason: str
    message: str


class Item(Value):
    """One element of a list that flows between stages.

    `source` is the element as it came into being (a subtask, a row, a chunk) and stays the same from stage to
    stage; `value` is what the last stage made of it, or `failure` why there is none. `by` is the model that wrote
    the value. `needs` holds the indexes of earlier items whose results this one needs.

    In a template the fields of `source` can be read directly: `item.title` is `item.source.title`.
    """

    index: int
    source: Any = None
    value: Any = None
    failure: Failure | None = None
    by: str | None = None
    confidence: float | None = None
    needs: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        return self.failure is None

    def __str__(self) -> str:
        return as_text(self.value)

    def worked(self, value: Any, by: str) -> "Item":
        """The same item with what `by` made of it."""
        return Item(index=self.index, source=self.source, value=value, by=by, needs=self.needs)

    def failed(self, failure: Failure) -> "Item":
        """The same item without a value, and why."""
        return Item(index=self.index, source=self.source, failure=failure, by=self.by, needs=self.needs)


class Limits(Value):
    """What may be spent at most, each limit on its own: dollars, tokens (in and out), calls, seconds."""

    usd: Annotated[Money, Field(gt=0)] | None = Field(default=None, description="Dollars.")
    tokens: int | None = Field(default=None, gt=0, description="Tokens, those asked and those answered.")
    calls: int | None = Field(default=None, gt=0, description="Attempts of calls.")
    seconds: float | None = Field(default=None, gt=0, description="Seconds from the start.")


def as_text(value: Any) -> str:
    """A value as a person would read it: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def whole_text(text: str) -> str:
    """The text with a mark in place of each half of a surrogate pair, which nobody could write down."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def whole_data(data: Any) -> Any:
    """JSON data whose texts are whole."""
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
