"""PipelineTool: a pipeline that a stage calls as a tool, on the budget of that stage."""

from typing import TYPE_CHECKING, Any, Final

from fusion.core.types import ToolResult, ToolSpec
from fusion.pipeline.inputs.arguments import arguments_schema
from fusion.stages.base import PipelineUse
from fusion.tools.base import Tool

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext

_SECONDS: Final = 3600.0
"""Time-out of a pipeline that has no limit in seconds of its own."""


class PipelineTool(Tool):
    """A pipeline as a tool: its inputs are the arguments. `mark` names the call in the steps of the pipeline's calls.

    It may be repeated, since its finished calls to models and tools are answered from the journal.
    """

    effect = "read"

    def __init__(self, ctx: "RunContext", use: PipelineUse, mark: str = "") -> None:
        self._ctx = ctx
        self._use = use
        self._mark = mark
        self._path = ctx.path + use.within
        pipeline = ctx.run.spec.loaded.nested[self._path].pipeline
        self.timeout = pipeline.budget.seconds or _SECONDS
        self.spec = ToolSpec(name=use.tool, description=pipeline.description, parameters=arguments_schema(pipeline))

    def of_call(self, item: int | None, step: str) -> "PipelineTool":
        """Return the tool for one call, by its place in the run."""
        item, step = self._ctx.placed(item, step)
        return PipelineTool(self._ctx, self._use, f"{step}." if item is None else f"{item + 1}.{step}.")

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        assert self._ctx.inner is not None
        outcome, lost = await self._ctx.inner.tool(self._path, arguments, self._mark)
        said = [f"[{part.stage}: {part.failure.message}]" for part in lost[:3]]
        if len(lost) > len(said):
            said.append(f"[and {len(lost) - len(said)} more failed parts]")
        return ToolResult("\n".join([outcome.text, *said]), outcome.data)
