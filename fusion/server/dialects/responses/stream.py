"""Stream: the events of a run as those of a response.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from fusion.core.errors import FusionError
from fusion.core.events import Delta, EventBase, Restarted
from fusion.core.result import Result
from fusion.core.types import ToolCall
from fusion.server.dialects.base import ServedRun
from fusion.server.dialects.responses.message import Message
from fusion.server.dialects.responses.response import Json, Told, call_item, output_of, status_of
from fusion.server.dialects.responses.writer import Frame, Writer


class Part(Protocol):
    """An item of the output before the answer, such as a call of a server's own tool."""

    def begin(self, writer: Writer, run: ServedRun) -> AsyncIterator[Frame]:
        """Write the beginning of the item, and what is known of it already."""
        ...

    def take(self, event: EventBase) -> AsyncIterator[Frame]:
        """Write what an event of the run changes."""
        ...

    def end(self, result: Result) -> AsyncIterator[Frame]:
        """Write the end of the item."""
        ...

    def item(self, result: Result) -> Json:
        """Return the item of a run that has ended."""
        ...


async def streamed(told: Told, run: ServedRun, *, after: int = -1, part: Part | None = None) -> AsyncIterator[bytes]:
    """Yield the events of a response whose numbers are above `after`, to its end; a fault becomes an event too."""
    writer = Writer()
    try:
        async for frame in _frames(told, run, writer, part):
            if frame.number > after:
                yield frame.data
    except FusionError as error:
        yield writer.event("error", code="server_error", message=str(error), param=None).data


async def _frames(told: Told, run: ServedRun, writer: Writer, part: Part | None) -> AsyncIterator[Frame]:
    message = Message(told.run_id, writer)
    for name in ("created", "in_progress"):
        yield writer.event(f"response.{name}", response=told.unfinished())
    if part is not None:
        async for frame in part.begin(writer, run):
            yield frame
    async for event in run:
        async for frame in _of_event(event, message, part):
            yield frame
    result = await run.result()
    if part is not None:
        async for frame in part.end(result):
            yield frame
    for frame in _ending(told, result, message, writer, [] if part is None else [part.item(result)]):
        yield frame


async def _of_event(event: EventBase, message: Message, part: Part | None) -> AsyncIterator[Frame]:
    match event:
        case Delta():
            for frame in message.add(event.text):
                yield frame
        case Restarted():
            message.restart()
        case _ if part is not None:
            async for frame in part.take(event):
                yield frame


def _ending(told: Told, result: Result, message: Message, writer: Writer, before: list[Json]) -> Iterator[Frame]:
    """Write the rest of the answer, its calls of tools, and the end of the response."""
    status = status_of(result)
    if status in ("failed", "cancelled"):
        yield _failed(told, result, writer, before)
        return
    if message.is_open or result.text or not result.tool_calls:
        yield from message.end(status)
    for number, call in enumerate(result.tool_calls, start=1):
        yield from _called(told.run_id, number, call, writer)
    output = [*before, *output_of(result, max(1, message.number))]
    yield writer.event(f"response.{status}", response=told.finished(result, output))


def _failed(told: Told, result: Result, writer: Writer, before: list[Json]) -> Frame:
    return writer.event("response.failed", response=told.finished(result, before))


def _called(run_id: str, number: int, call: ToolCall, writer: Writer) -> Iterator[Frame]:
    """Write a call of a tool of the client."""
    place, done = writer.item(), call_item(run_id, number, call)
    of_item: dict[str, Any] = {"item_id": done["id"], "output_index": place}
    begun = call_item(run_id, number, call, "in_progress")
    yield writer.event("response.output_item.added", output_index=place, item=begun)
    yield writer.event("response.function_call_arguments.delta", delta=call.arguments, **of_item)
    yield writer.event("response.function_call_arguments.done", arguments=call.arguments, name=call.name, **of_item)
    yield writer.event("response.output_item.done", output_index=place, item=done)
