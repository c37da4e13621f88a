"""Table of dialects: the API that is spoken at each path."""

from collections.abc import Mapping
from typing import Final

from fusion.server.base import Dialect
from fusion.server.dialects.chat.dialect import Chat
from fusion.server.dialects.messages.dialect import Messages

_CHAT: Final = Chat()
_MESSAGES: Final = Messages()
DIALECTS: Final[Mapping[str, Dialect]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/messages": _MESSAGES,
}


def dialect_at(path: str, headers: Mapping[str, str]) -> Dialect:
    """Return the dialect in whose shape an error at a path is written."""
    other = _MESSAGES if path.startswith("/v1/messages/") or "anthropic-version" in headers else _CHAT
    return DIALECTS.get(path, other)
