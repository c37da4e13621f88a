"""Fields of settings next to secrets: names of environment variables, and URLs of servers.

A secret that was written there by mistake is in no message.
"""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS: Final = re.compile(r"https?://[^\s/@]+(/\S*)?")


def _variable(given: object) -> object:
    if not isinstance(given, str) or not _VARIABLE.fullmatch(given):
        raise ValueError("expected the name of the environment variable that holds the value, never the value itself")
    return given


def _address(given: object) -> object:
    if isinstance(given, str) and "@" in given.partition("://")[2].partition("/")[0]:
        raise ValueError("invalid URL: it holds a user or password; name the variable of the key instead")
    if isinstance(given, str) and not _ADDRESS.fullmatch(given):
        raise ValueError(f"invalid URL {given!r}; write it as https://host.example.org/v1")
    return given


Variable = Annotated[str, BeforeValidator(_variable)]
"""Name of an environment variable."""
Address = Annotated[str, BeforeValidator(_address)]
"""URL of a server, without a user and password."""
