"""Tool and Toolbox: the interface of every tool, and the table that finds tools by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from fusion.core.errors import StageError, UsageError, close_names
from fusion.core.types import Effect, ToolResult, ToolSpec

SECONDS: Final = 60.0
"""Time-out of a call of a tool that sets none, in seconds."""


class Tool(ABC):
    """A tool: its `spec` as a model sees it, its effect, and the `timeout` of a call in seconds.

    The name in `spec` consists of at most 64 letters, digits, `_` and `-`. The parameters are the JSON Schema of an
    object. The caller checks the arguments against them, ends a late call, and bounds the size of a result.
    """

    spec: ToolSpec
    effect: Effect = "write"
    timeout: float = SECONDS

    @staticmethod
    def of(function: Callable[..., Any], *, effect: Effect = "write", timeout: float = SECONDS) -> "Tool":
        """Return a function as a tool: its signature makes the arguments, its docstring the description.

        One that is not async runs in a thread of its own. Raises UsageError for a signature that data cannot call.
        """
        from fusion.tools.functions import Function  # most runs call no function

        return Function(getattr(function, "__name__", "function"), function, effect=effect, timeout=timeout)

    @abstractmethod
    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        """Call the tool on the event loop of the run, and return its result, also that of a failed call.

        An exception is a failed call, too: its message is the result. A cancelled call ends soon.
        """


class Toolbox(ABC):
    """Finds tools by the names that pipelines write. One object serves many runs on one event loop.

    `secrets` names variables of the environment that tools receive, whatever their names: results hide their values.
    """

    secrets: frozenset[str] = frozenset()

    @abstractmethod
    async def find(self, name: str) -> tuple[Tool, ...]:
        """Return the tools of a name: one, or all those of a server or group. It may start the server of a tool.

        Raises UsageError for an unknown name, with close ones, and StageError for a tool that cannot be had.
        """

    @abstractmethod
    def check(self, name: str) -> None:
        """Raise UsageError for a name that `find` cannot know, without starting a server."""

    async def close(self) -> None:  # noqa: B027 - most toolboxes hold nothing to end
        """End servers and processes, on the event loop of the runs; a later call may start them again."""


class Tools(Toolbox):
    """A toolbox of these tools, each under the name in its spec; a function is a tool that writes."""

    NONE: ClassVar["Tools"]

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]]) -> None:
        made = [tool if isinstance(tool, Tool) else Tool.of(tool) for tool in tools]
        self._tools = {tool.spec.name: tool for tool in made}
        if len(self._tools) < len(made):
            twice = next(tool.spec.name for tool in made if self._tools[tool.spec.name] is not tool)
            raise UsageError(f"two tools have the name {twice!r}: give each a name of its own")

    async def find(self, name: str) -> tuple[Tool, ...]:
        self.check(name)
        return (self._tools[name],)

    def check(self, name: str) -> None:
        if name not in self._tools:
            raise UsageError(f"no tool {name!r} is declared{close_names(name, self._tools)}")


class AnyTools(Toolbox):
    """A toolbox for previews, which takes every name and has no tool to call."""

    async def find(self, name: str) -> tuple[Tool, ...]:
        raise StageError(f"tool {name!r} is not called in a preview")

    def check(self, name: str) -> None:
        """Take every name."""


Tools.NONE = Tools(())
