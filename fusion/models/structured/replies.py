"""Structured output: request a schema, parse the reply, repair slips, and retry once with the errors."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from fusion.core.bounded import clock
from fusion.core.errors import ShapeError
from fusion.core.schema import ClassSchema, validate
from fusion.core.schema.strict_json import DECODER
from fusion.core.types import JsonMode, JsonSchema, Message, Reply, whole_data
from fusion.models.base import ModelInfo
from fusion.models.structured.repair import Read, mended
from fusion.models.structured.strict import strict

Send = Callable[[Sequence[Message]], Awaitable[Reply]]
"""Sends messages as one call."""

MAX_SIZE: Final = 4_000_000
"""Longest reply with data, in characters."""
SECONDS = 5.0
"""Longest reading of a reply with data."""
_WITHOUT_DATA: Final = ("length", "tool_calls")
_MOST_ERRORS: Final = 10
_MOST_FAULTS: Final = 500
_START: Final = re.compile(r"[{\[]")
_JSON_LIKE: Final = re.compile(r"""\{\s*+(?:["'“}]|\w++\s*+:|\Z)|\[\s*+(?:["'“{\[]|\Z)""")


async def complete(send: Send, messages: Sequence[Message], schema: JsonSchema) -> tuple[Reply, Any]:
    """Return the reply and its data, valid against the schema; `send` passes the schema to the model.

    An invalid reply is sent back to the model once, with its errors. A truncated reply, with the finish reason
    "length", and one that calls tools are returned without data. Raises ShapeError if the second one is invalid too.
    """
    reply = await send(messages)
    data, errors = await reading(reply, schema)
    if not errors or reply.finish_reason in _WITHOUT_DATA:
        return reply, data
    reply = await send(_again(messages, reply, errors))
    data, errors = await reading(reply, schema)
    if errors and reply.finish_reason not in _WITHOUT_DATA:
        raise ShapeError(
            f"{reply.writer!r} replied twice with data that violates the schema: {'; '.join(errors)}",
            model=reply.writer,
            text=reply.text,
        )
    return reply, data


def form(schema: JsonSchema, info: ModelInfo) -> tuple[JsonSchema, JsonMode]:
    """Return the schema and the mode for a model: strict if supported, else any JSON object."""
    said = (schema if info.local else strict(schema, info.provider)) if info.json_schema else None
    return (schema, "object") if said is None else (said, "schema")


def shaped(messages: Sequence[Message], schema: JsonSchema, mode: JsonMode) -> Sequence[Message]:
    """Return the messages; in mode "object", with the schema in the system prompt."""
    if mode == "schema":
        return messages
    words = (
        "Answer with one JSON object and nothing else, no explanation and no code fence. "
        "It must hold to this JSON Schema:\n" + json.dumps(schema, ensure_ascii=False)
    )
    return with_system(messages, words)


async def reading(reply: Reply, schema: JsonSchema) -> tuple[Any, list[str]]:
    """Return the data of a reply, or its errors, without holding up the event loop."""
    own_code = isinstance(schema, ClassSchema)  # a class of the user may take any time
    size = MAX_SIZE if own_code else len(reply.text)
    return await clock.run(lambda: read(reply, schema), size=size, seconds=SECONDS)


def read(reply: Reply, schema: JsonSchema) -> tuple[Any, list[str]]:
    """Return the data of a reply, or its errors. A truncated reply is never repaired."""
    if reply.tool_calls:
        return None, ["it calls tools"]
    if reply.finish_reason == "length":
        return None, ["the answer was cut off at its output limit"]
    try:
        data = _data(reply.text, list if schema.get("type") == "array" else dict)
        errors = validate(data, schema)[:_MOST_ERRORS]
    except _UnreadableError as error:
        return None, [str(error)]
    except clock.TimeUpError:
        return None, ["the answer takes too long to read"]
    return (None, errors) if errors else (data, [])


def values_in(text: str, kind: type) -> list[Any]:
    """Return the JSON values of this type in a text, also those behind or inside of broken JSON."""
    return [found.data for found in _scan(text, through=True).found if isinstance(found.data, kind)]


def value_in(text: str) -> Any:
    """Return the first object in a text, or else the first list; None if there is neither, or broken JSON."""
    scan = _scan(text)
    if scan.error is not None:
        return None
    values = sorted((found.data for found in scan.found), key=lambda value: not isinstance(value, dict))
    return values[0] if values else None


class _UnreadableError(Exception):
    """A reply without JSON, with several values, or with JSON that cannot be read."""


class _Scan(NamedTuple):
    """The JSON values in a text, on their outermost level, and the error of one that cannot be read, if any."""

    found: list[Read]
    error: ValueError | None = None


def _data(text: str, kind: type) -> Any:
    """Return the one value in a reply: of this type, or else of another."""
    if len(text) > MAX_SIZE:
        raise _UnreadableError(f"the answer has {len(text):,} characters; the most is {MAX_SIZE:,}")
    scan = _scan(text)
    of_kind = [found.data for found in scan.found if isinstance(found.data, kind)]
    if scan.error is not None:
        raise _UnreadableError(f"the JSON cannot be read: {_fault(scan.error)}; {_beginning(text)}")
    values = of_kind or [found.data for found in scan.found][:1]
    if not values:
        raise _UnreadableError(f"there is no JSON in the answer, which begins: {text.strip()[:80]!r}")
    if any(other != values[0] for other in values):
        raise _UnreadableError("the answer holds several JSON values that differ, and one is wanted")
    return whole_data(values[0]) if "\\u" in text else values[0]


def _scan(text: str, *, through: bool = False) -> _Scan:
    """Find the JSON values in a text: in prose, in code fences, or alone; mended where they have slips.

    Broken JSON ends the search unless it goes `through` all: a value behind its beginning may be a part of it.
    """
    found: list[Read] = []
    at = faults = 0
    while faults < _MOST_FAULTS and (start := _START.search(text, at)) is not None:
        clock.check()
        try:
            read = _value(text, start.start())
            at = read.end
            found.append(read)
        except RecursionError:
            return _Scan(found, ValueError("it is nested too deep"))
        except ValueError as error:
            faults += 1
            if through or not _JSON_LIKE.match(text, start.start()):
                at = start.end()
                continue
            return _Scan(found, error)
    return _Scan(found)


def _value(text: str, start: int) -> Read:
    """Return the JSON value at a position, mended if need be."""
    try:
        return Read(*DECODER.raw_decode(text, start))
    except json.JSONDecodeError as error:
        if not _JSON_LIKE.match(text, start):
            raise
        try:
            return mended(text, start)
        except json.JSONDecodeError:
            raise error from None


def _fault(error: ValueError) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"{error.msg.removesuffix(' starting at')} at line {error.lineno} column {error.colno}"


def _beginning(text: str) -> str:
    return f"the answer begins: {text.strip()[:80]!r}"


def _again(messages: Sequence[Message], reply: Reply, errors: list[str]) -> tuple[Message, ...]:
    words = "Your answer cannot be used:\n" + "\n".join(f"- {error}" for error in errors)
    return (
        *messages,
        Message(role="assistant", content=reply.text),
        Message(role="user", content=f"{words}\nAnswer again with the whole JSON object and nothing else."),
    )


def with_system(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """Return the messages with words at the end of their system prompt."""
    if messages and messages[0].role == "system":
        before = messages[0]
        content = f"{before.content}\n\n{words}"
        stable = len(content) if 0 < before.stable == len(before.content) else before.stable
        return (Message(role="system", content=content, stable=stable), *messages[1:])
    stable = len(words) if messages and messages[0].stable else 0
    return (Message(role="system", content=words, stable=stable), *messages)
