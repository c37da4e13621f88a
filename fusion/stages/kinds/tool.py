"""tool: one call of a tool, without a model."""

from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusion.core.errors import StageError
from fusion.core.types import Item, OnUnsure, ToolResult, ToolTerms
from fusion.stages.base import ExpressionUse, OutputField
from fusion.stages.context import StageContext, Variables
from fusion.stages.items import Hand, OnceOrEach
from fusion.stages.simulation import Estimate

_STEP = "tool"


class ToolStage(OnceOrEach):
    """Calls a tool once or, with `over`, once for each item. Fields: `text` and `data`, or `items`.

    An item has the data of the result as its `value`, or its text if it has no data. A call that fails is a failure
    of the stage or item, and is made again when the run is resumed.
    """

    kind: Literal["tool"] = "tool"
    tool: str = Field(min_length=1, description="The name of the tool.")
    arguments: dict[str, str] = Field(default={}, description="Its arguments: an expression for each.")
    call_timeout: float | None = Field(
        default=None, gt=0, description="Seconds of a call at most; else the tool's own."
    )
    max_result: int = Field(
        default=50_000, ge=16, le=250_000, description="Most tokens of a result; the rest is cut off, and said."
    )
    on_unsure: OnUnsure = Field(
        default="ask",
        description="A call that writes and was under way when the run was killed: ask a person, repeat it, or fail.",
    )

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model.",
        example="""\
inputs: {city: A city.}
stages:
  weather: {kind: tool, tool: weather, arguments: {city: inputs.city, days: "3"}}
  answer:
    kind: generate
    role: bulk
    prompt: |
      Which day suits a walk?
      {{ weather.text | fence }}
output: answer
""",
        items=lambda stage, items: items,
    )

    @property
    def acts(self) -> bool:
        return True

    def tools_used(self) -> Iterator[tuple[str, str]]:
        yield "tool", self.tool

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        for name, source in self.arguments.items():
            yield ExpressionUse(f"arguments.{name}", source)

    def hand(self, ctx: StageContext) -> Hand:
        return _Each(self, ctx)

    async def once(self, ctx: StageContext) -> None:
        result = await self.called(ctx, await ctx.inputs.values())
        ctx.outputs.give("text", result.text)
        ctx.outputs.give("data", result.data)

    async def called(self, ctx: StageContext, variables: Variables, item: int | None = None) -> ToolResult:
        """Return the result of the call. Raises StageError for a failed one."""
        given = {name: await ctx.inputs.value_of(source, variables) for name, source in self.arguments.items()}
        terms = ToolTerms(
            timeout=self.call_timeout, max_result=self.max_result, on_unsure=self.on_unsure, retries_failed=True
        )
        result = await ctx.tools.call(self.tool, given, step=_STEP, item=item, terms=terms)
        if result.failed:
            raise StageError(f"tool {self.tool!r}: {result.text}")
        return result


class _Each(Hand):
    """Calls the tool for each item."""

    def __init__(self, stage: ToolStage, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        return self._work(item, variables)

    async def _work(self, item: Item, variables: dict[str, Any]) -> Item:
        result = await self._stage.called(self._ctx, variables, item.index)
        return item.worked(result.text if result.data is None else result.data, self._stage.tool)
