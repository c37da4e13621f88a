"""generate: one prompt, one answer."""

from typing import ClassVar, Literal

from fusion.stages.answer import AnswerStage
from fusion.stages.base import OutputField
from fusion.stages.context import StageContext
from fusion.stages.simulation import Estimate


class Generate(AnswerStage):
    """Calls one model once. Fields: `text`, and `data` with a `schema`."""

    kind: Literal["generate"] = "generate"
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    default_prompt: ClassVar[str] = "generate/default"
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "One call; one more if an answer does not match the `schema` at first, or for each "
            "continuation of a truncated text."
        ),
        example="""\
inputs: {text: A text.}
stages:
  answer:
    kind: generate
    role: bulk
    schema: {title: string, keywords: "list[string]"}
    prompt: |
      Give this text a title and three keywords.
      {{ inputs.text | fence }}
output: answer.data
""",
        calls=lambda stage, items, within: stage.calls_of_one(),
    )

    async def run(self, ctx: StageContext) -> None:
        await self.write(ctx, await ctx.inputs.values(), "generate")
