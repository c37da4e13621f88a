"""Reading of chat completions: the body of a request becomes a ServedRequest."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fusion.core.types import ToolSpec
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.dialects.fields import FUSION, answer_options, fusion_fields, ignored, wanted

_READ: Final = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "response_format",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "reasoning_effort",
        *FUSION,
    }
)
_ROLES: Final = {role: role for role in ("system", "user", "assistant", "tool")} | {"developer": "system"}
_NAMES: Final = {"max_tokens": "max_completion_tokens", "json_schema": "response_format"}


def read(body: Mapping[str, Any]) -> ServedRequest:
    """Return the request of a body. Raises RefusedError with the field."""
    model = wanted(body, "model", str, "the name of a model")
    if not model:
        raise RefusedError("'model' is missing; `GET /v1/models` lists the models", param="model")
    if (wanted(body, "n", int, "a whole number") or 1) != 1:
        raise RefusedError(
            "'n' must be 1: a run has one answer; ask for several pipelines, or several times", param="n"
        )
    tools, others = _tools(wanted(body, "tools", list, "a list of tools") or [])
    return ServedRequest(
        model=model,
        messages=_messages(body),
        answer=answer_options(
            _NAMES,
            max_tokens=_limit(body),
            temperature=wanted(body, "temperature", (int, float), "a number"),
            top_p=wanted(body, "top_p", (int, float), "a number"),
            seed=wanted(body, "seed", int, "a whole number"),
            stop=body.get("stop"),
            reasoning_effort=body.get("reasoning_effort"),
            tools=tools or None,
            tool_choice=_choice(body.get("tool_choice"), tools) if tools else None,
            json_schema=_schema(wanted(body, "response_format", dict, "an object")),
        ),
        stream=bool(wanted(body, "stream", bool, "true or false")),
        ignored=(*ignored(body, _READ), *others),
        form={"include_usage": _includes_usage(body)},
        **fusion_fields(body),
    )


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = wanted(body, "messages", list, "a list of messages")
    if not given:
        raise RefusedError("'messages' is empty; give at least one user message", param="messages")
    return [_message(at, one) for at, one in enumerate(given)]


def _message(at: int, given: Any) -> Mapping[str, Any]:
    where = f"messages[{at}]"
    if not isinstance(given, Mapping):
        raise RefusedError(f"{where} must be an object with a role and content", param=where)
    role = _ROLES.get(str(given.get("role")))
    if role is None:
        raise RefusedError(f"{where}.role must be one of {', '.join(_ROLES)}", param=f"{where}.role")
    content = given.get("content")
    if not isinstance(content, (str, list)) and not (role == "assistant" and given.get("tool_calls")):
        raise RefusedError(f"{where}.content must be a text or a list of parts", param=f"{where}.content")
    return {**given, "role": role}


def _limit(body: Mapping[str, Any]) -> int | None:
    """Return the lower of the two limits of output tokens."""
    names = ("max_tokens", "max_completion_tokens")
    given = [value for name in names if (value := wanted(body, name, int, "a whole number")) is not None]
    return min(given, default=None)


def _includes_usage(body: Mapping[str, Any]) -> bool:
    return bool((wanted(body, "stream_options", dict, "an object") or {}).get("include_usage"))


def _tools(given: Sequence[Any]) -> tuple[tuple[ToolSpec, ...], list[str]]:
    """Return the functions among the tools, and names for the others, which have no effect."""
    functions, others = [], []
    for at, tool in enumerate(given):
        match tool:
            case {"type": "function", "function": {"name": str(name), **more}} if name:
                functions.append(
                    ToolSpec(
                        name=name,
                        description=str(more.get("description") or ""),
                        parameters=wanted({"parameters": more.get("parameters")}, "parameters", dict, "a JSON Schema")
                        or {"type": "object", "properties": {}},
                    )
                )
            case {"type": str(kind)} if kind != "function":
                others.append(f"tools[{at}] ({kind})")
            case _:
                raise RefusedError(f"tools[{at}] must be a function with a name", param=f"tools[{at}]")
    return tuple(functions), others


def _choice(given: Any, tools: Sequence[ToolSpec]) -> str | None:
    match given:
        case None:
            return None
        case "auto" | "none" | "required":
            return str(given)
        case {"type": "function", "function": {"name": str(name)}} if any(name == tool.name for tool in tools):
            return name
    raise RefusedError(
        "'tool_choice' must be auto, none, required, or a function that is among the tools", param="tool_choice"
    )


def _schema(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise RefusedError(
        "'response_format' must have the type text, json_object, or json_schema with a schema",
        param="response_format",
    )
