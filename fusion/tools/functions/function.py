"""Function: a Python function of the user's as a tool."""

import asyncio
import contextvars
import inspect
import json
import re
import threading
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from fusion.core.types import Effect, ToolResult, ToolSpec, as_text
from fusion.tools.base import SECONDS, Tool
from fusion.tools.functions.signature import Signature

_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")


class Function(Tool):
    """A Python function: its signature makes the parameters, its docstring the description.

    One that is not async runs in a thread of its own, which a call that is late or cancelled leaves behind.
    Raises UsageError for a signature that data cannot call.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], *, effect: Effect = "write", timeout: float = SECONDS
    ) -> None:
        self.name = name
        self.effect = effect
        self.timeout = timeout
        self._function = function
        self._signature = Signature(name, function)
        called = _OTHER.sub("_", name.rpartition(":")[2])[:64]
        self.spec = ToolSpec(name=called, description=self._signature.description, parameters=self._signature.schema)

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        return _result(await self._returned(self._signature.arguments(arguments)))

    async def _returned(self, arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**arguments)
        returned = await in_thread(lambda: self._function(**arguments), name=f"fusion-{self.spec.name}")
        return await returned if inspect.isawaitable(returned) else returned


async def in_thread(work: Callable[[], Any], *, name: str) -> Any:
    """Return the result of `work` in a daemon thread, so that work that never ends keeps no process alive."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(work)
        except BaseException as raised:  # noqa: BLE001 - raised again to the caller
            error = RuntimeError("StopIteration") if isinstance(raised, StopIteration) else raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


def _result(returned: Any) -> ToolResult:
    """Return what a function returned as a result. Raises ValueError for what JSON cannot hold."""
    if isinstance(returned, ToolResult):
        return returned
    if returned is None or isinstance(returned, str):
        return ToolResult(returned or "")
    try:
        data = to_jsonable_python(returned)
        json.dumps(data, allow_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"it returned a {type(returned).__name__} that JSON cannot hold: {said}") from error
    return ToolResult(as_text(data), data)
