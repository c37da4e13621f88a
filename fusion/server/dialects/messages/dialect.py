"""Messages: the dialect of Anthropic's API."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fusion.core.result import Result
from fusion.server.base import RefusedError, ServedRequest, ServedRun
from fusion.server.dialects.messages.answer import error_of, message_of
from fusion.server.dialects.messages.events import events_of
from fusion.server.dialects.messages.request import served


class Messages:
    """Reads bodies of `POST /v1/messages`, and writes messages, streams and errors."""

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServedRequest:
        """Return the request of a body. Raises RefusedError with the field."""
        return served(body)

    def whole(self, run: ServedRun, result: Result, request: ServedRequest) -> dict[str, Any]:
        """Return the message of a run that has an answer."""
        return message_of(run, result)

    def stream(self, run: ServedRun, request: ServedRequest) -> AsyncIterator[bytes]:
        """Yield the events of a message."""
        return events_of(run)

    def refused(self, error: RefusedError, run_id: str | None = None) -> dict[str, Any]:
        """Return the body of an error."""
        return error_of(error, run_id)
