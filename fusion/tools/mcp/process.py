"""Process: a server of tools that a command starts, as a pair of message streams over its input and output."""

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

MOST_BYTES: Final = 4_000_000
"""Size of the longest message of a server; a longer one is skipped, and its call fails."""
_INLINE: Final = 65_536
"""Longest message that is read on the event loop; a longer one is read in a thread."""
_GRACE: Final = 1.0
"""Seconds that a server has to end by itself, and then to end when told to."""
_TAIL: Final = 2_000
_CHUNK: Final = 65_536
_HEAD: Final = 512
_ID: Final = re.compile(rb'"id"\s*:\s*(\d+)')


class Tail:
    """The end of the text that a server writes beside its messages."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        while self._size - len(self._parts[0]) >= _TAIL:
            self._size -= len(self._parts.popleft())

    @property
    def text(self) -> str:
        return b"".join(self._parts)[-_TAIL:].decode("utf-8", "replace").strip()


@asynccontextmanager
async def streams(
    command: Sequence[str], *, env: Mapping[str, str], folder: Path, tail: Tail, ended: Callable[[int | None], None]
) -> AsyncIterator[tuple[Any, Any]]:
    """Start a server, and yield the streams of its messages and of those to it; end it at the end of the block.

    `tail` takes what it writes to its standard error, and lines that are no messages. `ended` is told its exit code
    when its output ends. Raises OSError if it cannot be started.
    """
    import anyio

    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=dict(env),
        cwd=folder,
        limit=MOST_BYTES,
        start_new_session=True,
    )
    from_server, received = anyio.create_memory_object_stream[Any](0)
    sent, to_server = anyio.create_memory_object_stream[Any](0)
    work = [_receive(process, from_server, tail, ended), _send(process, to_server), _listen(process, tail)]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield received, sent
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.shield(_end(process, tasks, (received, sent, from_server, to_server)))


async def _receive(process: Process, stream: Any, tail: Tail, ended: Callable[[int | None], None]) -> None:
    """Pass the messages of a server on, until its output ends."""
    import anyio

    assert process.stdout is not None
    try:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for message in _messages(process.stdout, tail):
                await stream.send(message)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await process.wait()
        ended(process.returncode)
        stream.close()  # last, so that calls under way fail when it is known why


async def _messages(stdout: asyncio.StreamReader, tail: Tail) -> "AsyncIterator[SessionMessage]":
    while True:
        try:
            line = await stdout.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            head = await _skip(stdout)
            if (found := _ID.search(head)) is not None:
                yield _oversized(int(found[1]))
            continue
        message = _parsed(line) if len(line) <= _INLINE else await asyncio.to_thread(_parsed, line)
        if message is None:
            tail.add(line)
        else:
            yield message


async def _skip(stdout: asyncio.StreamReader) -> bytes:
    """Read to the end of a line of any length, and return its beginning."""
    head = await stdout.read(_HEAD)
    while True:
        try:
            await stdout.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await stdout.readexactly(error.consumed or _CHUNK)
        except asyncio.IncompleteReadError:
            return head
        else:
            return head


def _parsed(line: bytes) -> "SessionMessage | None":
    import mcp_types
    from mcp.shared.message import SessionMessage

    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None


def _oversized(request: int) -> "SessionMessage":
    import mcp_types
    from mcp.shared.message import SessionMessage

    words = f"the answer is longer than {MOST_BYTES / 1e6:.0f} MB; ask for less at once"
    fault = mcp_types.ErrorData(code=mcp_types.INTERNAL_ERROR, message=words)
    return SessionMessage(mcp_types.JSONRPCError(jsonrpc="2.0", id=request, error=fault))


async def _send(process: Process, stream: Any) -> None:
    """Write the messages to a server to its input."""
    assert process.stdin is not None
    with suppress(OSError):  # the server has ended, which its output tells
        async for one in stream:
            process.stdin.write(one.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await process.stdin.drain()


async def _listen(process: Process, tail: Tail) -> None:
    assert process.stderr is not None
    while part := await process.stderr.read(_CHUNK):
        tail.add(part)


async def _end(process: Process, tasks: Sequence["asyncio.Future[None]"], streams: Sequence[Any]) -> None:
    """Close the input of a server, and end it and its children if it goes on."""
    assert process.stdin is not None
    for stream in streams:
        stream.close()
    process.stdin.close()
    for number in (None, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if number is not None:
            _signal(process, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await process.wait()
                break
    _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))  # children that hold its output open
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _signal(process: Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        elif process.returncode is None:
            process.send_signal(number)
