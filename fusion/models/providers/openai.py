"""OpenAIModel: a model of a server that speaks OpenAI's chat completions API.

https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from fusion.core.types import File, Message, Request
from fusion.models.base import ModelInfo
from fusion.models.providers.wire import DirectModel

_REASONERS: Final = ("gpt-5", "gpt-6")
_NO_REASONER: Final = "gpt-5-chat"
_CACHE_MARK: Final = {"type": "ephemeral"}
_HIGHEST: Final = {"max": "xhigh"}
"""Efforts that OpenRouter knows by another name."""


class OpenAIModel(DirectModel):
    """A model of a server at `base`.

    `caches` is True for a server that takes `prompt_cache_key`. `dialect` names the provider whose own fields are to
    be used.
    """

    path = "/chat/completions"

    def __init__(
        self,
        name: str,
        info: ModelInfo,
        *,
        base: str,
        key: Callable[[], str | None],
        headers: Mapping[str, str] | None = None,
        caches: bool = False,
        dialect: str = "openai",
        **reading: Any,
    ) -> None:
        super().__init__(name, info, base=base, key=key, headers=headers or {}, **reading)
        self._caches = caches
        self._dialect = dialect
        self._limit = limit_name(name) if dialect == "openai" else "max_tokens"
        self._marks = dialect == "openrouter" and info.family == "claude"

    def credentials(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        """Return the body of a request."""
        found: dict[str, Any] = {
            "model": self.name,
            "messages": [message_of(message, marks=self._marks) for message in request.messages],
            self._limit: request.max_tokens,
            "stream": stream,
            **sampling_of(request),
            **self._thinking(request),
        }
        if stream:
            found["stream_options"] = {"include_usage": True}
        if request.json_schema is not None:
            found["response_format"] = response_format(request)
        if request.tools:
            found |= {"tools": tools_of(request), "tool_choice": tool_choice(request)}
        if request.cache_key is not None and self._caches:
            found["prompt_cache_key"] = request.cache_key
        if self._dialect == "openrouter":
            found["usage"] = {"include": True}
        found |= request.extra
        return _renamed(found, self.renamed) if self.renamed else found

    def _thinking(self, request: Request) -> dict[str, Any]:
        effort, tokens, dialect = request.reasoning_effort, request.thinking_budget, self._dialect
        if dialect == "deepseek":
            return _deepseek_thinking(effort, tokens)
        found: dict[str, Any] = {}
        if effort is not None:
            found["reasoning_effort"] = _HIGHEST.get(effort, effort) if dialect == "openrouter" else effort
        if tokens is not None:
            found["reasoning"] = {"max_tokens": tokens}
        return found


def limit_name(name: str) -> str:
    """Return the field of the output limit: OpenAI's reasoning models take `max_completion_tokens` only.

    >>> limit_name("o3-mini"), limit_name("llama")
    ('max_completion_tokens', 'max_tokens')
    """
    short = name.rpartition("/")[2]
    numbered = len(short) > 1 and short[0] == "o" and short[1].isdigit()
    reasons = any(one in name for one in _REASONERS) and _NO_REASONER not in short
    return "max_completion_tokens" if numbered or reasons else "max_tokens"


def message_of(message: Message, *, marks: bool = False) -> dict[str, Any]:
    """Return a message in OpenAI's format; with `marks`, with the end of its stable part for the prompt cache."""
    content = [_part(part) for part in message.parts] if message.files else message.content
    if marks and message.stable and isinstance(content, str):
        content = _marked(message)
    found: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
        found["content"] = content or None
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    return found


def response_format(request: Request) -> dict[str, Any]:
    """Return the format of the reply to a request with a schema."""
    if request.json_mode == "object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.json_schema, "strict": True}}


def tools_of(request: Request) -> list[dict[str, Any]]:
    """Return the tools of a request in OpenAI's format."""
    return [{"type": "function", "function": tool.model_dump()} for tool in request.tools]


def tool_choice(request: Request) -> Any:
    """Return the choice of a tool in OpenAI's format."""
    choice = request.tool_choice
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def sampling_of(request: Request) -> dict[str, Any]:
    """Return the parameters of sampling by their names in OpenAI's API."""
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _deepseek_thinking(effort: str | None, tokens: int | None) -> dict[str, Any]:
    if effort is None:
        return {} if tokens is None else {"thinking": {"type": "enabled"}}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled"}, "reasoning_effort": effort}


def _part(part: str | File) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.url}}
    return {"type": "file", "file": {"file_data": part.url, "filename": part.name or "document.pdf"}}


def _marked(message: Message) -> list[dict[str, Any]]:
    """Return a text in two parts, with the end of its stable part marked for the prompt cache."""
    stable, rest = message.content[: message.stable], message.content[message.stable :]
    parts: list[dict[str, Any]] = [{"type": "text", "text": stable, "cache_control": _CACHE_MARK}]
    return [*parts, {"type": "text", "text": rest}] if rest else parts


def _renamed(body: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a body with fields by their other names; those without one are left out."""
    pairs = ((names.get(name, name), value) for name, value in body.items())
    return {name: value for name, value in pairs if name is not None}
