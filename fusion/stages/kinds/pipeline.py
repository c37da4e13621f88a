"""pipeline: another pipeline as a stage."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fusion.stages.base import ExpressionUse, OutputField, PipelineUse, Stage
from fusion.stages.context import StageContext
from fusion.stages.simulation import Estimate


class PipelineStage(Stage):
    """Runs another pipeline: with inputs of this one, within this stage's budget, under the same run.

    Fields: `text`, `data` and `confidence` of the other pipeline's output. A required input that is not given takes
    the request. Events and results name its stages `stage/theirs`.
    """

    kind: Literal["pipeline"] = "pipeline"
    pipeline: str = Field(min_length=1, description="A pipeline's name, or its file relative to this one.")
    inputs: dict[str, str] = Field(default={}, description="Its inputs: an expression for each.")

    estimate: ClassVar[Estimate] = Estimate(
        cost="The calls of the other pipeline.",
        example="""\
inputs: {topic: A topic.}
stages:
  report: {kind: pipeline, pipeline: plan-execute-review, inputs: {task: "'Write about ' ~ inputs.topic"}}
output: report
""",
        calls=lambda stage, items, within: (within or {}).get(""),
    )
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        for name, source in self.inputs.items():
            yield ExpressionUse(f"inputs.{name}", source)

    def pipelines(self) -> Iterator[PipelineUse]:
        yield PipelineUse("pipeline", self.pipeline, frozenset(self.inputs))

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        outcome = await ctx.models.run_pipeline(
            {name: await ctx.inputs.value_of(source, variables) for name, source in self.inputs.items()}
        )
        for name, value in outcome._asdict().items():
            ctx.outputs.give(name, value)
