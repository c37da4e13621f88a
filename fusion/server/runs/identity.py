"""Identity of a request, by which a repeated one is known, and the runs of the last minutes by it."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 900.0
"""Seconds in which a repeated request goes on with the run of the first."""
_MOST: Final = 10_000
_KEY: Final = "idempotency-key"
_RETRIES: Final = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class Identity:
    """A request by its caller, path, body and Idempotency-Key.

    `repeats` is True for one that goes on with an earlier run of the same identity: it has such a key, or its SDK
    says that it is a retry.
    """

    digest: str
    repeats: bool

    @classmethod
    def of(cls, caller: str | None, path: str, body: bytes, headers: Mapping[str, str]) -> "Identity":
        """Return the identity of a request."""
        key, retries = headers.get(_KEY, ""), headers.get(_RETRIES, "0")
        found = hashlib.sha256()
        for part in ((caller or "").encode(), path.encode(), key.encode("utf-8", "replace"), body):
            found.update(len(part).to_bytes(8, "big"))
            found.update(part)
        return cls(found.hexdigest()[:32], bool(key) or (retries.isdecimal() and int(retries[:9]) > 0))


class Recent:
    """The runs of the last minutes by the digest of their request."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def put(self, digest: str, run_id: str) -> None:
        """Remember the run of a request."""
        self._found.pop(digest, None)
        self._found[digest] = (time.monotonic(), run_id)
        self._forget()

    def get(self, digest: str) -> str | None:
        """Return the latest run of the same request."""
        self._forget()
        return self._found[digest][1] if digest in self._found else None

    def _forget(self) -> None:
        until = time.monotonic() - WINDOW
        while self._found and (len(self._found) > _MOST or next(iter(self._found.values()))[0] < until):
            self._found.popitem(last=False)
