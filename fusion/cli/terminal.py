"""Standard output and standard error, with control characters removed for terminals."""

import os
import re
import shutil
import sys
from typing import TextIO

# Control characters, and those that turn the direction of writing: a model or document must not steer the terminal.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)
_SAID_AT_MOST = 400


def is_terminal(stream: TextIO | None) -> bool:
    """True if the stream is an open terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def is_live(stream: TextIO | None) -> bool:
    """True for a terminal that can redraw lines."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def width_of(stream: TextIO | None) -> int | None:
    """The columns of a terminal, None for anything else."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def printable(text: str) -> str:
    """Replace control characters, except line ends and tabs."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Join a message into one line, and cut it to 400 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _SAID_AT_MOST else f"{line[: _SAID_AT_MOST - 1]}…"


def ended(text: str) -> str:
    """End a text with a line end."""
    return text if text.endswith("\n") else f"{text}\n"


def write(text: str) -> None:
    """Write to standard output and flush. Raises BrokenPipeError if its reader is gone, UsageError on a full disk."""
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
    """Write a line to standard error; ignore a closed one."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()
    except OSError:
        return


def quiet_stdout() -> None:
    """Redirect standard output to the null device, so that flushing at exit cannot fail."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def table(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Format rows as lines with aligned columns; those in `right` are aligned right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(_cell(text, widths[at], at in right) for at, text in enumerate(row)).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _encoding(out: TextIO, text: str) -> str:
    """Return the encoding of a terminal; UTF-8 for files and pipes."""
    return out.encoding if is_terminal(out) and out.encoding else "utf-8"
