"""Content of Anthropic's messages, as messages in the form of OpenAI's chat completions."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from fusion.server.base import RefusedError

Part = dict[str, Any]
_SERVERS: Final = frozenset({
    "bash_code_execution_tool_result",
    "code_execution_tool_result",
    "compaction",
    "container_upload",
    "mcp_tool_result",
    "mcp_tool_use",
    "redacted_thinking",
    "server_tool_use",
    "text_editor_code_execution_tool_result",
    "thinking",
    "tool_reference",
    "tool_search_tool_result",
    "web_fetch_tool_result",
    "web_search_tool_result",
})  # fmt: skip
"""Blocks that only Anthropic's own models and tools can use."""
PLAIN: Final = "data:text/plain;base64,"
"""Beginning of the data URL of a text file."""
_FAILED: Final = "The tool failed:"


class Transcript:
    """Messages read so far: `system` texts, `turns` of the others, and the blocks that have no effect."""

    def __init__(self) -> None:
        self.system: list[str] = []
        self.turns: list[dict[str, Any]] = []
        self.ignored: set[str] = set()

    def add(self, role: str, content: str | list[Part], where: str) -> None:
        """Read one message. Raises RefusedError with the place of a wrong block."""
        blocks = blocks_of(content, f"{where}.content")
        match role:
            case "system":
                self.system += self.texts(blocks)
            case "assistant":
                self._add_assistant(blocks)
            case _:
                self._add_user(blocks)

    def texts(self, blocks: Iterator[tuple[str, Part]]) -> list[str]:
        """Return the texts of blocks that may hold nothing else."""
        parts = [(where, part) for where, block in blocks for part in self._parts(block, where)]
        for where, part in parts:
            if part["type"] != "text":
                _refuse(where, f"{part['type']!r} is no text", "give pictures and documents in user messages")
        return [part["text"] for _, part in parts]

    def _add_assistant(self, blocks: Iterator[tuple[str, Part]]) -> None:
        listed = list(blocks)
        calls = [_call(block, where) for where, block in listed if block["type"] == "tool_use"]
        texts = self.texts((where, block) for where, block in listed if block["type"] != "tool_use")
        if texts or calls:
            turn: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts) or None}
            self.turns.append({**turn, "tool_calls": calls} if calls else turn)

    def _add_user(self, blocks: Iterator[tuple[str, Part]]) -> None:
        """Read a user message; what is beside results of tools goes into the last of them, which ends the turn."""
        results: list[dict[str, Any]] = []
        parts: list[Part] = []
        for where, block in blocks:
            if block["type"] == "tool_result":
                results.append(self._result(block, where))
            else:
                parts += self._parts(block, where)
        if results:
            results[-1]["content"] += parts
            self.turns += [{**one, "content": self._told(one["content"])} for one in results]
        elif parts:
            self.turns.append({"role": "user", "content": _shortest(parts)})

    def _result(self, block: Part, where: str) -> dict[str, Any]:
        inner = blocks_of(block.get("content") or "", f"{where}.content")
        parts = [part for place, one in inner for part in self._parts(one, place)]
        if block.get("is_error"):
            parts.insert(0, _text(_FAILED))
        return {"role": "tool", "tool_call_id": _word(block, "tool_use_id", where), "content": parts}

    def _told(self, parts: list[Part]) -> str:
        """Return the parts of a result as text; a picture or document is only named in it."""
        texts = [part.get("text", f"[{part['type'].removesuffix('_url')}, not shown]") for part in parts]
        self.ignored |= {f"messages.content.tool_result.{part['type']}" for part in parts if part["type"] != "text"}
        return "\n\n".join(filter(None, texts))

    def _parts(self, block: Part, where: str) -> list[Part]:
        """Return the OpenAI parts of a block."""
        match block["type"]:
            case "text":
                return [_text(_word(block, "text", where))]
            case "image":
                return [{"type": "image_url", "image_url": {"url": _base64_url(block.get("source"), where)}}]
            case "document":
                return self._document(block, where)
            case "search_result":
                title = f"{block.get('title', '')} ({block.get('source', '')})"
                return [_text("\n\n".join([title, *self.texts(blocks_of(block.get("content"), f"{where}.content"))]))]
            case kind if kind in _SERVERS:
                self.ignored.add(f"messages.content.{kind}")
                return []
        return _refuse(where, f"unknown type {block['type']!r}", "use text, image, document, tool_use or tool_result")

    def _document(self, block: Part, where: str) -> list[Part]:
        source, name = block.get("source"), str(block.get("title") or "")
        match source:
            case {"type": "text", "data": str(text)}:
                return [_file(f"{PLAIN}{_encoded(text)}", name)]
            case {"type": "content", "content": content}:
                return [_text(text) for text in self.texts(blocks_of(content, f"{where}.source.content"))]
        return [_file(_base64_url(source, where), name)]


def blocks_of(content: Any, where: str) -> Iterator[tuple[str, Part]]:
    """Yield the blocks of a content with their places; a text is one block."""
    if isinstance(content, str):
        yield where, _text(content)
        return
    if not isinstance(content, Sequence):
        _refuse(where, f"{type(content).__name__} is no content", "give a text or a list of blocks")
    for at, block in enumerate(content):
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            _refuse(f"{where}.{at}", "a block has a `type`", 'write it as {"type": "text", "text": "…"}')
        yield f"{where}.{at}", dict(block)


def _call(block: Part, where: str) -> dict[str, Any]:
    arguments = block.get("input", {})
    if not isinstance(arguments, Mapping):
        _refuse(f"{where}.input", "the input of a tool is an object", "give it as the model wrote it")
    called = {"name": _word(block, "name", where), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": _word(block, "id", where), "type": "function", "function": called}


def _base64_url(source: Any, where: str) -> str:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return f"data:{media_type};base64,{data}"
        case {"type": ("url" | "file") as kind}:
            _refuse(f"{where}.source", f"a source of type {kind!r} is not fetched", "give the bytes as `base64`")
    return _refuse(f"{where}.source", "unknown source", "give `type` base64 with `media_type` and `data`")


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode(errors="replace")).decode()


def _file(url: str, name: str) -> Part:
    return {"type": "file", "file": {"file_data": url, **({"filename": name} if name else {})}}


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _word(block: Part, name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        _refuse(f"{where}.{name}", f"a block of type {block['type']!r} has a text here", "add it")
    return value


def _shortest(parts: list[Part]) -> str | list[Part]:
    """Return parts of text alone as one text."""
    said = [part for part in parts if part.get("text") != ""]
    if all(part["type"] == "text" for part in said):
        return "\n\n".join(part["text"] for part in said)
    return said


def _refuse(where: str, wrong: str, advice: str) -> NoReturn:
    raise RefusedError(f"{where}: {wrong}; {advice}", param=where)
