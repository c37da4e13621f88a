"""The sandbox of a stage."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fusion.core.errors import StageError
from fusion.core.types import Finished, ProcessLimits
from fusion.stages.context import StageSandbox

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext


class RunSandbox(StageSandbox):
    """The sandbox that the settings of a run choose."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx

    async def run(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
        limits: ProcessLimits | None = None,
    ) -> Finished:
        raise StageError("no sandbox is available")
