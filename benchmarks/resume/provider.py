"""A provider on loopback whose answers never repeat, and which logs every request.

python -m benchmarks.resume.provider LOG [LEAST MOST]

prints its port. LOG gets a line of JSON for each request and each reply.

A prompt that begins with PLAN gets a streamed plan of as many subtasks as it names, each with a mark of its own;
with accepted subtasks, it gets the rest. WORK MARK gets `done MARK` and the number of the reply; REVIEW is accepted;
MERGE returns all marks in order. Each reply takes LEAST to MOST seconds, by default 5 to 40 ms.
"""

import asyncio
import hashlib
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_MARK = re.compile(r"\b[a-z]+-[0-9a-f]{12}\b")


class Provider:
    """Answers and logs: `asked` with the digest of the request's body, `answered` once the whole reply is sent."""

    def __init__(self, log: IO[str], delay: tuple[float, float] = (0.005, 0.04)) -> None:
        self._log = log
        self._delay = delay
        self._random = random.Random()
        self._number = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left, or was killed
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = json.loads(await reader.readexactly(length))
        self._number += 1
        number, said = self._number, body["messages"][-1]["content"]
        first = next(m["content"] for m in body["messages"] if m["role"] == "user")
        kind = first.partition(" ")[0].strip()
        self._say("asked", number, kind, body)
        await asyncio.sleep(self._random.uniform(*self._delay))
        pieces = self._pieces(kind, first, said, number, body["messages"])
        if body.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for piece in _events(pieces):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(self._random.uniform(0, 0.004))
            writer.write(b"0\r\n\r\n")
        else:
            reply = json.dumps(_whole("".join(pieces))).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(reply)
            )
            writer.write(reply)
        await writer.drain()
        self._say("answered", number, kind, body)

    def _pieces(self, kind: str, first: str, said: str, number: int, messages: list[dict[str, str]]) -> list[str]:
        if kind == "PLAN":
            accepted = [json.loads(m["content"]) for m in messages if m["role"] == "assistant"]
            begun = len(accepted[-1]["subtasks"]) if accepted else 0
            return list(self._plan(int(first.split()[1]), begun, number))
        if kind in ("WORK", "POLISH"):
            return [f"{kind.lower()}ed {' '.join(_MARK.findall(first))} in reply {number}"]
        if kind == "REVIEW":
            return [
                json.dumps({"issues": [{"quote": "", "problem": f"none in reply {number}"}], "verdict": "accept"})
            ]
        return [" ".join(_MARK.findall(first)) + f" in reply {number}"]

    def _plan(self, count: int, begun: int, number: int) -> Iterator[str]:
        head = {"goal": f"all parts in reply {number}", "constraints": [], "merge_instructions": "keep the order"}
        yield json.dumps(head)[:-1] + ', "subtasks": ['
        for at in range(begun, count):
            mark = f"part-{self._random.getrandbits(48):012x}"
            subtask = {
                "title": f"Part {at + 1}",
                "instructions": mark,
                "needs": [],
                "difficulty": 1,
                "capabilities": [],
                "expected_output": "",
                "criteria": [],
            }
            yield json.dumps(subtask) + (", " if at + 1 < count else "")
        yield "]}"

    def _say(self, what: str, number: int, kind: str, body: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        line = {"what": what, "number": number, "kind": kind, "digest": digest, "at": time.time()}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()


def _whole(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
    }


def _events(pieces: list[str]) -> Iterator[bytes]:
    def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", **more}
        return f"data: {json.dumps({'choices': [choice], **data})}\n\n".encode()

    for piece in pieces:
        yield event({"role": "assistant", "content": piece})
    yield event({}, "stop")
    usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": []}
    yield f"data: {json.dumps({**last, 'usage': usage})}\n\n".encode()
    yield b"data: [DONE]\n\n"


async def main(log: Path, *delay: float) -> None:
    with log.open("a", encoding="utf-8") as file:
        provider = Provider(file, (delay[0], delay[1])) if delay else Provider(file)
        server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *map(float, sys.argv[2:])))
