"""generate: one prompt, one answer."""

from typing import ClassVar, Literal

from fusion.stages.base import OutputField, StageContext
from fusion.stages.shaped import ShapedStage

__all__ = ["Generate"]


class Generate(ShapedStage):
    """Asks one model once. Fields: `text`, and `data` where a `schema` is given."""

    kind: Literal["generate"] = "generate"
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    default_prompt: ClassVar[str] = "generate/default"

    async def run(self, ctx: StageContext) -> None:
        await self.write(ctx, await ctx.variables(), "generate")
