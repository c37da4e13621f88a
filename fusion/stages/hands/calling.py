"""Calling: stages that call one tool without a model, once or for each item."""

from abc import abstractmethod
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar

from pydantic import Field

from fusion.core.errors import StageError
from fusion.core.types import File, Item, OnUnsure, ToolResult, ToolTerms
from fusion.stages.base import ExpressionUse, OutputField
from fusion.stages.context import StageContext, Variables
from fusion.stages.items import Hand, OnceOrEach


class Calling(OnceOrEach):
    """A stage that calls one tool once or, with `over`, once for each item, with arguments from expressions."""

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
    called_key: ClassVar[str]
    """The key that names the tool."""

    @property
    @abstractmethod
    def called(self) -> str:
        """The name of the tool."""

    @property
    def acts(self) -> bool:
        return True

    def tools_used(self) -> Iterator[tuple[str, str]]:
        yield self.called_key, self.called

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        for name, source in self.arguments.items():
            yield ExpressionUse(f"arguments.{name}", source)

    def terms(self) -> ToolTerms:
        """Return the terms of its calls."""
        return ToolTerms(
            timeout=self.call_timeout, max_result=self.max_result, on_unsure=self.on_unsure, retries_failed=True
        )

    def hand(self, ctx: StageContext) -> Hand:
        return _Each(self, ctx)

    async def once(self, ctx: StageContext) -> None:
        result = await self.call(ctx, await ctx.inputs.values())
        ctx.outputs.give("text", result.text)
        ctx.outputs.give("data", result.data)

    async def call(self, ctx: StageContext, variables: Variables, item: int | None = None) -> ToolResult:
        """Return the result of the call. Raises StageError for a failed one."""
        given = {
            name: _plain(await ctx.inputs.value_of(source, variables), name)
            for name, source in self.arguments.items()
        }
        result = await ctx.tools.call(self.called, given, step=self.kind, item=item, terms=self.terms())
        if result.failed:
            raise StageError(f"{self.called_key} {self.called!r}: {result.text}")
        return result


class _Each(Hand):
    """Calls the tool for each item."""

    def __init__(self, stage: Calling, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        return self._work(item, variables)

    async def _work(self, item: Item, variables: dict[str, Any]) -> Item:
        result = await self._stage.call(self._ctx, variables, item.index)
        return item.worked(result.text if result.data is None else result.data, self._stage.called)


def _plain(value: Any, name: str) -> Any:
    """Return an argument with the values of items in their place. Raises StageError for a picture or document."""
    if isinstance(value, Item):
        return _plain(value.value, name)
    if isinstance(value, (list, tuple)):
        return [_plain(part, name) for part in value]
    if isinstance(value, File):
        raise StageError(f"argument {name!r} is {value}, which no tool takes")
    return value
