"""Callers: known by their tokens, which are compared in constant time."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request, cookie_parser

from fusion.core.config import ServerTable, secret
from fusion.core.errors import UsageError
from fusion.server.base import RefusedError

TOKEN: Final = "FUSION_SERVER_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the token of a server that has one caller."""
COOKIE: Final = "fusion_token"
"""Cookie with the token of a browser, which sends no header of its own for streams of events."""
OPERATOR: Final = "default"
"""Caller with the token of FUSION_SERVER_TOKEN, who sees the runs of all."""


class Callers:
    """Callers by their tokens. Without any token, every request is taken, with no caller."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._digests = {name: _digest(token) for name, token in tokens.items()}

    @classmethod
    def of(cls, table: ServerTable) -> "Callers":
        """Return the callers of the settings and of FUSION_SERVER_TOKEN. Raises UsageError for an empty variable."""
        tokens = {}
        for name, variable in table.tokens.items():
            token = secret(variable)
            if token is None:
                raise UsageError(f"[server.tokens] {name}: the environment variable {variable} is not set")
            tokens[name] = token
        own = secret(TOKEN)
        return cls(tokens if own is None else {OPERATOR: own, **tokens})

    @classmethod
    def needed(cls, table: ServerTable, *, public: bool) -> "Callers":
        """Return the callers of a server. Raises UsageError for a `public` one without a token."""
        callers = cls.of(table)
        if public and not callers:
            raise UsageError(
                f"a server on an address that others reach needs a token: set {TOKEN} or [server.tokens]"
            )
        return callers

    def __bool__(self) -> bool:
        return bool(self._digests)

    def caller(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the caller, None without tokens. Raises RefusedError for a missing or wrong token."""
        if not self._digests:
            return None
        given = _token(headers)
        if given is None:
            raise _unknown("a token is needed: send it as `Authorization: Bearer …` or `x-api-key`")
        digest, found = _digest(given), None
        for name, known in self._digests.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise _unknown("the token is not known")
        return found


def caller_of(request: Request) -> str | None:
    """Return the caller of a request; None on a server without tokens."""
    caller: str | None = request.scope.get("state", {}).get("caller")
    return caller


def _token(headers: Mapping[str, str]) -> str | None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and given.strip():
        return given.strip()
    return headers.get("x-api-key") or cookie_parser(headers.get("cookie", "")).get(COOKIE) or None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _unknown(message: str) -> RefusedError:
    return RefusedError(message, status=401, kind="authentication_error", code="invalid_api_key")
