"""Monty: Python code without files in an interpreter that knows no file, key or network; the rest goes to a process.

Its verdict counts for code that ends well, fails an assertion or passes a limit. Whatever else it says, such as a
syntax that it does not know, is left to a process, which knows all of Python.
"""

import re
import time
from functools import cache
from pathlib import PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from fusion.core.errors import StageError
from fusion.core.types import Finished, StoppedBy
from fusion.sandbox.base import Backend, Command

if TYPE_CHECKING:
    from pydantic_monty import Monty

NAME: Final = "monty"
_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
_FLAGS: Final = frozenset({"-B", "-E", "-I", "-P", "-S", "-s", "-u"})
_MB: Final = 1_000_000
_PASSED: Final[dict[str, StoppedBy]] = {
    "feed time limit exceeded": "seconds",
    "sleep limit exceeded": "seconds",
    "memory limit exceeded": "memory",
}
_UNKNOWN: Final = (NotImplementedError, ImportError, SyntaxError)


class Interpreter(Backend):
    """Runs Python code without files in pydantic-monty, and every other command by the backend `other`.

    `other` is an error where there is no sandbox for processes.
    """

    name = NAME

    def __init__(self, other: Backend | StageError) -> None:
        self._other = other

    @property
    def title(self) -> str:
        other = "no process" if isinstance(self._other, StageError) else self._other.title
        return f"{self.name}, then {other}"

    def run(self, command: Command, stop: Event) -> Finished:
        code = code_of(command)
        ended = None if code is None else _run(code, command)
        if ended is None:
            return self._process().run(command, stop)
        finished, fault = ended
        if fault is None:
            return finished
        if not isinstance(self._other, StageError):
            return self._other.run(command, stop)
        if isinstance(fault, _UNKNOWN):
            raise StageError(f"pydantic-monty does not know all of this code: {fault}; {self._other}")
        return finished

    def _process(self) -> Backend:
        if isinstance(self._other, StageError):
            raise StageError(str(self._other))
        return self._other


def code_of(command: Command) -> str | None:
    """Return the Python code of a command without files and input, or that which stands for it; else None."""
    if command.plain is not None:
        return command.plain
    program, *rest = command.argv
    if not _PYTHON.fullmatch(PurePosixPath(program).name) or command.stdin:
        return None
    while rest and rest[0] in _FLAGS:
        rest = rest[1:]
    match rest:
        case ["-c", code] if not command.files:
            return code
        case [script] if list(command.files) == [script]:
            return _text(command.files[script])
    return None


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _run(code: str, command: Command) -> tuple[Finished, BaseException | None]:
    """Return the end of some code, and the error that leaves the verdict to a process, if any."""
    from pydantic_monty import MontyError

    limits, begun = command.limits, time.monotonic()
    printed = _Printed(limits.output)
    bounds: Any = {
        "max_feed_duration_secs": limits.seconds,
        "max_total_sleep_secs": limits.seconds,
        "max_memory": limits.memory * _MB,
    }
    error: MontyError | None = None
    try:
        with _pool().checkout(limits=bounds) as session:
            session.feed_run(code, print_callback=printed)
    except MontyError as raised:
        error = raised
    stopped = "output" if printed.full else None if error is None else _limit_of(error)
    words = printed.stderr if error is None else f"{printed.stderr}{_traceback(error)}"
    finished = Finished(int(error is not None), printed.stdout, words, stopped, time.monotonic() - begun, NAME)
    if error is None or stopped is not None:
        return finished, None
    fault = error.exception() if hasattr(error, "exception") else error
    return finished, None if isinstance(fault, AssertionError) else fault


class _Printed:
    """Receives what code prints, up to so many bytes for each stream; then it ends the code."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._sizes = {"stdout": 0, "stderr": 0}
        self.full = False

    def __call__(self, stream: str, text: str) -> None:
        left = self._most - self._sizes[stream]
        given = text.encode("utf-8", "replace")
        self._sizes[stream] += len(given)
        self._texts[stream].append(given[: max(left, 0)].decode("utf-8", "ignore"))
        if self._sizes[stream] > self._most:
            self.full = True
            raise ValueError("too much output")

    @property
    def stdout(self) -> str:
        return "".join(self._texts["stdout"])

    @property
    def stderr(self) -> str:
        return "".join(self._texts["stderr"])


def _limit_of(error: BaseException) -> StoppedBy | None:
    return next((limit for words, limit in _PASSED.items() if str(error).partition(": ")[2].startswith(words)), None)


def _traceback(error: Any) -> str:
    shown = error.display() if hasattr(error, "display") else str(error)
    return f"{shown}\n"


@cache
def _pool() -> "Monty":
    """Return the interpreters of this process, which start at the first code and end with the process."""
    import atexit

    from pydantic_monty import Monty

    pool = Monty()
    pool.__enter__()
    atexit.register(pool.__exit__, None, None, None)
    return pool
