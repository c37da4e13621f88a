"""How values are kept in columns: JSON, never pickle; a text where it is short, a compressed one where it is long.

The type of a column's value says which: TEXT is the text itself, BLOB is zlib's.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from fusion.core.types import CallKey, Failure, File, Message, Money, Reply, Request

Packed = str | bytes
Parts = dict[bytes, Packed]
"""Long texts, or files, by their digests."""

_COMPRESSED_FROM: Final = 1000
_LEVEL: Final = 1
_SHARED_FROM: Final = 200
_EXACT: Final = Context(prec=400)
_SCALAR_NAMES: Final = tuple(
    name for name in Request.model_fields if name not in ("messages", "key", "extra", "json_schema")
)
_SCALARS: Final = attrgetter(*_SCALAR_NAMES)


def pack(text: str) -> Packed:
    """A text as it is kept."""
    if len(text) < _COMPRESSED_FROM:
        return text
    return zlib.compress(text.encode(), _LEVEL)


def unpack(kept: Packed) -> str:
    """The text again."""
    return kept if isinstance(kept, str) else zlib.decompress(kept).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON data")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
_ESCAPING: Final = json.JSONEncoder(separators=(",", ":"), default=_plain)


def as_json(data: Any) -> str:
    """JSON; where half a surrogate pair stands in it, which cannot be written as UTF-8, in escapes."""
    text = _ENCODER.encode(data)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ESCAPING.encode(data)
    return text


def pack_data(data: Any) -> Packed:
    """JSON data as it is kept."""
    return pack(as_json(data))


def unpack_data(kept: Packed) -> Any:
    """The data again."""
    return json.loads(unpack(kept))


def pack_digest(digest: str) -> Packed:
    """A digest in hex takes half the space as bytes."""
    try:
        packed = bytes.fromhex(digest)
    except ValueError:
        return digest
    return packed if packed.hex() == digest else digest


def unpack_digest(kept: Packed) -> str:
    """The digest again."""
    return kept if isinstance(kept, str) else kept.hex()


def pack_money(money: Money | None) -> str | None:
    """Dollars as they are kept, to the last digit."""
    return None if money is None else str(money)


def unpack_money(kept: str | None) -> Money | None:
    """The dollars again."""
    return None if kept is None else Decimal(kept)


def pack_failure(failure: Failure | None) -> Packed | None:
    """A failure as it is kept."""
    return None if failure is None else pack_data({"reason": failure.reason, "message": failure.message})


def unpack_failure(kept: Packed | None) -> Failure | None:
    """The failure again."""
    return None if kept is None else Failure(**unpack_data(kept))


def pack_reply(reply: Reply) -> Packed:
    """A reply as it is kept where it stands alone."""
    return pack(reply.model_dump_json(exclude_defaults=True))


def unpack_reply(kept: Packed) -> Reply:
    """The reply again."""
    return Reply.model_validate_json(unpack(kept))


class DecimalSum:
    """The SQL aggregate `decimal_sum`: adds up money exactly; what is unknown is left out."""

    def __init__(self) -> None:
        self._sum = Decimal(0)

    def step(self, kept: Any, /) -> None:
        if kept is not None:
            self._sum = _EXACT.add(self._sum, Decimal(kept))

    def finalize(self) -> Any:
        return str(self._sum)


# Requests: what is long in them is kept apart, once for a whole run.


def pack_request(
    request: Request, key: CallKey, texts: Parts, files: Parts, digest: Callable[[str], bytes]
) -> Packed:
    """A request of the call `key`; long texts and files go to `texts` and `files`, `digest` names them."""

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
        messages.append(packed)
    own = (
        None
        if request.key is None
        else True
        if request.key is key or request.key == key
        else request.key.model_dump()
    )
    return pack(as_json([messages, shared(_terms(request)), own]))


def _terms(request: Request) -> str:
    """All of a request but its messages and its key, as JSON."""
    if request.extra or request.json_schema is not None:
        return _dumped(request)
    return _scalar_terms(*_SCALARS(request))


@lru_cache(maxsize=256, typed=True)
def _scalar_terms(*values: Any) -> str:
    """The same of scalars alone, which hardly differ from call to call."""
    return _dumped(Request(messages=(), **dict(zip(_SCALAR_NAMES, values, strict=True))))


def _dumped(request: Request) -> str:
    return request.model_dump_json(exclude={"messages", "key"}, exclude_defaults=True)


def unpack_request(
    kept: Packed, key: CallKey, text_of: Callable[[bytes], str], file_of: Callable[[bytes], bytes]
) -> Request:
    """The request again; `text_of` and `file_of` find by digest what is kept apart."""
    messages, rest, own = unpack_data(kept)

    def shared(given: Any) -> str:
        return given if isinstance(given, str) else text_of(bytes.fromhex(given[0]))

    def attached(at: int, media_type: str, name: str, digest: str) -> tuple[int, File]:
        return at, File(media_type=media_type, name=name, data=file_of(bytes.fromhex(digest)))

    return Request(
        **json.loads(shared(rest)),
        messages=tuple(
            Message(role=role, content=shared(content), files=tuple(attached(*file) for file in placed))
            for role, content, *placed in messages
        ),
        key=key if own is True else None if own is None else CallKey(**own),
    )


def text_digest(text: str) -> bytes:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()
