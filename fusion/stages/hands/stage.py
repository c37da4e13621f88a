"""Stages that answer with hands: their model may call tools, and ask an advisor, before it answers."""

from collections.abc import Iterator
from functools import partial

from pydantic import Field

from fusion.stages.answer import AnswerStage
from fusion.stages.base import PromptUse
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.hands.advisor import Advice, Advisor
from fusion.stages.hands.spec import Hands
from fusion.stages.hands.work import worked

_TOOLS_OF_A_CALLER = frozenset({"tools", "tool_choice"})
_OF_ADVISOR = frozenset({"question", "task"})


class HandedStage(AnswerStage, Hands):
    """A stage that writes an answer, and whose model may call tools before it answers."""

    advisor: Advisor | None = Field(
        default=None, description="A role that the model may ask for short advice: {role, calls, max_tokens}."
    )

    @property
    def has_hands(self) -> bool:
        return bool(self.tools) or self.advisor is not None

    @property
    def acts(self) -> bool:
        return bool(self.tools)

    @property
    def most_tool_calls(self) -> int:
        return self.max_tool_calls * (2 if self.on_error == "escalate" else 1) if self.tools else 0

    def tools_used(self) -> Iterator[tuple[str, str]]:
        yield from (("tools", name) for name in self.tools)

    @property
    def obeys(self) -> frozenset[str]:
        return super().obeys - _TOOLS_OF_A_CALLER if self.has_hands else super().obeys

    def roles(self) -> Iterator[tuple[str, str]]:
        yield from super().roles()
        if self.advisor is not None:
            yield "advisor.role", self.advisor.role

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        if self.advisor is not None:
            yield PromptUse("advisor.prompt", self.advisor.prompt, _OF_ADVISOR)

    def calls_of_one(self) -> int:
        if not self.has_hands:
            return super().calls_of_one()
        continued = 0 if self.output_schema is not None else 2 * self.continuations
        advice = 0 if self.advisor is None else self.advisor.calls
        return (self.most_asked + continued + advice) * (2 if self.on_error == "escalate" else 1)

    async def entire(self, ctx: StageContext, ask: Ask) -> Answer:
        if not self.has_hands:
            return await super().entire(ctx, ask)
        benches = [] if self.advisor is None else [Advice(ctx, self.advisor, ask)]
        return await worked(ctx, ask, self, partial(super().entire, ctx), benches)
