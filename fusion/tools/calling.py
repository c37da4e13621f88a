"""Calls of tools: within their time, whatever the tool does, with results of bounded size."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fusion.core.bounded import clock
from fusion.core.errors import BudgetError, FusionError, Waits
from fusion.core.types import ToolResult, as_text, whole_data, whole_text
from fusion.tools.base import Tool

_BYTES: Final = 4
"""Bytes of a token, about."""
_LEAVE: Final = 0.5
"""Seconds in which a cancelled call may end by itself; then it is left alone."""
_MOST_MESSAGE: Final = 2_000
_SECONDS: Final = 5.0
"""Longest reading of the data of a result."""


class Outcome(NamedTuple):
    """The outcome of a call: its bounded result, the characters of the whole one, and True if it was `late`."""

    result: ToolResult
    size: int = 0
    late: bool = False


async def called(
    tool: Tool, arguments: dict[str, Any], *, timeout: float | None, most: int, mask: Callable[[str], str]
) -> Outcome:
    """Return the outcome of a call; one that raises, is late, or gives what is no result is a failed one.

    `most` is the most tokens of the result, in which `mask` hides keys. Raises BudgetError and Waits, which are
    no failures of the tool.
    """
    seconds = tool.timeout if timeout is None else timeout
    try:
        given = await _in_time(tool, arguments, seconds)
    except TimeoutError:
        left = "" if tool.effect == "read" else "; it may have taken effect"
        return Outcome(failed(f"no result within {seconds:g} s{left}"), late=True)
    return await bounded(given, most, mask)


def failed(message: str) -> ToolResult:
    """Return the result of a call that failed."""
    return ToolResult(f"The call failed: {whole_text(message[:_MOST_MESSAGE])}", failed=True)


async def _in_time(tool: Tool, arguments: dict[str, Any], seconds: float) -> Any:
    """Return what a tool gives. A call that does not end when it is cancelled is left alone.

    Raises TimeoutError for a late call.
    """
    call = asyncio.ensure_future(_contained(tool, arguments))
    try:
        await asyncio.wait({call}, timeout=seconds)
        if not call.done():
            raise TimeoutError
    finally:
        if not call.done():
            call.cancel()
            call.add_done_callback(_forget)
            await asyncio.wait({call}, timeout=_LEAVE)
    return failed("the tool cancelled its own call") if call.cancelled() else call.result()


async def _contained(tool: Tool, arguments: dict[str, Any]) -> Any:
    """Call a tool; an exception, also one that would end the process, becomes a failed result."""
    try:
        return await tool.call(arguments)
    except (asyncio.CancelledError, BudgetError, Waits):
        raise
    except FusionError as error:
        return failed(str(error))
    except BaseException as error:  # noqa: BLE001 - a tool must not end the process
        said = _said(error)
        return failed(f"{type(error).__name__}{': ' if said else ''}{said}")


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - of the tool's own exception
        return ""


def _forget(call: "asyncio.Future[Any]") -> None:
    if not call.cancelled():
        call.exception()


# Results.


async def bounded(given: Any, most: int, mask: Callable[[str], str]) -> Outcome:
    """Return the outcome of a call that gave this, cut to so many tokens; the text says what is cut off."""
    if not isinstance(given, ToolResult):
        said = f"the tool gave a {type(given).__name__}, which is no result"
        return Outcome(failed(said))
    room = most * _BYTES
    text, data, flaw = str(given.text or ""), given.data, ""
    size = len(text)
    if data is not None:
        data, written, flaw = await _data(data, room, mask)
        if not text.strip():
            text = written
        size = max(size, len(written))
    lines = [_cut(text, room, mask), *([flaw] if flaw else [])]
    return Outcome(ToolResult("\n".join(filter(None, lines)), data, bool(given.failed)), size)


async def _data(data: Any, room: int, mask: Callable[[str], str]) -> tuple[Any, str, str]:
    """Return the data of a result, its JSON up to a bound, and what is wrong with it."""
    try:
        written, whole = await clock.run(lambda: _written(data, room), size=clock.size_of(data), seconds=_SECONDS)
    except (TypeError, ValueError, RecursionError) as error:
        return None, "", f"[its data is left out: it is no JSON: {str(error)[:200]}]"
    except clock.TimeUpError:
        return None, "", "[its data is left out: it takes too long to read]"
    if not whole:
        return None, written, f"[its data is left out: it has more than {room:,} bytes]"
    return whole_data(json.loads(mask(written))), written, ""


def _written(data: Any, room: int) -> tuple[str, bool]:
    """Return the JSON of data, or its beginning, and True if it is whole."""
    pieces, left = [], room
    for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False).iterencode(data):
        clock.check()
        pieces.append(piece[: left + 1])
        left -= len(piece) if piece.isascii() else len(piece.encode(errors="replace"))
        if left < 0:
            return "".join(pieces), False
    return "".join(pieces), True


def _cut(text: str, room: int, mask: Callable[[str], str]) -> str:
    """Return a text, or its beginning of so many bytes with a line that says so."""
    head = text[:room]
    raw = head.encode(errors="replace")
    if len(raw) > room:
        head = raw[:room].decode(errors="ignore")
    said = mask(whole_text(head))
    if len(head) == len(text):
        return said
    return f"{said}\n[cut here: these are the first {len(head):,} of {len(text):,} characters]"


def shortened(value: Any, most: int = 200) -> str:
    """Return data as a line of JSON for people, cut."""
    text = as_text(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
