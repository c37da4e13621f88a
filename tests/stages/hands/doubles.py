"""Tools with a record of their calls, and models that call them natively or over a schema."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from fusion import ModelInfo, Pipeline, Request, ScriptedModel
from fusion.core.types import Effect, ToolCall, ToolResult, ToolSpec
from fusion.models.providers.scripted import Say
from fusion.tools.base import Tool

OF_A_WORD = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


class Recorded(Tool):
    """A tool that notes its calls, and gives what `give` makes of the arguments."""

    def __init__(
        self,
        name: str = "search",
        give: Callable[[dict[str, Any]], Any] = lambda given: ToolResult(f"found {given.get('q')}"),
        *,
        effect: Effect = "read",
        seconds: float = 0.0,
        timeout: float = 5.0,
        parameters: Any = OF_A_WORD,
    ) -> None:
        self.spec = ToolSpec(name=name, description=f"The tool {name}.", parameters=parameters)
        self.effect = effect
        self.timeout = timeout
        self.calls: list[dict[str, Any]] = []
        self.flying = 0
        self.most = 0
        self._give = give
        self._seconds = seconds

    async def call(self, arguments: dict[str, Any]) -> Any:
        self.calls.append(arguments)
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await asyncio.sleep(self._seconds)
            return self._give(arguments)
        finally:
            self.flying -= 1


def call(name: str, number: int = 1, /, **arguments: Any) -> ToolCall:
    """A call of a tool by a model."""
    return ToolCall(id=f"call-{number}", name=name, arguments=json.dumps(arguments))


def calls(*wanted: ToolCall) -> Say:
    """A reply that calls tools."""
    return Say(finish_reason="tool_calls", tool_calls=wanted)


def results(request: Request) -> list[str]:
    """The results of tools that a native model is shown."""
    return [message.content for message in request.messages if message.role == "tool"]


def native(script: Any, name: str = "own/native") -> ScriptedModel:
    """A model that calls tools by itself."""
    return ScriptedModel(script, name=name)


def formed(script: Any) -> ScriptedModel:
    """A model that calls tools over a schema only."""
    return ScriptedModel(script, info=ModelInfo(id="own/formed", provider="own", local=True, json_schema=True))


def words(request: Request) -> str:
    """All that a model reads."""
    return "\n".join(message.content for message in request.messages)


def twice(request: Request, *wanted: ToolCall, answer: str = "done") -> Any:
    """Call tools natively once, then answer."""
    return answer if results(request) else calls(*wanted)


def pipeline(stage: str, *, more: str = "", output: str = "a") -> Pipeline:
    """A pipeline with one stage `a`, as YAML of its keys."""
    return Pipeline.from_yaml(f"inputs: {{q: A question.}}\n{more}stages: {{a: {{{stage}}}}}\noutput: {output}\n")


def steps(requests: Sequence[Request]) -> list[str]:
    return [request.key.step for request in requests if request.key is not None]
