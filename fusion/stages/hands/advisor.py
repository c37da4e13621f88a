"""Advisor: a stronger role that a model may ask for short advice in the middle of its work, as a tool."""

from typing import Final

from pydantic import Field

from fusion.core.errors import ModelError
from fusion.core.schema import strict_json
from fusion.core.types import JsonSchema, ToolCall, ToolResult, ToolSpec
from fusion.core.validation import Authored
from fusion.stages.base import shown_in
from fusion.stages.context import Ask, StageContext
from fusion.stages.hands.work import Bench

_NAME: Final = "ask_advisor"
_MOST_QUESTION: Final = 8_000
"""Most characters of a question."""
_PARAMETERS: Final[JsonSchema] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "The question, with all that is needed to answer it."}
    },
    "required": ["question"],
    "additionalProperties": False,
}


class Advisor(Authored):
    """A role that may be asked for short advice: how often, and how long its advice may be."""

    role: str = Field(description="The role that gives advice.")
    calls: int = Field(default=2, ge=1, le=100, description="Most questions for an answer.")
    max_tokens: int = Field(default=400, gt=0, description="Output limit of an advice, thinking included.")
    prompt: str = Field(default="shared/advisor", description="The template of a question to the advisor.")

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it."""
        most = "once" if self.calls == 1 else f"up to {self.calls} times"
        words = f"Ask a stronger model for short advice on a hard point, {most}. It sees your question alone."
        return ToolSpec(name=_NAME, description=words, parameters=_PARAMETERS)


class Advice(Bench):
    """The advice of one answer: the questions asked so far."""

    def __init__(self, ctx: StageContext, advisor: Advisor, worker: Ask) -> None:
        self._ctx = ctx
        self._advisor = advisor
        self._worker = worker
        self._asked = 0

    def specs(self) -> tuple[ToolSpec, ...]:
        return (self._advisor.spec,)

    async def call(self, call: ToolCall, step: str, item: int | None) -> ToolResult:
        question = _question(call.arguments)
        if not question:
            return ToolResult('Give the question in words: {"question": "…"}', failed=True)
        if self._asked >= self._advisor.calls:
            return ToolResult(f"No more advice: {self._advisor.calls} questions are the most.", failed=True)
        self._asked += 1
        own = {"question": question, "task": shown_in(self._worker.messages, None).text}
        messages = self._ctx.inputs.render(self._advisor.prompt, {**await self._ctx.inputs.values(), **own})
        ask = Ask(self._advisor.role, messages, step, item, max_tokens=self._advisor.max_tokens)
        try:
            return ToolResult((await self._ctx.models.call(ask)).text)
        except ModelError as error:
            if error.stops:
                raise
            self._ctx.events.note(f"{step}: no advice: {error}", item=item)
            return ToolResult("No advice can be had now; go on without.", failed=True)


def _question(arguments: str) -> str:
    try:
        given = strict_json.loaded(arguments or "{}")
    except (ValueError, RecursionError):
        return ""
    question = given.get("question") if isinstance(given, dict) else None
    return question.strip()[:_MOST_QUESTION] if isinstance(question, str) else ""
