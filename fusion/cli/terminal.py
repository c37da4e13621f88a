"""Standard output and standard error: what is written where, and what a terminal is spared."""

import os
import re
import sys
from typing import TextIO

# Everything that a terminal would obey: models and documents are not to steer it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SAID_AT_MOST = 400


def is_terminal(stream: TextIO | None) -> bool:
    """True where somebody reads along."""
    return stream is not None and not stream.closed and stream.isatty()


def is_live(stream: TextIO | None) -> bool:
    """True for a terminal that can redraw lines."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def printable(text: str) -> str:
    """The text without control characters, but for line ends and tabs."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """A message on one line, and not endless."""
    line = " ".join(text.split())
    return line if len(line) <= _SAID_AT_MOST else f"{line[: _SAID_AT_MOST - 1]}…"


def write(text: str) -> None:
    """Write to standard output, now. Raises BrokenPipeError if its reader has gone, UsageError for a full disk."""
    out = sys.stdout
    if out is None:
        return
    if is_terminal(out):
        text = printable(text)
    try:
        out.flush()
        out.buffer.write(text.encode(_encoding(out, text), errors="replace"))
        out.flush()
    except BrokenPipeError:
        quiet_stdout()
        raise
    except OSError as error:
        from fusion.core.errors import UsageError

        quiet_stdout()
        raise UsageError(
            f"cannot write to standard output: {error.strerror}; `-o FILE` writes the answer to a file"
        ) from error


def complain(text: str) -> None:
    """Write a line to standard error; nobody there is no reason to fail."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()
    except OSError:
        return


def quiet_stdout() -> None:
    """Send what is still to be written nowhere, so that Python does not fail over it at its end."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def table(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Rows as lines with aligned columns; those in `right` end at the same place."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(_cell(text, widths[at], at in right) for at, text in enumerate(row)).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _encoding(out: TextIO, text: str) -> str:
    """The terminal's own encoding; what goes into files and pipes is UTF-8."""
    return out.encoding if is_terminal(out) and out.encoding else "utf-8"
