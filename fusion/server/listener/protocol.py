"""Protocol: connections with bounds on their number, on the head of a request, and on the time of a reader."""

import asyncio
import json
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_HEAD_SECONDS: Final = 20.0
"""Seconds in which the head of a request must have arrived."""
_HEAD_BYTES: Final = 65_536
_STALLED_SECONDS: Final = 60.0
"""Seconds in which a client must read something of the response that waits for it."""


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools, within bounds.

    `most` connections are open at once. One more takes the place of the connection that is longest without a request;
    `idle` holds those, in order. It is refused if all have one.
    """

    most: int = 1_000
    idle: "dict[BoundedProtocol, None]"
    _head: int | None = 0
    """Bytes of the head so far; None once it is complete."""
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.most and not self._displace():
            self._refuse(503, "too many connections", retry=True)
        else:
            self.idle[self] = None
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self.idle.pop(self, None)
        self._read_on()
        super().connection_lost(exc)

    def _displace(self) -> bool:
        """Close the connection that is longest without a request; return False if there is none."""
        first = next(iter(self.idle), None)
        if first is None:
            return False
        del self.idle[first]
        first.transport.close()
        return True

    def pause_writing(self) -> None:
        """Begin to watch a client that does not read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def _watch(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(_STALLED_SECONDS, self._look, left)

    def _look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch()
        else:
            self.transport.abort()

    def _read_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > _HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, f"the headers have more than {_HEAD_BYTES:,} bytes")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def on_message_begin(self) -> None:
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end()
        self.idle.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self.idle[self] = None
        super().on_response_complete()

    def _begin(self) -> None:
        if self._timer is None:
            self._head = 0
            self._timer = self.loop.call_later(_HEAD_SECONDS, self._late)

    def _end(self) -> None:
        self._head = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(408, f"the headers did not arrive within {_HEAD_SECONDS:.0f} s")

    def _refuse(self, status: int, message: str, *, retry: bool = False) -> None:
        """Answer without a request, and close the connection."""
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"type": "error", "error": error}).encode()
        more = b"retry-after: 1\r\n" if retry else b"x-should-retry: false\r\n"
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        self.transport.write(b"".join([STATUS_LINE[status], head, more, b"\r\n", body]))
        self.transport.close()
