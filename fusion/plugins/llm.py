"""llm: each pipeline as a model `fusion/NAME` of the command line tool llm, sync and async.

https://llm.datasette.io/. Runs are kept in the default store, so that results of tools go on with the run that asked
for them.
"""

import base64
import functools
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import llm
from llm.parts import AttachmentPart, Part, TextPart, ToolCallPart, ToolResultPart
from pydantic import Field

if TYPE_CHECKING:
    from fusion import Fusion
    from fusion.client.handle import RunHandle
    from fusion.client.stream import AsyncRunStream, RunStream
    from fusion.core.result import Result
    from fusion.core.types import ToolSpec
    from fusion.plugins.chat import Pieces

_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
_LIMITS: Final = ("usd", "tokens", "seconds")
_ANSWER: Final = ("temperature", "top_p", "seed", "max_tokens")


class PipelineOptions(llm.Model.Options):
    """Options of a run: its budget, and sampling and limit of its answer."""

    usd: float | None = Field(default=None, gt=0, description="Most dollars of the run.")
    tokens: int | None = Field(default=None, gt=0, description="Most tokens of the run, input and output.")
    seconds: float | None = Field(default=None, gt=0, description="Most seconds of the run.")
    profile: str | None = Field(default=None, description="Models to run on, such as local or openai.")
    inputs: str | None = Field(default=None, description="Further inputs of the pipeline, as a JSON object.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature of the answer.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling of the answer.")
    seed: int | None = Field(default=None, description="Seed of the answer.")
    max_tokens: int | None = Field(default=None, gt=0, description="Most output tokens of the answer.")


class _Described:
    """Abilities, options and id of a pipeline as a model of llm."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    attachment_types: set[str] | frozenset[str] = _TYPES
    Options = PipelineOptions

    def __init__(self, name: str, path: Path) -> None:
        self.model_id = f"fusion/{name}"
        self.pipeline = path


class PipelineModel(_Described, llm.Model):
    """A pipeline as a model of llm."""

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        from fusion.client.client import answered_result
        from fusion.client.stream import RunStream
        from fusion.plugins.chat import Pieces

        with _refusals():
            sayings, pieces = RunStream(), Pieces()
            handle = _started(self.pipeline, prompt, sayings)
            with sayings.of(handle, Pieces.whole) as answer:
                for piece in answer if stream else ():
                    yield pieces.new(piece, answer.restarts)
                yield _end(pieces, answered_result(handle, answer.result), response)


class AsyncPipelineModel(_Described, llm.AsyncModel):
    """A pipeline as an async model of llm."""

    async def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> AsyncGenerator[str, None]:
        from fusion.client.client import answered_result
        from fusion.client.stream import AsyncRunStream
        from fusion.plugins.chat import Pieces

        with _refusals():
            sayings, pieces = AsyncRunStream(), Pieces()
            handle = _started(self.pipeline, prompt, sayings)
            async with sayings.of(handle, Pieces.whole) as answer:
                if stream:
                    async for piece in answer:
                        yield pieces.new(piece, answer.restarts)
                yield _end(pieces, answered_result(handle, await answer.result()), response)


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register every pipeline: the shipped ones, and those in the user's folder."""
    from fusion.core.config import Settings
    from fusion.prompts.library import Library

    library = Library.standard(user=Settings.from_environment().library_dir)
    for name, path in library.pipelines.items():
        register(PipelineModel(name, path), AsyncPipelineModel(name, path))


# From a prompt of llm to a run.


@functools.cache
def _default(process: int, profile: str | None) -> "Fusion":
    from fusion import Fusion

    return Fusion(store=True, profile=profile)


_CHOSEN: "list[Fusion]" = []


def use(fusion: "Fusion | None") -> None:
    """Run pipelines with this Fusion from now on; None for one of its own again."""
    _CHOSEN[:] = [] if fusion is None else [fusion]


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise the errors of Fusion as those of llm, which the command line shows without a traceback."""
    from fusion.core.errors import FusionError

    try:
        yield
    except FusionError as error:
        raise llm.ModelError(str(error)) from error


def _started(pipeline: Path, prompt: Any, stream: "RunStream | AsyncRunStream") -> "RunHandle":
    """Start a run, or go on with the one whose calls of tools have their results."""
    from fusion.core.params import AnswerOptions
    from fusion.plugins.chat import spoken

    options = prompt.options
    fusion = _CHOSEN[0] if _CHOSEN else _default(os.getpid(), options.profile)
    said = spoken([one for message in prompt.messages for one in _spoken(message)])
    given = {name: getattr(options, name) for name in _ANSWER}
    answer = AnswerOptions(
        **{name: value for name, value in given.items() if value is not None},
        tools=tuple(map(_tool, prompt.tools)),
        json_schema=prompt.schema,
        turns=said.turns,
    )
    budget = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None} or None
    if said.continues is not None:
        return fusion.start_continue(
            said.continues, said.results, stream=True, answer=answer, budget=budget, on_event=stream.sink
        )
    return fusion.start(
        said.prompt,
        stream=True,
        pipeline=pipeline,
        inputs=_inputs(options.inputs),
        answer=answer,
        budget=budget,
        on_event=stream.sink,
    )


def _inputs(given: str | None) -> dict[str, Any]:
    from fusion.core.errors import InputError

    if given is None:
        return {}
    try:
        found = json.loads(given)
    except ValueError as error:
        raise InputError(f"option `inputs` is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"option `inputs` is {given!r:.80}; give a JSON object of inputs by name")
    return found


def _tool(tool: Any) -> "ToolSpec":
    from fusion.core.types import ToolSpec

    return ToolSpec(name=tool.name, description=tool.description or "", parameters=tool.input_schema or {})


def _spoken(message: Any) -> Iterator[dict[str, Any]]:
    """Yield a message of llm as one of OpenAI, and each result of a tool as one of its own."""
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case TextPart():
                content.append({"type": "text", "text": part.text})
            case AttachmentPart() if part.attachment is not None:
                content.append(_attached(part.attachment))
            case ToolCallPart():
                calls.append(_called(part))
            case ToolResultPart():
                yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.output}
    if content or calls:
        said: dict[str, Any] = {"role": message.role, "content": content if _has_files(content) else _joined(content)}
        yield {**said, "tool_calls": calls} if calls else said


def _called(part: Part) -> dict[str, Any]:
    assert isinstance(part, ToolCallPart)
    function = {"name": part.name, "arguments": json.dumps(part.arguments)}
    return {"id": part.tool_call_id, "type": "function", "function": function}


def _attached(attachment: Any) -> dict[str, Any]:
    kind, data = attachment.resolve_type(), base64.b64encode(attachment.content_bytes()).decode()
    url = f"data:{kind};base64,{data}"
    if kind == "application/pdf":
        return {"type": "file", "file": {"file_data": url}}
    return {"type": "image_url", "image_url": {"url": url}}


def _has_files(content: Iterable[dict[str, Any]]) -> bool:
    return any(part["type"] != "text" for part in content)


def _joined(content: Iterable[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in content)


# From a Result to a response of llm.


def _end(pieces: "Pieces", result: "Result", response: Any) -> str:
    """Tell the response the calls of tools, the usage and the cost, and return the rest of the answer."""
    for call in result.tool_calls:
        response.add_tool_call(llm.ToolCall(call.name, _arguments(call.arguments), call.id))
    response.set_usage(input=result.usage.input, output=result.usage.output)
    response.response_json = {
        "run_id": result.run_id,
        "status": result.status,
        "usd": None if result.cost.unknown_calls else str(result.cost.usd),
        "notes": list(result.notes),
    }
    return pieces.rest(result.text)


def _arguments(given: str) -> dict[str, Any]:
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": given}
