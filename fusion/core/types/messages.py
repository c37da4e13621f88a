"""Messages of a conversation with a model, with their files and calls of tools."""

import base64
import hashlib
import re
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from fusion.core.types.value import FileKind, JsonSchema, Value

_TOKENS_OF_A_PAGE = 8000
_AROUND_A_CALL = 32
"""The most tokens of the format around a call of a tool."""
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")


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

    @property
    def size(self) -> int:
        """An upper bound of its tokens: the UTF-8 bytes of `content` and of calls, plus the bounds of its files."""
        text = len(self.content) if self.content.isascii() else len(self.content.encode())
        if self.tool_calls or self.tool_call_id is not None:
            text += self._size_of_calls
        return text + sum([file.size for _, file in self.files]) if self.files else text

    @property
    def _size_of_calls(self) -> int:
        calls = [f"{call.id}{call.name}{call.arguments}" for call in self.tool_calls]
        return sum(len(call.encode()) + _AROUND_A_CALL for call in calls) + len(self.tool_call_id or "")

    @property
    def parts(self) -> list[str | File]:
        """Text and files in order; empty texts are left out."""
        found: list[str | File] = []
        begin = 0
        for at, file in self.files:
            found += [self.content[begin:at], file]
            begin = at
        return [part for part in (*found, self.content[begin:]) if part]
