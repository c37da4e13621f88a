"""Log of a check: the end and the output of a process, cleaned and cut."""

import re
import unicodedata
from typing import Final

from fusion.core.types import Finished, ProcessLimits

MOST: Final = 3000
"""Characters of one stream that a log holds."""
MOST_BYTES: Final = 4 * 2 * MOST + 1000
"""Bytes of a log at most: two streams of characters of four bytes, and the words around them."""
_HEAD: Final = 1000
_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,1000}(?:\x07|\x1b\\)?|[@-_])")
_BREAK: Final = re.compile(r"\r\n?")


def log_of(finished: Finished, limits: ProcessLimits, headline: str) -> str:
    """Return the log of a process: a headline, the reason of its end, and its output."""
    parts = [headline or _end(finished, limits)]
    for name, text in (("standard output", finished.stdout), ("standard error", finished.stderr)):
        if said := shown(text):
            parts.append(f"{name}:\n{said}")
    return "\n\n".join(parts)


def _end(finished: Finished, limits: ProcessLimits) -> str:
    """Return the end of a process in words."""
    match finished.stopped_by:
        case "seconds":
            return f"stopped: it ran longer than {limits.seconds:g} seconds"
        case "memory":
            return f"stopped: it took more than {limits.memory:,} MB of memory"
        case "disk":
            return "stopped: it made too many files"
        case "output":
            return f"stopped: it wrote more than {limits.output:,} bytes"
    if finished.code < 0:
        return f"ended by signal {-finished.code}"
    return f"exit code {finished.code}"


def shown(text: str) -> str:
    """Return output without escape sequences and control characters, its middle cut out if it is long."""
    if len(text) > 4 * MOST:
        text = f"{text[: 2 * MOST]}\n{text[-2 * MOST :]}"
        return _cut(_clean(text), whole=False)
    return _cut(_clean(text), whole=True)


def _clean(text: str) -> str:
    plain = _BREAK.sub("\n", _ESCAPE.sub("", text))
    return "".join(one for one in plain if one in "\n\t" or unicodedata.category(one)[0] != "C").strip()


def _cut(text: str, *, whole: bool) -> str:
    if whole and len(text) <= MOST:
        return text
    return f"{text[:_HEAD].rstrip()}\n[… the middle is cut out …]\n{text[-(MOST - _HEAD) :].lstrip()}"
