"""Structured output: request a schema, parse the reply, repair slips, and retry once with the errors."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from fusion.core.errors import ShapeError
from fusion.core.schema import validate
from fusion.core.types import JsonMode, JsonSchema, Message, Reply, whole_data
from fusion.models.base import ModelInfo
from fusion.models.strict import strict

Send = Callable[[Sequence[Message]], Awaitable[Reply]]
"""Sends messages as one call."""

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_MOST_ERRORS = 10
_MOST_STARTS = 1000
_START = re.compile(r"[{\[]")


async def complete(send: Send, messages: Sequence[Message], schema: JsonSchema) -> tuple[Reply, Any]:
    """Return the reply and its data, valid against the schema; `send` passes the schema to the model.

    An invalid reply is sent back to the model once, with its errors. A truncated reply, with the finish reason
    "length", is returned without data. Raises ShapeError if the second reply is invalid too.
    """
    reply = await send(messages)
    data, errors = read(reply, schema)
    if not errors or reply.finish_reason == "length":
        return reply, data
    reply = await send(_again(messages, reply, errors))
    data, errors = read(reply, schema)
    if errors and reply.finish_reason != "length":
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
    return _with_system(messages, words)


def read(reply: Reply, schema: JsonSchema) -> tuple[Any, list[str]]:
    """Return the data of a reply, or its errors. A truncated reply is never repaired."""
    if reply.finish_reason == "length":
        return None, ["the answer was cut off at its output limit"]
    found = _found(reply.text, list if schema.get("type") == "array" else dict)
    if any(other.data != found[0].data for other in found):
        return None, ["the answer holds several JSON values that differ, and one is wanted"]
    text = found[0].text if found else _begun(reply.text)
    if text is None:
        return None, [f"there is no JSON in the answer, which begins: {reply.text.strip()[:80]!r}"]
    try:
        data = loaded(text)
    except json.JSONDecodeError as error:
        data = _repaired(text, error)
        if data is None:
            what = error.msg.removesuffix(" starting at")
            return None, [f"the JSON cannot be read: {what} at line {error.lineno} column {error.colno}"]
    except RecursionError:
        return None, ["the JSON is nested too deep"]
    except ValueError as error:
        return None, [f"the JSON cannot be read: {error}"]
    errors = validate(data, schema)[:_MOST_ERRORS]
    return (None, errors) if errors else (data, [])


def loaded(text: str) -> Any:
    """Parse JSON, without lone surrogates in its texts. Raises ValueError or RecursionError."""
    data = json.loads(text, object_pairs_hook=_pairs)
    return whole_data(data) if "\\u" in text else data


def values_in(text: str, kind: type) -> list[Any]:
    """Return the complete JSON values of this type in a text."""
    return [found.data for found in _found(text, kind)]


class _Found(NamedTuple):
    """A complete JSON value in a reply."""

    data: Any
    text: str


def _found(text: str, kind: type) -> list[_Found]:
    """Find the values of this type in a reply: in prose, in code fences, or alone."""
    decoder, found, at = json.JSONDecoder(), [], 0
    for _ in range(_MOST_STARTS):
        start = _START.search(text, at)
        if start is None:
            break
        try:
            data, at = decoder.raw_decode(text, start.start())
        except json.JSONDecodeError as error:
            at = max(error.pos, start.end())  # the text read so far belongs to this value, not to another one
            continue
        except (ValueError, RecursionError):
            break
        if isinstance(data, kind):
            found.append(_Found(data, text[start.start() : at]))
    return found


def _begun(text: str) -> str | None:
    """Return the text from the start of JSON on, within a code fence if there is one."""
    fenced = _FENCE.search(text)
    part = fenced.group(1) if fenced else text
    start = _START.search(part)
    return None if start is None else part[start.start() :].strip()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. Raises ValueError for a duplicate key, which is ambiguous."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r} in an object")
    return data


def _repaired(text: str, error: json.JSONDecodeError) -> Any:
    """Repair slips such as a trailing comma or single quotes; return None if the text ends early."""
    if error.msg.startswith("Unterminated string") or not text[error.pos :].strip():
        return None
    from json_repair import repair_json

    data = repair_json(text, return_objects=True, skip_json_loads=True)
    return data if isinstance(data, (dict, list)) and data else None


def _again(messages: Sequence[Message], reply: Reply, errors: list[str]) -> tuple[Message, ...]:
    words = "Your answer cannot be used:\n" + "\n".join(f"- {error}" for error in errors)
    return (
        *messages,
        Message(role="assistant", content=reply.text),
        Message(role="user", content=f"{words}\nAnswer again with the whole JSON object and nothing else."),
    )


def _with_system(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    if messages and messages[0].role == "system":
        first = Message(role="system", content=f"{messages[0].content}\n\n{words}")
        return (first, *messages[1:])
    return (Message(role="system", content=words), *messages)
