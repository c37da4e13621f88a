"""AnthropicModel: a model of a server that speaks Anthropic's Messages API.

https://platform.claude.com/docs/en/api/messages
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from fusion.core.errors import BadRequestError
from fusion.core.types import File, Message, Request, ToolCall
from fusion.models.base import ModelInfo
from fusion.models.providers.http.exchange import Exchange
from fusion.models.providers.reader.reply import ReplyBuilder
from fusion.models.providers.wire import DirectModel

_VERSION: Final = "2023-06-01"
_CACHE_MARK: Final = {"type": "ephemeral"}
_MOST_MARKS: Final = 4
"""Cache breakpoints of one request, at most."""
_LEAST_THINKING: Final = 1024
_BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
"""Tokens of reasoning by effort, for models that take a budget; the same as litellm's."""
_EFFORTS: Final = {"minimal": "low"}
"""Efforts that the API knows by another name."""
_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}


class AnthropicModel(DirectModel):
    """A model of a server at `base`."""

    path = "/v1/messages"

    def __init__(
        self, name: str, info: ModelInfo, *, base: str, key: Callable[[], str | None], **reading: Any
    ) -> None:
        base = base.rstrip("/").removesuffix(self.path).removesuffix("/v1")
        super().__init__(name, info, base=base, key=key, headers={"anthropic-version": _VERSION}, **reading)

    def credentials(self, key: str) -> dict[str, str]:
        return {"x-api-key": key}

    async def _ask(self, exchange: Exchange, request: Request, reply: ReplyBuilder, *, stream: bool) -> None:
        reply.read_messages()
        await super()._ask(exchange, request, reply, stream=stream)

    def body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        """Return the body of a request. Raises BadRequestError for one without a message of the user."""
        system, turns = _split(request.messages)
        if not turns:
            raise BadRequestError(
                f"{self.info.id!r} needs a message of the user, and the prompt has a system message only; "
                "add one with role `user`",
                model=self.info.id,
            )
        marks = _Marks()
        found: dict[str, Any] = {
            "model": self.name,
            "max_tokens": request.max_tokens,
            "messages": list(_messages(turns, marks)),
            **_params(request),
            **self._thinking(request),
        }
        if system:
            found["system"] = [part for message in system for part in marks.text(message)]
        if stream:
            found["stream"] = True
        if request.json_schema is not None and request.json_mode == "schema":
            form = {"type": "json_schema", "schema": request.json_schema}
            found["output_config"] = {**found.get("output_config", {}), "format": form}
        if request.tools:
            found |= {"tools": _tools(request), "tool_choice": _tool_choice(request)}
        return {**found, **request.extra}

    def _thinking(self, request: Request) -> dict[str, Any]:
        """Return the fields of reasoning: by effort for models that adapt it, else by a budget of tokens."""
        effort, tokens = request.reasoning_effort, request.thinking_budget
        if effort is None:
            return {} if tokens is None else {"thinking": {"type": "enabled", "budget_tokens": tokens}}
        if effort == "none":
            return {"thinking": {"type": "disabled"}} if self.info.thinking == "default" else {}
        if self.info.thinking is not None:
            config = {"effort": _EFFORTS.get(effort, effort)}
            return {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": config}
        budget = min(_BUDGETS[effort], request.max_tokens - 1)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= _LEAST_THINKING else {}


class _Marks:
    """Marks the ends of the stable parts of messages for the prompt cache, up to the most that a request may have."""

    def __init__(self) -> None:
        self._left = _MOST_MARKS

    def text(self, message: Message) -> Iterator[dict[str, Any]]:
        """Yield the text of a message, in two parts if the end of its stable part is within it."""
        stable = message.stable if self._left else 0
        if stable:
            self._left -= 1
            yield {"type": "text", "text": message.content[:stable], "cache_control": _CACHE_MARK}
        if message.content[stable:].strip():  # the API refuses empty texts
            yield {"type": "text", "text": message.content[stable:]}


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Return the system messages at the beginning, and the others."""
    at = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:at], messages[at:]


def _messages(messages: tuple[Message, ...], marks: _Marks) -> Iterator[dict[str, Any]]:
    """Yield the turns: messages of one role that follow each other become one."""
    for role, same in groupby(messages, key=_role):
        content = [part for message in same for part in _content(message, marks)]
        if content:
            yield {"role": role, "content": content}


def _role(message: Message) -> str:
    return "assistant" if message.role == "assistant" else "user"


def _content(message: Message, marks: _Marks) -> Iterator[dict[str, Any]]:
    if message.tool_call_id is not None:
        yield {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.content}
        return
    if message.files:
        yield from map(_part, message.parts)
    else:
        yield from marks.text(message)
    yield from map(_tool_use, message.tool_calls)


def _part(part: str | File) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = "image" if part.kind == "image" else "document"
    data = part.url.partition(",")[2]
    return {"type": kind, "source": {"type": "base64", "media_type": part.media_type, "data": data}}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)}


def _arguments(call: ToolCall) -> dict[str, Any]:
    """Return the arguments of a call as an object; those that are none are given as text."""
    try:
        found = json.loads(call.arguments)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": call.arguments}


def _tools(request: Request) -> list[dict[str, Any]]:
    return [
        {"name": tool.name, "description": tool.description, "input_schema": tool.parameters or {"type": "object"}}
        for tool in request.tools
    ]


def _tool_choice(request: Request) -> Mapping[str, Any]:
    choice = request.tool_choice
    return {"type": _CHOICES[choice]} if choice in _CHOICES else {"type": "tool", "name": choice}


def _params(request: Request) -> dict[str, Any]:
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
    }
    return {name: value for name, value in given.items() if value is not None}
