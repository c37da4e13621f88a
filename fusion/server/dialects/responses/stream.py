"""Stream: the events of a run as those of a response.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from fusion.core.errors import FusionError
from fusion.core.events import Delta, EventBase, Restarted, RunStarted
from fusion.core.result import Result
from fusion.server.base import ServedRun
from fusion.server.dialects.responses.message import Message
from fusion.server.dialects.responses.response import Json, Told, status_of
from fusion.server.dialects.responses.writer import Frame, Writer
from fusion.server.runs.kept import KeptRun
from fusion.server.runs.said import Said


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


class Streamed(NamedTuple):
    """A response to stream: its run, the item before the answer, and the beginnings of answers sent before stops."""

    told: Told
    run: ServedRun
    part: Part | None = None
    said: Callable[[], Sequence[Said]] = list


async def streamed(one: Streamed, *, after: int = -1) -> AsyncIterator[bytes]:
    """Yield the events of a response whose numbers are above `after`, to its end; a fault becomes an event too."""
    writer = Writer()
    try:
        async for frame in _Frames(one, writer):
            if frame.number > after:
                yield frame.data
    except FusionError as error:
        yield writer.event("error", code="server_error", message=str(error), param=None).data


class _Frames:
    """The frames of a response, in order."""

    def __init__(self, one: Streamed, writer: Writer) -> None:
        self._told, self._run, self._part, self._said = one
        self._writer = writer
        self._message = Message(self._told.run_id, writer)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        async for frame in self._begin():
            yield frame
        async for event in self._run:
            async for frame in self._of_event(event):
                yield frame
        async for frame in self._end(await self._run.result()):
            yield frame

    async def _begin(self) -> AsyncIterator[Frame]:
        for name in ("created", "in_progress"):
            yield self._writer.event(f"response.{name}", response=self._told.unfinished())
        if self._part is not None:
            async for frame in self._part.begin(self._writer, self._run):
                yield frame
        if isinstance(self._run, KeptRun):
            for frame in await self._said_before():
                yield frame

    async def _of_event(self, event: EventBase) -> AsyncIterator[Frame]:
        match event:
            case Delta():
                for frame in self._message.add(event.text):
                    yield frame
            case Restarted():
                self._message.restart()
            case RunStarted() if event.session > 1:
                for frame in await self._said_before():
                    yield frame
            case _ if self._part is not None:
                async for frame in self._part.take(event):
                    yield frame

    async def _end(self, result: Result) -> AsyncIterator[Frame]:
        before = []
        if self._part is not None:
            async for frame in self._part.end(result):
                yield frame
            before = [self._part.item(result)]
        for frame in _ending(self._told, result, self._message, self._writer, before):
            yield frame

    async def _said_before(self) -> list[Frame]:
        """Return the beginnings of the answer that were sent before the run was stopped."""
        frames: list[Frame] = []
        for text in await asyncio.to_thread(self._said):
            if text is None:
                self._message.lose()
            else:
                frames += self._message.add(text)
                self._message.restart()
        return frames


def _ending(told: Told, result: Result, message: Message, writer: Writer, before: list[Json]) -> Iterator[Frame]:
    """Write the rest of the answer, its calls of tools, and the end of the response."""
    status = status_of(result)
    if status in ("failed", "cancelled"):
        yield _failed(told, result, writer, before)
        return
    if message.is_open or result.text or not result.tool_calls:
        yield from message.end(status)
    for call in told.calls(result):
        yield from _called(call, writer)
    output = [*before, *told.output(result, max(1, message.number))]
    yield writer.event(f"response.{status}", response=told.finished(result, output))


def _failed(told: Told, result: Result, writer: Writer, before: list[Json]) -> Frame:
    return writer.event("response.failed", response=told.finished(result, before))


def _called(call: Json, writer: Writer) -> Iterator[Frame]:
    """Write a call of a tool of the client."""
    place, begun = writer.item(), {**call, "arguments": "", "status": "in_progress"}
    arguments, of_item = call["arguments"], {"item_id": call["id"], "output_index": place}
    yield writer.event("response.output_item.added", output_index=place, item=begun)
    yield writer.event("response.function_call_arguments.delta", delta=arguments, **of_item)
    yield writer.event("response.function_call_arguments.done", arguments=arguments, name=call["name"], **of_item)
    yield writer.event("response.output_item.done", output_index=place, item=call)
