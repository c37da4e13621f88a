"""A provider on loopback with weather: rate limits, errors, dropped connections, hangs and cut replies.

python -m benchmarks.weather.server '{"rps": 10}'     # prints its port

It speaks `/chat/completions`, whole and streamed. `POST /weather` replaces the settings; `GET /seen` returns the
number of requests by outcome, and the times of the admitted ones, in seconds since the first request.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["Server", "Weather"]


@dataclass
class Weather:
    """Settings of the server.

    `rps` requests are admitted in any second, the others refused with 429 and, if it is set, a Retry-After of
    `retry_after` seconds. `changes` are pairs of a time since the first request and the `rps` from then on.
    `delay` is the time of a reply in seconds, and `times` as much for a share of `tail`. `faults` are
    probabilities of 429, 500, drop, hang and cut.
    """

    rps: float | None = None
    retry_after: float | None = None
    changes: tuple[tuple[float, float], ...] = ()
    delay: float = 0.3
    tail: float = 0.0
    times: float = 10.0
    faults: dict[str, float] | None = None
    seed: int = 1

    def rate(self, at: float) -> float | None:
        """Return the requests a second at a time since the first request."""
        return next((rate for since, rate in reversed(self.changes) if at >= since), self.rps)


class Server:
    """Answers with the last line of the last message, and counts."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.seen: Counter[str] = Counter()
        self.admitted: list[float] = []
        self._first: float | None = None
        self._window: deque[float] = deque()
        self._deck: list[bool] = []
        self._random = random.Random(weather.seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return False to close the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = head.partition("content-length:")[2].split("\r\n", 1)[0].strip()
        body = await reader.readexactly(int(length or 0))
        if "/chat/completions" not in head:
            writer.write(_response(200, self._control(head, body)))
            return True
        return await self._complete(json.loads(body), writer)

    def _control(self, head: str, body: bytes) -> Any:
        if head.startswith("post"):
            given = json.loads(body)
            self.__init__(Weather(**{**given, "changes": tuple(map(tuple, given.get("changes", ())))}))  # type: ignore[misc]  # begin anew
        return {"seen": dict(self.seen), "admitted": self.admitted}

    async def _complete(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        fault = self._fault(now - self._first)
        self.seen[fault or "ok"] += 1
        if fault in ("429", "500"):
            again = self.weather.retry_after if fault == "429" else None
            writer.write(_response(int(fault), {"error": {"message": "weather", "type": "weather"}}, again))
            return True
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault != "drop":
            self.admitted.append(round(now - self._first, 4))
            await asyncio.sleep(self.weather.delay * (self.weather.times if self._is_late() else 1.0))
        if fault == "drop":
            return False
        whole = _reply(asked)
        writer.write(whole[: len(whole) * 2 // 3] if fault == "cut" else whole)
        return fault != "cut"

    def _is_late(self) -> bool:
        """Draw from a shuffled hundred, so that the share of late replies is exact."""
        if not self._deck:
            self._deck = [number < 100 * self.weather.tail for number in range(100)]
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def _fault(self, at: float) -> str | None:
        rate = self.weather.rate(at)
        if rate is not None:
            while self._window and self._window[0] <= at - 1:
                self._window.popleft()
            if len(self._window) >= rate:
                return "429"
            self._window.append(at)
        drawn = self._random.random()
        for fault, share in (self.weather.faults or {}).items():
            if drawn < share:
                return fault
            drawn -= share
        return None


def _reply(asked: dict[str, Any]) -> bytes:
    text = asked["messages"][-1]["content"].rstrip().rpartition("\n")[2]
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    base = {"id": "1", "created": 1, "model": asked["model"], "usage": usage}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return _response(200, {**base, "object": "chat.completion", "choices": [choice]})
    pieces = [
        {"index": 0, "delta": {"content": text}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    events = [{**base, "object": "chat.completion.chunk", "choices": [piece]} for piece in pieces]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    return _framed(200, "text/event-stream", body)


def _response(status: int, data: Any, retry_after: float | None = None) -> bytes:
    more = "" if retry_after is None else f"retry-after: {retry_after:g}\r\n"
    return _framed(status, "application/json", json.dumps(data).encode(), more)


def _framed(status: int, kind: str, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Weather\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


async def main() -> None:
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    server = await asyncio.start_server(Server(Weather(**given)).serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
