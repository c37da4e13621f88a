"""Exit codes, and the mapping of errors to them."""

import errno
import shlex
import traceback
from dataclasses import dataclass

from fusion.cli.terminal import complain, quiet_stdout

OK = 0
BUG = 1
USAGE = 2
FAILED = 3
BUDGET = 4
GATE = 5
WAITING = 6
INTERRUPTED = 130

EPILOG = f"""\b
Exit codes:
  {OK:<4} success; nothing is lost beyond a `min_ok`
  {BUG:<4} internal error
  {USAGE:<4} usage or configuration: options, pipeline, inputs, keys, weights
  {FAILED:<4} the run failed, or its answer lacks parts
  {BUDGET:<4} a limit of the budget stopped the run
  {GATE:<4} a benchmark did not pass its gate
  {WAITING:<4} the run waits for a person, or rows of a map do
  {INTERRUPTED:<4} interrupted (Ctrl-C, SIGTERM, SIGHUP)
"""


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP. A BaseException, so that no handler of errors catches it."""


@dataclass
class Ending:
    """The end of a command: turns an error into a message and an exit code."""

    debug: bool = False
    words: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line, quoted for a shell, without passwords."""
        return shlex.join(["fusion", *map(_shown, self.words)])

    def of(self, error: BaseException) -> int:
        """Print the error, and return its exit code."""
        from fusion.core.errors import FusionError, PipelineError

        self.traceback(error)
        match error:
            case KeyboardInterrupt() | Interrupted():
                complain("fusion: interrupted")
                return INTERRUPTED
            case BrokenPipeError():
                quiet_stdout()
                return OK
            case PipelineError():
                complain("\n".join(str(problem) for problem in error.problems))
                return error.exit_code
            case FusionError():
                complain(f"fusion: {error}")
                return error.exit_code
            case OSError(errno=errno.ENOSPC):
                quiet_stdout()
                complain(f"fusion: cannot write: {error.strerror}")
                return USAGE
            case _:
                self.bug(f"{type(error).__name__}: {error}")
                return BUG

    def traceback(self, error: BaseException | None) -> None:
        """Print the traceback if --debug is given."""
        if self.debug and error is not None:
            complain("".join(traceback.format_exception(error)).rstrip())

    def bug(self, message: str) -> None:
        """Report an internal error."""
        hint = "" if self.debug else "; `fusion --debug …` shows the traceback"
        complain(f"fusion: internal error: {' '.join(message.split())}{hint}")


def _shown(word: str) -> str:
    """Return a word of the command line, without the password of a URL."""
    from fusion.core.paths import shown_place

    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{shown_place(value)}"
