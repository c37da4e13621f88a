"""A provider on loopback that answers at once and counts, with little overhead, in a process of its own.

It speaks OpenAI's chat completions. A prompt with `[[plan N]]` is answered with a JSON list of N parts, any other
with a line of text, streamed in two pieces if it is asked for as a stream. After `GET /latency/200` it answers after
200 ms.

    python -m benchmarks.perf.server        # prints its port; `GET /calls` returns the number of calls so far
"""

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

_PLAN = re.compile(rb"\[\[plan (\d+)\]\]")


def reply(text: str) -> bytes:
    """Return the body of a response with this text."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 2, "total_tokens": 92},
        }
    ).encode()


def parts(count: int) -> list[dict[str, str]]:
    """Return the parts of a plan."""
    return [{"title": f"Part {n}", "prompt": f"Write part {n}: export, mapping, dry runs."} for n in range(count)]


def streamed(*pieces: str) -> bytes:
    """Return the body of a streamed response with these pieces of text."""
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": one}, None) for one in pieces
    ]
    chunks = [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "mock",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        for delta, finish in [*deltas, ({}, "stop")]
    ]
    usage = {"prompt_tokens": 90, "completion_tokens": 2, "total_tokens": 92}
    chunks.append({**chunks[0], "choices": [], "usage": usage})
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


REPLY = reply("a result")
STREAM = streamed("a ", "result")
_ASKS_STREAM = re.compile(rb'"stream": ?true')


class Server:
    """Counts the calls; requests with GET do not count."""

    def __init__(self) -> None:
        self.calls = 0
        self.latency = 0.0
        self.arrived = 0.0
        """Arrival of the last call, on the monotonic clock of the machine."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(_response(await self._answer(reader)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get /calls"):
            return str(self.calls).encode()
        if head.startswith(b"get /arrived"):
            return str(self.arrived).encode()
        if head.startswith(b"get /latency/"):
            self.latency = int(head.split(maxsplit=2)[1].rpartition(b"/")[2]) / 1000
            return b"0"
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        self.calls += 1
        self.arrived = time.monotonic()
        if self.latency:
            await asyncio.sleep(self.latency)
        plan = _PLAN.search(body)
        if plan is not None:
            return reply(json.dumps(parts(int(plan[1]))))
        return STREAM if _ASKS_STREAM.search(body) else REPLY


def _response(body: bytes) -> bytes:
    kind = b"text/event-stream" if body is STREAM else b"application/json"
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


class Provider:
    """A server in a process of its own. `root` is its address."""

    def __init__(self, root: str) -> None:
        self.root = root

    def calls(self) -> int:
        """Return the number of calls so far."""
        return int(self._get("calls"))

    def arrived(self) -> float:
        """Return the arrival of the last call, on the monotonic clock of the machine."""
        return self._get("arrived")

    def answer_after(self, milliseconds: int) -> None:
        """Set the latency of all later calls."""
        self._get(f"latency/{milliseconds}")

    def _get(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.root}/{name}", timeout=10) as answer:
            return float(answer.read())


@contextmanager
def running() -> Iterator[Provider]:
    """Start a server, and end it."""
    command = [sys.executable, "-m", "benchmarks.perf.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Provider(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


async def main() -> None:
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
