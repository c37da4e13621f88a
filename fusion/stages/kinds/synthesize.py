"""synthesize: one answer is written out of several, and what a judge says of them."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fusion.core.errors import StageError
from fusion.stages.answer import ShapedStage
from fusion.stages.base import ExpressionUse, OutputField
from fusion.stages.context import StageContext
from fusion.stages.labels import followed, relabelled
from fusion.stages.simulation import Estimate


class Synthesize(ShapedStage):
    """Writes the answer out of the raw answers of others, with a judge's analysis where there is one.

    Fields: `text`, and `data` where a `schema` is given. The template sees the usable `answers` and the `analysis`,
    both under the answers' labels.
    """

    kind: Literal["synthesize"] = "synthesize"
    over: str = Field(description="The answers, such as those of a panel.")
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
        yield ExpressionUse("over", self.over, flows=True)
        if self.analysis is not None:
            yield ExpressionUse("analysis", self.analysis)

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        answers, failed = await followed(ctx, self.over)
        if len(answers) < self.min_ok:
            why = f"; the first: {failed[0].failure.message}" if failed and failed[0].failure else ""
            raise StageError(
                f"{len(answers)} of {len(answers) + len(failed)} answers are usable, {self.min_ok} are needed{why}"
            )
        analysis = None if self.analysis is None else ctx.inputs.evaluate(self.analysis, variables)
        seen = {"answers": answers, "analysis": relabelled(analysis, answers)}
        await self.write(ctx, {**variables, **seen}, "synthesize")
