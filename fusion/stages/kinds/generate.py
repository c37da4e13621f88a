"""generate: one prompt, one answer."""

from typing import ClassVar, Literal

from fusion.stages.base import OutputField
from fusion.stages.context import StageContext
from fusion.stages.hands.stage import HandedStage
from fusion.stages.simulation import Estimate


class Generate(HandedStage):
    """Calls one model once. Fields: `text`, and `data` with a `schema`.

    With `tools` or an `advisor` the model is called until it answers, with the results of the tools that it called.
    """

    kind: Literal["generate"] = "generate"
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    default_prompt: ClassVar[str] = "generate/default"
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "One call; one more if an answer does not match the `schema` at first, or for each "
            "continuation of a truncated text. With `tools`, up to `max_steps`, twice for a model without functions."
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
