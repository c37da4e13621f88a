"""Hands in quotes and previews: tools and a sandbox that are supposed, and never used."""

import re
from typing import Final

from fusion.core.types import Finished, ToolResult, ToolSpec
from fusion.sandbox import Sandbox
from fusion.sandbox.base import Command
from fusion.stages.simulation import Chance, Spread
from fusion.tools.base import Tool, Toolbox

_RESULT: Final = Spread(20, 150, 1500)
"""Tokens of a result."""
_DESCRIPTION: Final = "A tool that is supposed: what it does and which arguments it takes is known once it is there."
_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")
_WORST: Final = 250_000
"""Tokens of the largest result; it is cut off where the stage says."""


class Supposed(Toolbox):
    """Has a tool for every name, whose results are placeholders of a likely length."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    async def find(self, name: str) -> tuple[Tool, ...]:
        return (_Supposed(name, self._chance),)

    def check(self, name: str) -> None:
        """Take every name: those of a run are checked before it is simulated."""


class _Supposed(Tool):
    effect = "read"

    def __init__(self, name: str, chance: Chance) -> None:
        self.spec = supposed(name)
        self._chance = chance

    async def call(self, arguments: object) -> ToolResult:
        tokens = _WORST if self._chance.worst else round(self._chance.among(_RESULT))
        return ToolResult(self._chance.text(tokens))


class SupposedSandbox(Sandbox):
    """Runs no command: 6 of 10 succeed, and none in the worst case."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    async def run(self, command: Command) -> Finished:
        failed = self._chance.worst or self._chance.happens(0.4)
        return Finished(int(failed), "", "", by="simulation")


def supposed(name: str) -> ToolSpec:
    """Return the spec of a tool that is not asked for its own."""
    return ToolSpec(name=_OTHER.sub("_", name)[:64], description=_DESCRIPTION)
