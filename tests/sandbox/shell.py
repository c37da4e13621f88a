"""A kind of stage that runs commands in the sandbox."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from fusion import Pipeline
from fusion.core.errors import StageError
from fusion.core.events import CommandFinished, EventBase
from fusion.core.types import ProcessLimits
from fusion.stages import OutputField, Stage, StageContext


class Shell(Stage):
    """Runs some lines, one command each, and gives their ends."""

    kind: Literal["shell"] = "shell"
    lines: tuple[str, ...]
    beside: dict[str, str] = Field(default={})
    stdin: str = ""
    seconds: float = 10.0
    fails: bool = False
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))

    async def run(self, ctx: StageContext) -> None:
        limits = ProcessLimits(seconds=self.seconds)
        ends = [
            await ctx.sandbox.run(("sh", "-c", line), files=self.beside, stdin=self.stdin, limits=limits)
            for line in self.lines
        ]
        if self.fails and ctx.journal.kept("failed") is None:
            ctx.journal.keep("failed", True)
            raise StageError("the stage has no use for it")
        ctx.outputs.give("text", "".join(end.stdout for end in ends))
        ctx.outputs.give("data", [list(end) for end in ends])


def shells(*lines: str, **more: Any) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "shells",
            "inputs": {"task": {"default": ""}},
            "stages": {"sh": {"kind": "shell", "lines": lines, **more}},
            "output": "sh",
        }
    )


def commands_of(events: list[EventBase]) -> list[CommandFinished]:
    return [event for event in events if isinstance(event, CommandFinished)]
