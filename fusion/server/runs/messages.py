"""Messages of a request: text files apart, and earlier calls of tools as texts of the conversation."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusion.core.result import run_of_call
from fusion.core.types import Message as Turn
from fusion.core.types import ToolCall
from fusion.prompts.filters import fenced
from fusion.server.base import RefusedError

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


class Continuation(NamedTuple):
    """The run that asked for tools, and their results by the ids of its calls."""

    run_id: str
    results: dict[str, str]


def continuation_of(messages: Sequence[Message]) -> Continuation | None:
    """Return the run that messages go on with, if they end in the results of its calls of tools."""
    results: dict[str, str] = {}
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        results[str(message.get("tool_call_id"))] = text_of(message.get("content"))
    found = {run_of_call(one) for one in results}
    run_id = found.pop() if len(found) == 1 else None
    return None if run_id is None else Continuation(run_id, results)


def with_turns(messages: Sequence[Message]) -> tuple[Sequence[Message], tuple[Turn, ...]]:
    """Return messages up to the last one of the user, and the calls of tools and their results after it, if any."""
    if not messages or messages[-1].get("role") != "tool":
        return messages, ()
    last = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    after = [message for message in messages[last + 1 :] if message.get("role") != "system"]
    return messages[: last + 1], tuple(map(_turn, after))


def _turn(message: Message) -> Turn:
    text = text_of(message.get("content"))
    if message.get("role") == "tool":
        return Turn(role="tool", content=text, tool_call_id=str(message.get("tool_call_id")))
    calls = tuple(
        ToolCall(id=str(call.get("id")), name=str(of["name"]), arguments=str(of.get("arguments") or "{}"))
        for call in _calls(message)
        for of in (_function(call),)
    )
    return Turn(role="assistant", content=text, tool_calls=calls)


def told(messages: Sequence[Message]) -> list[Message]:
    """Return messages of system, user and assistant alone: calls of tools and their results as texts."""
    names: dict[str, str] = {}
    return [_told(message, names) for message in messages]


def _told(message: Message, names: dict[str, str]) -> Message:
    calls = _calls(message)
    if message.get("role") == "tool":
        name = names.get(str(message.get("tool_call_id")), "a tool")
        text = fenced(text_of(message.get("content")), "result")
        return {"role": "assistant", "content": f"The tool {name!r} returned:\n\n{text}"}
    if not calls:
        return {**message, "content": message.get("content") or ""}
    said = [text_of(message.get("content")), *(_call(call, names) for call in calls)]
    return {"role": "assistant", "content": "\n\n".join(filter(None, said))}


def _calls(message: Message) -> Sequence[Any]:
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)):
        raise RefusedError("'tool_calls' must be a list of calls", param="messages")
    return calls


def _call(call: Any, names: dict[str, str]) -> str:
    function = _function(call)
    name = str(function["name"])
    names[str(call.get("id"))] = name
    return f"I called the tool {name!r} with {function.get('arguments') or '{}'}"


def _function(call: Any) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise RefusedError("'tool_calls' must have functions with a name and arguments", param="messages")
    return function


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
