"""Secrets of the environment: keys as they are sent, and the values to mask."""

import os
import re
import time
from collections.abc import Collection
from typing import Final

from fusion.core.errors import UsageError

_SECRET: Final = re.compile(
    r"_API_KEY$|_TOKEN$|^PGPASSWORD$|^(?:AWS|AZURE)_.*(?:KEY|TOKEN|SECRET|PASSWORD|CONNECTION_STRING)(?!.*_FILE$)"
)
"""Matches variables that hold secrets; regions, addresses and versions are no secrets."""
_RUNS: Final = re.compile(r"[A-Za-z0-9]+")
_HEADER: Final = re.compile(r"[ -~]*")
_PLAIN: Final = re.compile(r"[\d.,:_/+-]+")
_ACCESS: Final = re.compile(
    r"^(?:HF|GH|GITHUB|GITLAB|HUGGINGFACE|HUGGING_FACE_HUB)_|_(?:API|ACCESS|AUTH|BEARER|SECRET)_"
)
_SHORTEST_TOKEN: Final = 16
_LONGEST_WORD: Final = 24
_STALE: Final = 1.0


def secret(name: str) -> str | None:
    """Return the key in a variable, without white space around it; None if it is unset or blank.

    Raises UsageError for a key with characters that no HTTP header can hold.
    """
    key = os.environ.get(name, "").strip()
    if not _HEADER.fullmatch(key):
        what = "a line break or control character" if key.isascii() else "a character that is not ASCII"
        raise UsageError(f"{name} holds {what} within its value: copy the key again, on one line")
    return key or None


def is_padded(name: str) -> bool:
    """Return True if a variable has white space around its value, as from a file that ends with a line feed."""
    value = os.environ.get(name, "")
    return value != value.strip()


def secrets(named: Collection[str] = ()) -> dict[str, str]:
    """Return the variables that hold secrets now, including those `named`, for redaction."""
    values = {name: os.environ.get(name, "") for name in _names(named)}
    return {name: value for name, value in values.items() if name in named or not _is_plain(name, value)}


class Watch:
    """The secrets of the environment, looked through again only where they may have changed.

    A change of a secret's value, or of the number of variables, counts at once; others after `_STALE` seconds.
    """

    def __init__(self, named: Collection[str] = ()) -> None:
        self._named = named
        self._seen: dict[str, str | None] = {}
        self._count = -1
        self._until = 0.0
        self._found: dict[str, str] = {}

    def current(self) -> dict[str, str]:
        """Return the variables that hold secrets; the same object as before if nothing has changed."""
        now, environment = time.monotonic(), os.environ
        if len(environment) != self._count or now > self._until or not self._is_unchanged():
            found = secrets(self._named)
            self._seen = {name: environment.get(name) for name in _names(self._named)}
            self._count, self._until = len(environment), now + _STALE
            self._found = self._found if found == self._found else found
        return self._found

    def _is_unchanged(self) -> bool:
        get = os.environ.get
        return all(get(name) == value for name, value in self._seen.items())


def _names(named: Collection[str]) -> list[str]:
    return [name for name in os.environ if name in named or _SECRET.search(name)]


def _is_plain(name: str, value: str) -> bool:
    """Return True for a `*_TOKEN` that is a number, a word or another short value, such as the number of a build."""
    if not name.endswith("_TOKEN") or name.startswith(("AWS_", "AZURE_")):
        return False
    value = value.strip()
    if len(value) < _SHORTEST_TOKEN or (value.isalpha() and len(value) < _LONGEST_WORD):
        return True
    if _PLAIN.fullmatch(value):
        return True
    return not _ACCESS.search(name) and not _is_random(value)


def _is_random(value: str) -> bool:
    """Return True for a text as generators of secrets write it: long runs of letters and digits, in any case."""
    runs = _RUNS.findall(value)
    mixed = [run for run in runs if not run.isalpha() and not run.isdigit()]
    cases = value.lower() != value != value.upper()
    return (
        any(len(run) >= 10 for run in mixed)
        or any(len(run) >= _LONGEST_WORD for run in runs)
        or bool(mixed and cases)
    )
