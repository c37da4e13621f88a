"""Standard output and standard error, with control characters removed for terminals."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Final, TextIO

# Control characters, and those that turn the direction of writing: a model or document must not steer the terminal.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)
_SAID_AT_MOST = 400
_Rows = Sequence[Sequence[str]]
_JOINED: Final = "\N{NO-BREAK SPACE}"
_GAP: Final = 2
_LEAST: Final = 6
"""Columns between the cells of a table, and the width to which its widest ones are narrowed."""


def is_terminal(stream: TextIO | None) -> bool:
    """True if the stream is an open terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def is_live(stream: TextIO | None) -> bool:
    """True for a terminal that can redraw lines."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def width_of(stream: TextIO | None) -> int | None:
    """The columns of a terminal, or of COLUMNS; None for anything else."""
    known = is_terminal(stream) or os.environ.get("COLUMNS", "").isdecimal()
    return shutil.get_terminal_size().columns if known else None


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


@contextmanager
def logged(*names: str, quiet: bool, debug: bool) -> Iterator[None]:
    """Print the log of Fusion and of these libraries to standard error, tracebacks with --debug only."""
    import logging  # only a server logs

    class Short(logging.Formatter):
        def formatException(self, ei: object) -> str:  # noqa: N802 - as logging names it
            error = ei[1] if isinstance(ei, tuple) else ei
            return f"{type(error).__name__}: {error}; `fusion --debug …` shows the traceback"

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((logging.Formatter if debug else Short)("fusion: %(message)s"))
    handler.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("fusion", *names)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(handler.level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def quiet_stdout() -> None:
    """Redirect standard output to the null device, so that flushing at exit cannot fail."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def table(
    rows: _Rows,
    *,
    right: Collection[int] = (),
    width: int | None = None,
    spared: Sequence[int] = (),
    last: Sequence[int] = (),
    whole: Collection[int] = (),
) -> list[str]:
    """Format rows as lines with aligned columns; those in `right` are aligned right.

    A table that is wider than `width` loses the `spared` columns, in this order, as far as needed. Then cells are
    folded between words, except in the `whole` columns; then columns of `last` are left out. Then words are folded.
    """
    columns = [at for at in range(len(rows[0]) if rows else 0) if any(row[at] for row in rows)]
    cells = [[_unbroken(text) if at in right else text for at, text in enumerate(row)] for row in rows]
    widths, least = _fitted(cells, columns, width, spared, last, whole)
    if width is not None:
        _narrow(widths, least, width)
        _narrow(widths, [room if at in whole else _LEAST for at, room in zip(columns, widths, strict=True)], width)
    return [line for row in cells for line in _lines([row[at] for at in columns], widths, columns, right)]


def _fitted(
    rows: _Rows,
    columns: list[int],
    width: int | None,
    spared: Sequence[int],
    last: Sequence[int],
    whole: Collection[int],
) -> tuple[list[int], list[int]]:
    """Leave columns out until the others fit; return the widths of their cells and of their longest words."""

    def sizes() -> tuple[list[int], list[int]]:
        widths = [max(len(row[at]) for row in rows) for at in columns]
        words = [max(len(word) for row in rows for word in row[at].split(" ")) for at in columns]
        return widths, [
            max(pair) if at in whole else pair[1] for at, *pair in zip(columns, widths, words, strict=True)
        ]

    for chosen, fitting in ((spared, 0), (last, 1)):
        for column in chosen:
            if width is None or _sum(sizes()[fitting]) <= width:
                break
            if column in columns:
                columns.remove(column)
    return sizes()


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _unbroken(text: str) -> str:
    """Join the words of a figure, which may be folded ahead of its range alone: `28 s (4.8 s-1 min 51 s)`."""
    return text.replace(" ", _JOINED).replace(f"{_JOINED}(", " (")


def _narrow(widths: list[int], least: Sequence[int], width: int) -> None:
    """Narrow the widest columns, each to its least at most, until the table fits."""
    while _sum(widths) > width:
        wide = [at for at, room in enumerate(widths) if room > least[at]]
        if not wide:
            return
        widths[max(wide, key=widths.__getitem__)] -= 1


def _lines(cells: Sequence[str], widths: Sequence[int], columns: Sequence[int], right: Collection[int]) -> list[str]:
    """Format a row; a cell wider than its column takes several lines."""
    folded = [
        [cell] if len(cell) <= room else textwrap.wrap(cell, room, break_on_hyphens=at not in right)
        for cell, room, at in zip(cells, widths, columns, strict=True)
    ]
    lines = (
        [_cell(part, room, at in right) for part, room, at in zip(parts, widths, columns, strict=True)]
        for parts in zip_longest(*folded, fillvalue="")
    )
    return [(" " * _GAP).join(parts).rstrip().replace(_JOINED, " ") for parts in lines]


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def wrapped(line: str, width: int | None, *, indent: str = "  ") -> list[str]:
    """Wrap a line in `width` columns, continued with an indent."""
    if width is None or len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)


def _encoding(out: TextIO, text: str) -> str:
    """Return the encoding of a terminal; UTF-8 for files and pipes."""
    return out.encoding if is_terminal(out) and out.encoding else "utf-8"
