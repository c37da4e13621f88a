"""synthesize: one answer is written out of several, and what a judge says of them."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fusion.stages.answer import AnswerStage
from fusion.stages.base import ExpressionUse, Following, OutputField
from fusion.stages.context import StageContext
from fusion.stages.items import check_enough
from fusion.stages.labels import followed, relabelled
from fusion.stages.simulation import Estimate


class Synthesize(AnswerStage, Following):
    """Writes the answer out of the raw answers of others, with a judge's analysis where there is one.

    Fields: `text`, and `data` where a `schema` is given. The template sees the usable `answers` and the `analysis`,
    both under the answers' labels.
    """

    kind: Literal["synthesize"] = "synthesize"
    analysis: str | None = Field(default=None, description="What a judge says of them: an expression, such as judge.")
    min_ok: int = Field(default=1, ge=0, description="How many answers must be usable.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    own_max_tokens: ClassVar[int] = 4000
    default_prompt: ClassVar[str] = "synthesize/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"answers", "analysis"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "One call, which reads all the answers; one more where the answer does not hold to the `schema` at first."
        ),
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
        analysis = None if self.analysis is None else ctx.inputs.evaluate(self.analysis, variables)
        seen = {"answers": answers, "analysis": relabelled(analysis, answers)}
        await self.write(ctx, {**variables, **seen}, "synthesize")
