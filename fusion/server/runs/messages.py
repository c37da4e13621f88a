"""Messages of a request: text files apart, and earlier calls of tools as texts of the conversation."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusion.prompts.filters import fenced
from fusion.server.dialects.base import RefusedError

Message = Mapping[str, Any]
_TEXTS: Final = ("text/", "application/json", "application/xml", "application/yaml", "application/x-yaml")


class TextFile(NamedTuple):
    """A text file in a message."""

    name: str
    text: str


def without_files(messages: Sequence[Message]) -> tuple[list[Message], list[TextFile]]:
    """Return messages without the text files in them, and these. Raises RefusedError for one that is no UTF-8."""
    files: list[TextFile] = []
    left = [_without(message, files, f"messages[{at}]") for at, message in enumerate(messages)]
    return left, files


def with_files(messages: Sequence[Message], files: Sequence[TextFile]) -> list[Message]:
    """Return messages with the text files before the words of the last one."""
    if not files:
        return list(messages)
    *before, last = messages
    parts = [{"type": "text", "text": fenced(file.text, _label(file))} for file in files]
    return [*before, {**last, "content": [*parts, *_parts(last)]}]


def told(messages: Sequence[Message]) -> list[Message]:
    """Return messages of system, user and assistant alone: calls of tools and their results as texts.

    Results that no message follows are those of the user, whom the answer is for.
    """
    names: dict[str, str] = {}
    found = [_told(message, names) for message in messages]
    if messages and messages[-1].get("role") == "tool":
        found[-1] = {**found[-1], "role": "user"}
    return found


def _told(message: Message, names: dict[str, str]) -> Message:
    calls = message.get("tool_calls") or ()
    if message.get("role") == "tool":
        name = names.get(str(message.get("tool_call_id")), "a tool")
        text = fenced(text_of(message.get("content")), "result")
        return {"role": "assistant", "content": f"The tool {name!r} returned:\n\n{text}"}
    if not calls:
        return {**message, "content": message.get("content") or ""}
    said = [text_of(message.get("content")), *(_call(call, names) for call in calls)]
    return {"role": "assistant", "content": "\n\n".join(filter(None, said))}


def _call(call: Any, names: dict[str, str]) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise RefusedError("'tool_calls' must have functions with a name and arguments", param="messages")
    name = str(function.get("name"))
    names[str(call.get("id"))] = name
    return f"I called the tool {name!r} with {function.get('arguments') or '{}'}"


def text_of(content: Any) -> str:
    """Return the text of a content, which may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    return "\n\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)


def _parts(message: Message) -> list[Any]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content or ())


def _without(message: Message, files: list[TextFile], where: str) -> Message:
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return message
    left = []
    for at, part in enumerate(content):
        file = _text_file(part, f"{where}.content[{at}]")
        if file is None:
            left.append(part)
        else:
            files.append(file)
    return message if len(left) == len(content) else {**message, "content": left or ""}


def _text_file(part: Any, where: str) -> TextFile | None:
    match part:
        case {"type": "file", "file": {"file_data": str(url), **more}} if url.startswith("data:"):
            kind, _, data = url.removeprefix("data:").partition(",")
        case _:
            return None
    if not kind.startswith(_TEXTS):
        return None
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8-sig") if kind.endswith(";base64") else None
    except (binascii.Error, UnicodeDecodeError) as error:
        raise RefusedError(f"{where}: the text file is not base64 of UTF-8: {error}", param=where) from error
    if text is None:
        raise RefusedError(f"{where}: the text file is not a base64 data URL", param=where)
    return TextFile(str(more.get("filename") or "file"), text)


def _label(file: TextFile) -> str:
    """Return the label of a fence for a file: its name without what would break the fence."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in file.name)[:80]
