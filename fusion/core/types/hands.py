"""Acts of a stage beyond calls to models: results of tools, and processes in the sandbox."""

from typing import Any, Literal, NamedTuple

from pydantic import Field

from fusion.core.types.value import Value

Effect = Literal["read", "write"]
"""Effect of a tool: a `read` may be repeated, a `write` may not."""
StoppedBy = Literal["seconds", "memory", "output"]
"""Limit that stopped a process."""


class ToolResult(NamedTuple):
    """The result of a tool call: its text, its data if it has any, and True if the tool `failed`."""

    text: str
    data: Any = None
    failed: bool = False


class ProcessLimits(Value):
    """Limits of a process in the sandbox: seconds by the clock, MB of memory and of files, processes, output bytes.

    `output` is for standard output and standard error each; what goes beyond it stops the process.
    """

    seconds: float = Field(default=10.0, gt=0, le=600)
    memory: int = Field(default=512, gt=0)
    disk: int = Field(default=64, gt=0)
    processes: int = Field(default=64, gt=0)
    output: int = Field(default=1_000_000, gt=0)


class Finished(NamedTuple):
    """A process that has ended: its exit code (negative: the signal), its output, and the limit that stopped it."""

    code: int
    stdout: str
    stderr: str
    stopped_by: StoppedBy | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.code == 0 and self.stopped_by is None
