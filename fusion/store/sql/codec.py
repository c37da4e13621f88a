"""Codec: values as columns, in JSON and never pickle. Long texts are compressed.

The type of a column tells them apart: TEXT is the text itself, BLOB is compressed by zlib.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from fusion.core.types import CallKey, Failure, File, Message, Money, Reply, Request, ToolCall, Waited
from fusion.store.encoding import as_json, value_as_json

Packed = str | bytes
Parts = dict[bytes, Packed]
"""Long texts or files, by digest."""

_COMPRESSED_FROM: Final = 1000
_LEVEL: Final = 1
_SHARED_FROM: Final = 200
_SCALAR_NAMES: Final = tuple(
    name
    for name in Request.model_fields
    if name not in ("messages", "key", "extra", "json_schema", "tools", "cache_key")
)
_SCALARS: Final = attrgetter(*_SCALAR_NAMES)
_WAITS: Final = attrgetter(*Waited.model_fields)


def pack(text: str) -> Packed:
    """Encode a text. One that begins with NUL is compressed too: a store may mark with it what is compressed."""
    if len(text) < _COMPRESSED_FROM and not text.startswith("\0"):
        return text
    return zlib.compress(text.encode(), _LEVEL)


def unpack(kept: Packed) -> str:
    """Decode a text."""
    return kept if isinstance(kept, str) else zlib.decompress(kept).decode()


def pack_data(data: Any) -> Packed:
    """Encode JSON data."""
    return pack(as_json(data))


def unpack_data(kept: Packed) -> Any:
    """Decode JSON data."""
    return json.loads(unpack(kept))


def pack_digest(digest: str) -> Packed:
    """Encode a hex digest as bytes, half the size; any other text stays as it is."""
    try:
        packed = bytes.fromhex(digest)
    except ValueError:
        return digest
    return packed if packed.hex() == digest else digest


def unpack_digest(kept: Packed) -> str:
    """Decode a digest."""
    return kept if isinstance(kept, str) else kept.hex()


def pack_money(money: Money | None) -> str | None:
    """Encode dollars exactly, as text."""
    return None if money is None else str(money)


def unpack_money(kept: str | None) -> Money | None:
    """Decode dollars."""
    return None if kept is None else Decimal(kept)


def pack_waited(waited: Waited | None) -> str | None:
    """Encode the waits of a call, in whole microseconds."""
    if waited is None:
        return None
    return as_json([round(seconds * 1_000_000) for seconds in _WAITS(waited)])


def unpack_waited(kept: str | None) -> Waited | None:
    """Decode the waits of a call."""
    if kept is None:
        return None
    return Waited(**{name: us / 1_000_000 for name, us in zip(Waited.model_fields, json.loads(kept), strict=False)})


def pack_failure(failure: Failure | None) -> Packed | None:
    """Encode a failure."""
    return None if failure is None else pack_data({"reason": failure.reason, "message": failure.message})


def unpack_failure(kept: Packed | None) -> Failure | None:
    """Decode a failure."""
    return None if kept is None else Failure(**unpack_data(kept))


def pack_reply(reply: Reply) -> Packed:
    """Encode a whole reply, as the cache stores it."""
    return pack(value_as_json(reply, exclude_defaults=True))


def unpack_reply(kept: Packed) -> Reply:
    """Decode a whole reply."""
    return Reply.model_validate_json(unpack(kept))


def pack_content(reply: Reply | None) -> Packed | None:
    """Encode what a reply says: its text, or its text and calls of tools."""
    if reply is None or not (reply.text or reply.tool_calls):
        return None
    if reply.finish_reason != "tool_calls":
        return pack(reply.text)
    return pack(as_json([reply.text, [[call.id, call.name, call.arguments] for call in reply.tool_calls]]))


def unpack_content(finish: str, kept: Packed | None) -> tuple[str, tuple[ToolCall, ...]]:
    """Decode text and calls of tools of a reply with this finish reason."""
    if kept is None or finish != "tool_calls":
        return "" if kept is None else unpack(kept), ()
    text, calls = unpack_data(kept)
    return text, _calls(calls)


def _calls(kept: Iterable[Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(id=id_, name=name, arguments=arguments) for id_, name, arguments in kept)


# Requests: long texts and files are stored separately, once per run.


def pack_request(
    request: Request, key: CallKey, texts: Parts, files: Parts, digest: Callable[[str], bytes]
) -> Packed:
    """Encode a request of the call `key`; add its long texts and files to `texts` and `files`, by `digest`."""

    def shared(text: str) -> Any:
        if len(text) < _SHARED_FROM:
            return text
        name = digest(text)
        texts[name] = text
        return [name.hex()]

    messages: list[list[Any]] = []
    for message in request.messages:
        packed = [message.role, shared(message.content)]
        for at, file in message.files:
            files[bytes.fromhex(file.digest)] = file.data
            packed.append([at, file.media_type, file.name, file.digest])
        if message.tool_calls or message.tool_call_id is not None:
            packed.append([[call.id, call.name, call.arguments] for call in message.tool_calls])
            packed.append(message.tool_call_id)
        messages.append(packed)
    same_key = request.key is key or request.key == key
    own = True if same_key else request.key and request.key.model_dump()
    return pack(as_json([messages, shared(_terms(request)), own]))


def _terms(request: Request) -> str:
    """Return a request without messages and key, as JSON."""
    if request.extra or request.json_schema is not None or request.tools:
        return _dumped(request)
    return _scalar_terms(*_SCALARS(request))


@lru_cache(maxsize=256, typed=True)
def _scalar_terms(*values: Any) -> str:
    """Return the JSON of scalar fields alone, which rarely differ between calls."""
    return _dumped(Request(messages=(), **dict(zip(_SCALAR_NAMES, values, strict=True))))


def _dumped(request: Request) -> str:
    return request.model_dump_json(exclude={"messages", "key", "cache_key"}, exclude_defaults=True)


def unpack_request(
    kept: Packed, key: CallKey, text_of: Callable[[bytes], str], file_of: Callable[[bytes], bytes]
) -> Request:
    """Decode a request; `text_of` and `file_of` look up the parts stored separately."""
    messages, rest, own = unpack_data(kept)

    def shared(given: Any) -> str:
        return given if isinstance(given, str) else text_of(bytes.fromhex(given[0]))

    def attached(at: int, media_type: str, name: str, digest: str) -> tuple[int, File]:
        return at, File(media_type=media_type, name=name, data=file_of(bytes.fromhex(digest)))

    def message(role: Any, content: Any, *placed: Any) -> Message:
        has_tools = bool(placed) and (placed[-1] is None or isinstance(placed[-1], str))
        *files, calls, answered = placed if has_tools else (*placed, (), None)
        return Message(
            role=role,
            content=shared(content),
            files=tuple(attached(*file) for file in files),
            tool_calls=_calls(calls),
            tool_call_id=answered,
        )

    return Request(
        **json.loads(shared(rest)),
        messages=tuple(message(*packed) for packed in messages),
        key=key if own is True else None if own is None else CallKey(**own),
    )


def text_digest(text: str) -> bytes:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()
