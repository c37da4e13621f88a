"""Tools of a stage."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusion.core.errors import StageError
from fusion.core.types import ToolResult, ToolSpec
from fusion.stages.context import StageTools

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext


class RunTools(StageTools):
    """Tools that the settings of a run declare."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx

    async def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        if names:
            raise StageError(f"no tool {names[0]!r} is declared")
        return ()

    async def call(self, name: str, arguments: Any, *, step: str, item: int | None = None) -> ToolResult:
        raise StageError(f"no tool {name!r} is declared")
