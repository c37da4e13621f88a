"""Items of a Responses input, as messages in the form of OpenAI's chat completions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from fusion.server.base import RefusedError
from fusion.server.dialects.responses.functions import Functions, Named

Part = dict[str, Any]
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_UNSAID: Final = frozenset({"input.reasoning", "input.openrouter:fusion"})
"""Items that a client sends back as they came, and that an answer is not written from."""
Referred = Callable[[str, str], Sequence[Mapping[str, Any]]]
"""Returns the messages behind the id of an item of an earlier response; the place is for errors."""


class Transcript:
    """Messages read so far, and the names of items without an effect."""

    def __init__(self, referred: Referred, functions: Functions) -> None:
        self._referred = referred
        self._functions = functions
        self.messages: list[dict[str, Any]] = []
        self.ignored: set[str] = set()

    def add(self, item: Any, where: str) -> None:
        """Read one item. Raises RefusedError with its place."""
        if not isinstance(item, Mapping):
            refuse(where, f"{type(item).__name__} is no item", 'write it as {"role": "user", "content": "…"}')
        match item.get("type", "message"):
            case "message":
                self._add_message(item, where)
            case "function_call":
                self._add_call(item, where)
            case "function_call_output":
                self.messages.append(_result(item, where))
            case "item_reference":
                for message in self._referred(_word(item, "id", where), where):
                    self._append(dict(message))
            case str(kind):
                self.ignored |= {f"input.{kind}"} - _UNSAID
            case kind:
                refuse(f"{where}.type", f"expected text, got {type(kind).__name__}", "give the type of the item")

    def _add_message(self, item: Mapping[str, Any], where: str) -> None:
        role = _ROLES.get(str(item.get("role", "")))
        if role is None:
            refuse(f"{where}.role", f"unknown role {item.get('role')!r}", f"use {', '.join(_ROLES)}")
        content = _content(item.get("content"), f"{where}.content")
        if role != "user" and not isinstance(content, str):
            refuse(f"{where}.content", f"a message of role {role!r} holds text alone", "give files in user messages")
        self.messages.append({"role": role, "content": content})

    def _add_call(self, item: Mapping[str, Any], where: str) -> None:
        namespace = None if item.get("namespace") is None else _word(item, "namespace", where)
        name = self._functions.name(Named(_word(item, "name", where), namespace))
        called = {"name": name, "arguments": _word(item, "arguments", where)}
        call = {"id": _word(item, "call_id", where), "type": "function", "function": called}
        self._append({"role": "assistant", "content": None, "tool_calls": [call]})

    def _append(self, message: dict[str, Any]) -> None:
        """Add a message; calls of tools join the message of the assistant before them."""
        last = self.messages[-1] if self.messages else {}
        if "tool_calls" in message and message["content"] is None and last.get("role") == "assistant":
            last["tool_calls"] = [*last.get("tool_calls", []), *message["tool_calls"]]
        else:
            self.messages.append(message)


def _result(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    content = _content(item.get("output"), f"{where}.output")
    return {"role": "tool", "tool_call_id": _word(item, "call_id", where), "content": content}


def _content(content: Any, where: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        refuse(where, "expected a text or a list of parts", 'write it as [{"type": "input_text", "text": "…"}]')
    parts = [_part(part, f"{where}.{at}") for at, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _part(part: Any, where: str) -> Part:
    kind = str(part.get("type")) if isinstance(part, Mapping) else None
    if kind in _TEXTS:
        return {"type": "text", "text": _word(part, _TEXTS[kind], where)}
    match part:
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "input_file", "file_data": str(url), **more}:
            name = more.get("filename")
            return {"type": "file", "file": {"file_data": url, **({"filename": str(name)} if name else {})}}
        case {"type": "input_image" | "input_file"}:
            return refuse(where, "files of another server are not fetched", "give the bytes as a data URL")
    return refuse(where, f"unsupported part of type {kind!r}", "use input_text, input_image or input_file")


def _word(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        refuse(f"{where}.{name}", f"expected text, got {type(value).__name__}", f"give `{name}` as text")
    return value


def refuse(where: str, wrong: str, advice: str) -> NoReturn:
    """Raise RefusedError for a field."""
    raise RefusedError(f"{where}: {wrong}; {advice}", param=where)
