"""Media: pictures and documents from bytes, files, data URLs and OpenAI-style messages."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from fusion.core.errors import InputError
from fusion.core.types import File, Message

MAX_FILE: Final = 20_000_000
"""The most bytes of a file: the limit of the providers."""

_BEGINNINGS: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"%PDF-": "application/pdf",
}
_TAKEN = "PNG, JPEG, GIF, WebP or PDF"
_HOW = "give it as `@file` on the command line, from Python as a Path, bytes or a data URL"


def file_of(name: str, value: Any) -> Any:
    """Return the File of an input's value; a default of None stays None. Raises InputError."""
    where = f"input {name!r}"
    match value:
        case None | File():
            return value
        case bytes():
            return _file(value, where)
        case Path():
            return file_at(value, where=where)
        case str() if value.startswith("data:"):
            return _of_url(value, where)
    raise InputError(f"{where} is a picture or document; {_HOW}")


def file_at(path: Path, *, where: str) -> File:
    """Return the File of a path; `where` names it in errors. Raises InputError."""
    return _file(_read(path, where), where, path.name)


def turn_of(at: int, message: Any) -> Message:
    """Return the Message of an OpenAI-style message. Raises InputError with its position."""
    where = f"message {at + 1}"
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if role not in ("system", "user", "assistant") or not isinstance(content, (str, list, tuple)):
        raise InputError(f"{where} needs a `role` (system, user or assistant) and a text or parts as `content`")
    if isinstance(content, str):
        return Message(role=role, content=content)
    return _of_parts(role, content, where)


def _of_parts(role: Literal["system", "user", "assistant"], parts: Any, where: str) -> Message:
    text, files = "", []
    for number, part in enumerate(parts, start=1):
        found = _part(part, f"{where}, part {number},")
        if isinstance(found, str):
            text = f"{text}\n\n{found}" if text else found
        elif role != "user":
            raise InputError(f"{where} has the role {role!r}; pictures and documents go in user messages")
        else:
            files.append((len(text), found))
    return Message(role=role, content=text, files=tuple(files))


def _part(part: Any, where: str) -> str | File:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return _of_url(url, where)
        case {"type": "file", "file": {"file_data": str(url), **more}}:
            return _of_url(url, where, str(more.get("filename") or ""))
    raise InputError(f"{where} has an unsupported type; use OpenAI's text, image_url, or file with `file_data`")


def _of_url(url: str, where: str, name: str = "") -> File:
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise InputError(f"{where} is not a base64 data URL (data:image/png;base64,…); URLs are not fetched")
    try:
        return _file(base64.b64decode(data, validate=True), where, name)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where} has invalid base64 data: {error}") from error


def _read(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as error:
        raise InputError(f"{where}: cannot read {str(path)!r}: {error.strerror}") from error


def _file(data: bytes, where: str, name: str = "") -> File:
    """Return the File of these bytes, with the media type of their first bytes."""
    if len(data) > MAX_FILE:
        raise InputError(f"{where} has more than {MAX_FILE / 1e6:,.0f} MB, more than models take; make it smaller")
    known = next((kind for beginning, kind in _BEGINNINGS.items() if data.startswith(beginning)), None)
    if known is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        known = "image/webp"
    if known is None:
        raise InputError(f"{where} has an unsupported type by its first bytes; give {_TAKEN}")
    return File(media_type=known, data=data, name=name)
