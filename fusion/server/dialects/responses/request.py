"""Request of the Responses API, read into a ServedRequest."""

from collections.abc import Mapping
from typing import Any, Final

from fusion.core.params import AnswerOptions
from fusion.core.types import ToolSpec
from fusion.server.dialects.fields import FUSION, answer_options
from fusion.server.dialects.openrouter.names import PLUGIN, TOOL
from fusion.server.dialects.responses.body import ResponsesBody, ToolChoice
from fusion.server.dialects.responses.functions import Functions
from fusion.server.dialects.responses.items import Referred, Transcript, refuse

_CHOICES: Final = ("none", "auto", "required")
_NAMES: Final = {"max_tokens": "max_output_tokens", "json_schema": "text.format.schema"}
_MOST_STOPS: Final = 4
_WITHOUT_EFFECT: Final = {"conversation": "use `previous_response_id`", "prompt": "give `instructions` and `input`"}


def transcript_of(body: ResponsesBody, referred: Referred) -> Transcript:
    """Return the messages of a body, without its instructions."""
    for name, advice in _WITHOUT_EFFECT.items():
        if getattr(body, name) is not None:
            refuse(name, "nothing of this kind is kept here", advice)
    transcript = Transcript(referred, Functions(body.tools or ()))
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    if not items:
        refuse("input", "it is empty", "give a text, or a list of items")
    for at, item in enumerate(items):
        transcript.add(item, f"input.{at}")
    return transcript


def answer_of(body: ResponsesBody) -> AnswerOptions:
    """Return the options of the answer. Raises RefusedError with the field."""
    functions = Functions(body.tools or ())
    tools, choice = _chosen(functions, _choice(body, functions))
    return answer_options(
        _NAMES,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=_stops(body.stop),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        max_tokens=body.max_output_tokens,
        tools=tools,
        tool_choice=choice,
        json_schema=_schema(body),
    )


def tags_of(body: ResponsesBody, own: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of the run: the metadata that can be tags, and Fusion's own."""
    return {name: value for name, value in (body.metadata or {}).items() if _is_tag(name)} | dict(own)


def ignored_of(body: ResponsesBody, transcript: Transcript) -> tuple[str, ...]:
    """Return the names of fields without an effect."""
    found = set(transcript.ignored)
    for name, part in (("", body), ("text.", body.text), ("reasoning.", body.reasoning)):
        extra = {} if part is None else part.model_extra or {}
        found |= {f"{name}{field}" for field, value in extra.items() if value not in (None, [], {})}
    found -= set(FUSION)
    found |= Functions(body.tools or ()).ignored
    found |= {f"plugins.{one.get('id')}" for one in body.plugins or () if one.get("id") != PLUGIN}
    found |= {f"metadata.{name}" for name in body.metadata or () if not _is_tag(name)}
    return tuple(sorted(found))


def _is_tag(name: str) -> bool:
    return bool(name) and "=" not in name


def _choice(body: ResponsesBody, functions: Functions) -> str | ToolChoice | None:
    """Return the choice among the tools of the client: a panel is asked in any case."""
    asks_panel = any(tool.type == TOOL for tool in body.tools or ()) or any(
        one.get("id") == PLUGIN for one in body.plugins or ()
    )
    return None if body.tool_choice == "required" and asks_panel and not functions.specs else body.tool_choice


def _chosen(functions: Functions, choice: str | ToolChoice | None) -> tuple[tuple[ToolSpec, ...], str]:
    """Return the tools that may be called, and the choice among them."""
    if not isinstance(choice, ToolChoice):
        return _chosen_of(functions.specs, choice)
    if choice.type == "allowed_tools":
        allowed = {spec.name for one in choice.tools for spec in functions.chosen(one)}
        return _chosen_of(tuple(spec for spec in functions.specs if spec.name in allowed), choice.mode)
    if choice.type != "function":
        return functions.specs, "auto"
    found = functions.chosen(choice.model_dump())
    if len(found) != 1:
        wrong = f"{len(found) or 'no'} function{'s' if found else ''} {choice.name!r} in `tools`"
        refuse("tool_choice.name", wrong, "name one of them, and its `namespace` if it has one")
    return functions.specs, found[0].name


def _chosen_of(tools: tuple[ToolSpec, ...], choice: str | None) -> tuple[tuple[ToolSpec, ...], str]:
    if choice is not None and choice not in _CHOICES:
        refuse("tool_choice", f"unknown choice {choice!r}", f"use {', '.join(_CHOICES)}, or name a function")
    if choice == "required" and not tools:
        refuse("tool_choice", "no function of the client can be called", "give `tools` of type function")
    return tools, choice or "auto"


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS:
        refuse("stop", f"{len(stops)} stop sequences", f"give at most {_MOST_STOPS}")
    return stops


def _schema(body: ResponsesBody) -> dict[str, Any] | None:
    """Return the schema of the answer; an empty one for any JSON object."""
    form = body.text and body.text.format
    if not form or form.type == "text":
        return None
    if form.type == "json_object":
        return {}
    if form.json_schema is None:
        refuse("text.format.schema", "a format of type json_schema has a schema", "add it")
    return form.json_schema


def echo_of(body: ResponsesBody) -> dict[str, Any]:
    """Return the fields of a response that repeat the request."""
    said: Mapping[str, Any] = body.model_dump(by_alias=True, exclude_none=True)
    text = said.get("text") or {}
    return {
        "background": bool(body.background),
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": bool(said.get("parallel_tool_calls", True)),
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None, **said.get("reasoning", {})},
        "store": True,
        "temperature": body.temperature,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": said.get("tools", []),
        "top_p": body.top_p,
        "truncation": "disabled",
    }
