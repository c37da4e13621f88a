"""How a command ends: the exit codes, and the one place where an error becomes one."""

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
INTERRUPTED = 130

EPILOG = f"""\b
Exit codes:
  {OK:<4} done; an answer that lacks a part says so
  {BUG:<4} a fault of Fusion's own
  {USAGE:<4} usage or configuration: options, pipeline, inputs, keys, weights
  {FAILED:<4} the run failed
  {BUDGET:<4} a limit of the budget stopped the run
  {GATE:<4} a benchmark did not pass its gate
  {INTERRUPTED:<4} interrupted (Ctrl-C, SIGTERM)
"""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, so that nothing on its way takes it for a fault."""


@dataclass
class Ending:
    """What `main` needs to know to end well: the words it was given, and whether the user asked for tracebacks."""

    debug: bool = False
    words: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line, as it can be given again."""
        return shlex.join(["fusion", *self.words])

    def of(self, error: BaseException) -> int:
        """Say what went wrong, and give the exit code for it."""
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
        """Where it happened, if the user asked for that."""
        if self.debug and error is not None:
            complain("".join(traceback.format_exception(error)).rstrip())

    def bug(self, message: str) -> None:
        """Say that it is our fault, and how to see where."""
        hint = "" if self.debug else "; `fusion --debug …` shows the traceback"
        complain(f"fusion: a fault of Fusion's own: {' '.join(message.split())}{hint}")
