"""Texts with more to them than their characters, and values as text."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Self

from pydantic import BaseModel

from fusion.core.types.messages import File


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


def as_text(value: Any) -> str:
    """Return text unchanged, an amount of money in plain digits, and any other value as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
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
