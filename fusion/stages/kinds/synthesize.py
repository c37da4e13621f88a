"""synthesize: one answer out of several, and a judge's analysis of them."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fusion.stages.answer import AnswerStage
from fusion.stages.base import ExpressionUse, Following, OutputField
from fusion.stages.context import StageContext
from fusion.stages.fields import Enough
from fusion.stages.items import check_enough
from fusion.stages.simulation import Estimate
from fusion.stages.verification.labels import followed, relabelled


class Synthesize(AnswerStage, Following):
    """Writes one answer out of several, with a judge's analysis if there is one.

    Fields: `text`, and `data` with a `schema`. The template reads the usable `answers` and the `analysis`, both under
    the labels of the answers.
    """

    kind: Literal["synthesize"] = "synthesize"
    analysis: str | None = Field(default=None, description="A judge's analysis: an expression, such as judge.")
    min_ok: Enough = Field(default=1, description="Answers that must be usable, as a count or share.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    own_max_tokens: ClassVar[int] = 4000
    default_prompt: ClassVar[str] = "synthesize/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"answers", "analysis"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=("One call, which reads all the answers; one more if the answer does not match the `schema` at first."),
        example="""\
inputs: {question: A question.}
stages:
  panel: {kind: panel, members: [frontier, bulk]}
  compare: {kind: judge, over: panel, role: frontier}
  answer: {kind: synthesize, over: panel, analysis: compare, role: frontier}
output: answer
""",
        calls=lambda stage, items, within: stage.calls_of_one(),
    )

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self.analysis is not None:
            yield ExpressionUse("analysis", self.analysis)

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        answers, failed = await followed(ctx, self.over)
        check_enough([*answers, *failed], self.min_ok, noun="answers")
        analysis = None if self.analysis is None else await ctx.inputs.value_of(self.analysis, variables)
        seen = {"answers": answers, "analysis": relabelled(analysis, answers)}
        await self.write(ctx, {**variables, **seen}, "synthesize")
