"""Acts of a stage beyond calls to models: results of tools, and processes in the sandbox."""

from typing import Any, Final, Literal, NamedTuple

from pydantic import Field

from fusion.core.types.value import Value

Effect = Literal["read", "write"]
"""Effect of a tool: a `read` may be repeated, a `write` may not."""
OnUnsure = Literal["ask", "repeat", "fail"]
"""Way on for a call with the effect `write` that may have taken effect in an earlier process of its run."""
StoppedBy = Literal["seconds", "memory", "disk", "output"]
"""Limit that stopped a process."""


class ToolResult(NamedTuple):
    """The result of a tool call: its text, its data if it has any, and True if the tool `failed`."""

    text: str
    data: Any = None
    failed: bool = False


class ToolTerms(Value):
    """Terms of a call of a tool: its `timeout` in seconds, and the most tokens of its result, of about four bytes.

    `timeout` and `effect` are those of the tool if they are None. With `retries_failed`, a failed call is made again
    when its run is resumed; else its failure is its result for good.
    """

    timeout: float | None = None
    max_result: int = 2000
    on_unsure: OnUnsure = "ask"
    retries_failed: bool = False
    effect: Effect | None = None


class ProcessLimits(Value):
    """Limits of a command in the sandbox: seconds by the clock, MB of memory and of files, processes, output bytes.

    `memory` is for all processes of the command together. `output` is for standard output and standard error each;
    what goes beyond it stops the command.
    """

    seconds: float = Field(default=10.0, gt=0, le=600)
    memory: int = Field(default=512, gt=0)
    disk: int = Field(default=64, gt=0)
    processes: int = Field(default=64, gt=0)
    output: int = Field(default=1_000_000, gt=0)


class Finished(NamedTuple):
    """A command that has ended: its exit code (negative: the signal), its output, and the limit that stopped it.

    `by` is the name of the sandbox that ran it.
    """

    code: int
    stdout: str
    stderr: str
    stopped_by: StoppedBy | None = None
    seconds: float = 0.0
    by: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0 and self.stopped_by is None

    @property
    def reason(self) -> str:
        """The way in which the command ended, in words."""
        return ended(self.code, self.stopped_by)


_STOPPED: Final[dict[StoppedBy, str]] = {
    "seconds": "stopped: it took too long",
    "memory": "stopped: it took too much memory",
    "disk": "stopped: it made too many files",
    "output": "stopped: it wrote too much output",
}


def ended(code: int, stopped_by: StoppedBy | None) -> str:
    """Return the way in which a command ended, in words."""
    if stopped_by is not None:
        return _STOPPED[stopped_by]
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
