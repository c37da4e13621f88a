"""Chat completions as a dialect."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fusion.core.result import Result
from fusion.server.base import RefusedError, ServedRequest, ServedRun
from fusion.server.dialects.chat.reading import read
from fusion.server.dialects.chat.stream import chunks
from fusion.server.dialects.chat.writing import completion, error_body


class Chat:
    """Chat completions. https://platform.openai.com/docs/api-reference/chat"""

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServedRequest:
        """Return the request of a body. Raises RefusedError with the field."""
        return read(body)

    def whole(self, run: ServedRun, result: Result, request: ServedRequest) -> dict[str, Any]:
        """Return a `chat.completion`."""
        return completion(run, result)

    def stream(self, run: ServedRun, request: ServedRequest) -> AsyncIterator[bytes]:
        """Yield `chat.completion.chunk` events, and `[DONE]` after a whole answer."""
        return chunks(run, include_usage=bool(request.form.get("include_usage")))

    def refused(self, error: RefusedError, run_id: str | None = None) -> dict[str, Any]:
        """Return an error as OpenAI writes it."""
        return error_body(error, run_id)
