"""Plain: code and its tests as one program without files, for an interpreter that knows no files."""

import ast
import re
import warnings
from typing import Final

_NEEDS_FILES: Final = re.compile(
    r"^[ \t]*(?:(?:async\s+)?def\s+test|class\s|(?:from|import)\s+(?:solution|tests)\b)", re.MULTILINE
)
_MOST: Final = 20_000


def plain(code: str, tests: str, mark: str) -> str | None:
    """Return a program that runs the tests behind the code and then prints the mark; None if it needs the harness.

    The harness calls test functions and test cases, and gives the code a module of its own. Code and tests are each
    whole by themselves, so that no open bracket, quote, decorator or backslash of the code takes in a test.
    """
    if _NEEDS_FILES.search(tests) or len(code) + len(tests) > _MOST or not (_is_whole(code) and _is_whole(tests)):
        return None
    return f"{code}\n{tests}\nprint()\nprint({mark!r})\n"


def _is_whole(text: str) -> bool:
    """Return True for a text that is Python by itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
