"""Content of a message or delta in OpenAI's format: text, thoughts and refusal told apart."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fusion.models.providers.reader.events import MalformedError

_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
_THOUGHT: Final = re.compile("think|thought|reason|signature|summary")
_TEXT_PARTS: Final = ("text", "output_text", None)
_KNOWN: Final = frozenset(
    {
        "content",
        "role",
        "name",
        "refusal",
        "tool_calls",
        "function_call",
        "tool_call_id",
        "audio",
        "annotations",
        "id",
    }
)
_PLAIN: Final = frozenset({"content", "role"})
JSON_TOOL: Final = "json_tool_call"
"""The tool by which litellm asks some providers for JSON; its arguments are the answer."""


class Content(NamedTuple):
    """The parts of a message; `thoughts` is their size in characters, `tool` the name of its first tool call."""

    text: str = ""
    thoughts: int = 0
    refusal: str = ""
    tool: str = ""
    arguments: str = ""


def content_of(message: Mapping[str, Any]) -> Content:
    """Return the content of a message or a delta. Raises MalformedError."""
    content = message.get("content")
    if isinstance(content, str) and message.keys() <= _PLAIN:
        return Content(content)
    found = _of_content(content)
    fields = max(_size(message.get(name)) for name in _THOUGHTS)
    refusal = message.get("refusal")
    name, arguments = _of_tool(message.get("tool_calls"))
    if "content" not in message and not fields:
        _check_fields(message)
    refused = found.refusal + (refusal if isinstance(refusal, str) else "")
    return Content(found.text, found.thoughts + fields, refused, name, arguments)


def _check_fields(message: Mapping[str, Any]) -> None:
    """Raise MalformedError for a text in a field that none knows, which may be a part of the answer."""
    for name, value in message.items():
        if _is_text(value) and name not in _KNOWN and not _THOUGHT.search(name):
            raise MalformedError(f"a message without content, but with a text in {name!r:.40}")


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(one, dict) and one.get("type") in _TEXT_PARTS[:2] for one in value)
    return isinstance(value, str) and value != ""


def _of_content(given: Any) -> Content:
    if given is None:
        return Content()
    if isinstance(given, str):
        return Content(given)
    if isinstance(given, dict):
        return _of_part(given)
    if isinstance(given, list):
        parts = [_of_part(one) for one in given]
        text, refusal = "".join(part.text for part in parts), "".join(part.refusal for part in parts)
        return Content(text, sum(part.thoughts for part in parts), refusal)
    raise MalformedError(f"a message whose content is neither text nor a list of parts, but {given!r:.80}")


def _of_part(part: Any) -> Content:
    if isinstance(part, str):
        return Content(part)
    if not isinstance(part, dict):
        raise MalformedError(f"a content part that is {part!r:.80}")
    kind = part.get("type")
    if kind == "refusal":
        return Content(refusal=_string(part.get("refusal") or part.get("text")))
    if isinstance(kind, str) and ("think" in kind or "reason" in kind):
        return Content(thoughts=_size({name: value for name, value in part.items() if name != "type"}))
    if kind in _TEXT_PARTS:
        if "text" not in part:
            raise MalformedError("a content part without its text")
        return Content(_string(part.get("text")))
    if isinstance(part.get("text"), str):
        raise MalformedError(f"a content part of the unknown type {kind!r:.40}")
    return Content()


def _string(given: Any) -> str:
    """Return the text of a part; some servers wrap it as `{"value": …}`."""
    found = given.get("value") if isinstance(given, dict) else given
    if found is None:
        return ""
    if not isinstance(found, str):
        raise MalformedError(f"a content part whose text is {found!r:.80}")
    return found


def _of_tool(calls: Any) -> tuple[str, str]:
    """Return name and arguments of the first tool call; of a stream, the name is in its first piece."""
    first = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], dict) else {}
    function = first.get("function")
    function = function if isinstance(function, dict) else {}
    return _string(function.get("name")), _string(function.get("arguments"))


def _size(given: Any) -> int:
    """Return the characters of thoughts, however they are nested."""
    if isinstance(given, str):
        return len(given)
    if isinstance(given, dict):
        return sum(map(_size, given.values()))
    return sum(map(_size, given)) if isinstance(given, list) else 0
