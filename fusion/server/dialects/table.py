"""Table of dialects: the API that is spoken at each path."""

from collections.abc import Mapping
from typing import Final

from fusion.server.dialects.base import Dialect
from fusion.server.dialects.chat.dialect import Chat

_CHAT: Final = Chat()
DIALECTS: Final[Mapping[str, Dialect]] = {"/v1/chat/completions": _CHAT}


def dialect_at(path: str, headers: Mapping[str, str]) -> Dialect:
    """Return the dialect in whose shape an error at a path is written."""
    return DIALECTS.get(path, _CHAT)
