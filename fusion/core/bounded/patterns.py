"""Patterns: regular expressions of users, searched for in text of models within a time limit.

They are written as for Python's `re` and run by the library `regex`, which can be interrupted. A pattern that the two
read differently is refused.
"""

import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fusion.core.bounded import clock
from fusion.core.errors import StageError

if TYPE_CHECKING:
    import regex

SECONDS: Final = 0.5
"""Longest search in a text."""
MAX_PATTERN: Final = 10_000
MAX_MATCHES: Final = 100_000
_LIGHT: Final = 1_024
"""Longest text, in characters, that is searched on the event loop."""
_MAX_COPIES: Final = 50_000
_REPEAT: Final = re.compile(r"\{(\d+)(?:,\d*)?\}")
# `regex` reads `x{e<=1}` as approximate and `[[:alpha:]]` as a class; to `re` both are plain characters.
_FUZZY: Final = re.compile(r"(?:^|[^\\])(?:\\\\)*\{(?=[^{}]*[eids])[eids\d<=+,: ]*(?::[^{}]*)?\}")
_POSIX: Final = re.compile(r"\[:\^?\w+:\]")


class PatternError(ValueError):
    """A pattern that is invalid, or that the library reads differently from `re`."""


class PatternTimeoutError(StageError):
    """A search that takes too long."""


@lru_cache(maxsize=512)
def compiled(pattern: str) -> "regex.Pattern[str]":
    """Return the compiled pattern. Raises PatternError for one that cannot be used."""
    import regex

    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"a regular expression of {len(pattern):,} characters; the most is {MAX_PATTERN:,}")
    _check_readings(pattern)
    try:
        return regex.compile(pattern, regex.VERSION0)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise PatternError(f"unsupported regular expression {_short(pattern)}: {error}") from error


def _check_readings(pattern: str) -> None:
    """Refuse a pattern that `re` refuses, or that `regex` reads in another way."""
    if _copies(pattern) > _MAX_COPIES:
        raise PatternError(f"{_short(pattern)} repeats more than {_MAX_COPIES:,} times; use + or *")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except FutureWarning as error:
        raise PatternError(f"ambiguous regular expression {_short(pattern)}: {error}; escape the bracket") from error
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"invalid regular expression {_short(pattern)}: {error}") from error
    if _FUZZY.search(pattern):
        raise PatternError(rf"ambiguous regular expression {_short(pattern)}: write \{{ for a brace")
    if _POSIX.search(pattern):
        raise PatternError(rf"ambiguous regular expression {_short(pattern)}: write \[: for [: within a class")


def _copies(pattern: str) -> int:
    """Return the most copies of a part in the compiled pattern, where `a{3}` is `aaa`."""
    copies = 1
    for least in _REPEAT.findall(pattern):
        copies = min(copies * max(int(least[:9]), 1), _MAX_COPIES + 1)
    return copies


def found(pattern: str, text: str) -> bool:
    """Return True if the pattern matches anywhere in the text. Raises PatternTimeoutError."""
    _check_light(text)
    try:
        return compiled(pattern).search(text, timeout=_seconds(), concurrent=True) is not None
    except TimeoutError as error:
        _fail(pattern, error)


def last(pattern: str, text: str) -> str | None:
    """Return the first group of the last match, or all of it in a pattern without groups; None without a match.

    Raises PatternTimeoutError.
    """
    _check_light(text)
    match: Any = None
    try:
        for one in _matches(pattern, text):
            match = one
            clock.check()
    except TimeoutError as error:
        _fail(pattern, error)
    if match is None:
        return None
    return (match.group(1) if match.re.groups else match.group()) or ""


def _matches(pattern: str, text: str) -> "Iterator[regex.Match[str]]":
    matches = compiled(pattern).finditer(text, timeout=_seconds(), concurrent=True)
    for number, match in enumerate(matches):
        if number > MAX_MATCHES:
            raise TimeoutError
        yield match


def _check_light(text: str) -> None:
    here = clock.current()
    if here is not None and here.light and len(text) > _LIGHT:
        raise clock.OverrunError


def _seconds() -> float:
    here = clock.current()
    return SECONDS if here is None else max(min(here.left, SECONDS), 0.001)


def _fail(pattern: str, error: TimeoutError) -> NoReturn:
    here = clock.current()
    if here is not None and here.light:
        raise clock.OverrunError from error
    raise PatternTimeoutError(
        f"the pattern {_short(pattern)} takes longer than {SECONDS:g} s on this text; avoid repeats of repeats"
    ) from error


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else f"{pattern[:57]}…")
