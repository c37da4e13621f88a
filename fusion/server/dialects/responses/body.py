"""Body of a request of the Responses API, checked."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusion.server.base import RefusedError

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class _Part(BaseModel):
    """A part of a body; fields that are not declared have no effect."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)


class Tool(_Part):
    """A tool: a function of the client, a namespace of such, or one of a server's own, which is ignored."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    tools: list["Tool"] | None = None


class ToolChoice(_Part):
    """A choice of one tool, or of some."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[dict[str, Any]] = []


class Format(_Part):
    """The format of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")


class Text(_Part):
    """Options of the answer's text."""

    format: Format | None = None


class Reasoning(_Part):
    """Options of a reasoning model."""

    effort: Effort | None = None


class ResponsesBody(_Part):
    """A body, with the fields that have an effect."""

    model: Annotated[str, Field(min_length=1)]
    input: str | list[Any] = []
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    text: Text | None = None
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    reasoning: Reasoning | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    plugins: list[dict[str, Any]] | None = None
    conversation: Any = None
    prompt: Any = None


def checked(body: Mapping[str, Any]) -> ResponsesBody:
    """Return the fields of a body. Raises RefusedError with the first wrong one."""
    try:
        return ResponsesBody.model_validate(body)
    except ValidationError as error:
        raise _refused(error) from error


def _refused(error: ValidationError) -> RefusedError:
    flaw = error.errors(include_url=False)[0]
    where = ".".join(str(step) for step in flaw["loc"] if step not in _BRANCHES)
    return RefusedError(f"{where}: {flaw['msg']}", param=where)


_BRANCHES = frozenset({"str", "list[any]", "list[str]", "ToolChoice", "dict[str,any]"})
"""Steps that pydantic adds to a place for the branch of a union."""
