"""Body of a request of the Messages API, read into a ServedRequest."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusion.core.params import AnswerOptions
from fusion.core.types import ToolSpec
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.dialects.fields import FUSION, answer_options, fusion_fields
from fusion.server.dialects.messages.content import Transcript, blocks_of
from fusion.server.dialects.messages.names import own_name

Effort = Literal["low", "medium", "high", "xhigh", "max"]
_NAMES: Final = {"stop": "stop_sequences", "json_schema": "output_config.format.schema"}
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


class _Part(BaseModel):
    """A part of a body; fields that are not declared have no effect."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)


class _Turn(_Part):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _Tool(_Part):
    type: str | None = None
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None

    @property
    def is_of_the_client(self) -> bool:
        return self.type in (None, "custom")


class _ToolChoice(_Part):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class _Format(_Part):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class _OutputConfig(_Part):
    effort: Effort | None = None
    format: _Format | None = None


class _Metadata(_Part):
    user_id: str | None = None


class MessagesRequest(_Part):
    """A body, with the fields that have an effect."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_Turn], Field(min_length=1)]
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    stop_sequences: Annotated[list[str], Field(max_length=4)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    metadata: _Metadata | None = None
    stream: bool | None = None

    @property
    def format(self) -> _Format | None:
        """The form of the answer; `output_format` is its name in older clients."""
        return (self.output_config and self.output_config.format) or self.output_format


def parsed(body: Mapping[str, Any]) -> MessagesRequest:
    """Return the request of a body. Raises RefusedError with the first wrong field."""
    try:
        return MessagesRequest.model_validate(body)
    except ValidationError as error:
        raise refused(error) from error


def refused(error: ValidationError) -> RefusedError:
    """Return the refusal of a body by its first flaw."""
    flaw = error.errors(include_url=False)[0]
    where = ".".join(str(step) for step in flaw["loc"] if step not in _BRANCHES)
    return RefusedError(f"{where}: {_WORDS.get(flaw['type'], flaw['msg'])}", param=where)


_WORDS: Final = {
    "missing": "it is missing; add it",
    "model_type": "it must be an object",
    "string_type": "it must be a text",
}
_BRANCHES: Final = frozenset({"str", "list[dict[str,any]]"})
"""Steps that pydantic adds to a place for the branch of a union."""


def served(body: Mapping[str, Any]) -> ServedRequest:
    """Return what a body asks for. Raises RefusedError with the field."""
    request, own = parsed(body), fusion_fields(body)
    transcript = transcript_of(request)
    messages = [*_system(transcript), *transcript.turns]
    if not transcript.turns or transcript.turns[-1]["role"] == "assistant":
        raise RefusedError(
            "messages: the last message is that of the user; an answer that is begun already is not continued",
            param="messages",
        )
    return ServedRequest(
        model=own_name(request.model),
        messages=messages,
        answer=_answer(request),
        stream=bool(request.stream),
        ignored=tuple(sorted({*_ignored(request), *transcript.ignored})),
        inputs=own["inputs"],
        budget=own["budget"],
        tags={**_tags(request), **own["tags"]},
    )


def transcript_of(request: MessagesRequest) -> Transcript:
    """Return the system prompt and the turns of a request."""
    transcript = Transcript()
    transcript.system += transcript.texts(blocks_of(request.system or [], "system"))
    for at, turn in enumerate(request.messages):
        transcript.add(turn.role, turn.content, f"messages.{at}")
    return transcript


def tools_of(request: MessagesRequest) -> tuple[ToolSpec, ...]:
    """Return the tools that the client runs; those of Anthropic's servers are left out."""
    own = ((at, tool) for at, tool in enumerate(request.tools or ()) if tool.is_of_the_client)
    return tuple(_tool(tool, f"tools.{at}") for at, tool in own)


def _tool(tool: _Tool, where: str) -> ToolSpec:
    if tool.name is None:
        raise RefusedError(f"{where}.name: a tool has a name; add it", param=f"{where}.name")
    if tool.input_schema is None:
        raise RefusedError(
            f"{where}.input_schema: a tool has the JSON Schema of its input; add it", param=f"{where}.input_schema"
        )
    return ToolSpec(name=tool.name, description=tool.description or "", parameters=tool.input_schema)


def _system(transcript: Transcript) -> list[dict[str, Any]]:
    text = "\n\n".join(transcript.system)
    return [{"role": "system", "content": text}] if text else []


def _answer(request: MessagesRequest) -> AnswerOptions:
    tools = tools_of(request)
    return answer_options(
        _NAMES,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop_sequences,
        reasoning_effort=request.output_config and request.output_config.effort,
        tools=tools,
        tool_choice=_tool_choice(request.tool_choice, {tool.name for tool in tools}),
        json_schema=request.format and request.format.json_schema,
    )


def _tool_choice(choice: _ToolChoice | None, names: set[str]) -> str:
    if choice is None:
        return "auto"
    if choice.type == "any" and not names:
        raise RefusedError("tool_choice: there is no tool of the client to choose; give `tools`", param="tool_choice")
    if choice.type == "tool":
        if choice.name not in names:
            raise RefusedError(
                f"tool_choice.name: no tool {choice.name!r} in `tools`; name one of them", param="tool_choice.name"
            )
        return choice.name
    return _CHOICES[choice.type]


def _tags(request: MessagesRequest) -> dict[str, str]:
    """Return the user as a tag; Claude Code writes its session there too, as JSON."""
    user = request.metadata and request.metadata.user_id
    if not user:
        return {}
    try:
        known = json.loads(user)
    except ValueError:
        known = user
    if not isinstance(known, dict):
        return {"user": user}
    return {"session": str(known["session_id"])} if "session_id" in known else {}


def _ignored(request: MessagesRequest) -> set[str]:
    """Return the names of fields without an effect."""
    unknown = {name for name, value in (request.model_extra or {}).items() if value is not None}
    servers = {f"tools.{tool.type}" for tool in request.tools or () if not tool.is_of_the_client}
    return unknown.difference(FUSION) | servers
