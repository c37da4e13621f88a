"""Probe: the sandbox that this machine and the settings allow, tried once, or the reason why there is none."""

import shutil
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Final

from fusion.core.config.sandbox import SandboxTable
from fusion.core.errors import StageError
from fusion.core.types import ProcessLimits
from fusion.sandbox.base import Backend, Command

_RUNNER: Final = "set `[sandbox] runner` in your own fusion.toml, such as a `docker run` command"
_SPACES: Final = (
    "user namespaces are refused by the container or the system: allow them (docker: `--security-opt seccomp=FILE`; "
    f"Ubuntu: an AppArmor profile for bwrap), or {_RUNNER}"
)
_PRLIMIT: Final = "/usr/bin/prlimit"


class NoSandboxError(StageError):
    """There is no sandbox. `advice` says what to install or set."""

    def __init__(self, reason: str, advice: str) -> None:
        self.reason = reason
        self.advice = advice
        super().__init__(f"there is no sandbox: {reason}; {advice}. Without one, no command runs")


def found(table: SandboxTable) -> Backend:
    """Return the sandbox of these settings. Raises NoSandboxError, which says what to install."""
    backend = _chosen(table.runner, table.stop, table.env, table.readable, table.python)
    if isinstance(backend, NoSandboxError):
        raise NoSandboxError(backend.reason, backend.advice)
    return backend


@cache
def _chosen(
    runner: tuple[str, ...], stop: tuple[str, ...], env: tuple[str, ...], readable: tuple[Path, ...], python: str
) -> Backend | NoSandboxError:
    process = _runner(runner, stop, env) if runner else _bubblewrap(readable)
    if python != "monty":
        return process
    if find_spec("pydantic_monty") is None:
        advice = "pip install 'compound-fusion[monty]', or remove `python` from `[sandbox]`"
        return NoSandboxError("`[sandbox] python` is monty, and pydantic-monty is not installed", advice)
    from fusion.sandbox.monty import Interpreter

    return Interpreter(process)


def _runner(runner: tuple[str, ...], stop: tuple[str, ...], env: tuple[str, ...]) -> Backend | NoSandboxError:
    from fusion.sandbox.runner import Runner

    if shutil.which(runner[0]) is None:
        return NoSandboxError(f"the runner {runner[0]!r} is not here", "install it, or correct `[sandbox] runner`")
    return Runner(runner, stop, env)


def _bubblewrap(readable: tuple[Path, ...]) -> Backend | NoSandboxError:
    """Return bubblewrap once it has run a command that starts a process."""
    missing = _missing()
    if missing is not None:
        return missing
    from fusion.sandbox.bubblewrap import Bubblewrap

    backend = Bubblewrap(str(shutil.which("bwrap")), readable)
    command = Command.of(("/bin/sh", "-c", "true & wait"), limits=ProcessLimits(seconds=20))
    try:
        ended = backend.run(command, Event())
    except StageError as error:
        return NoSandboxError(str(error), _advice(str(error)))
    if not ended.ok:
        words = ended.stderr.strip().splitlines() or [ended.reason]
        return NoSandboxError(f"bubblewrap cannot run a command: {words[-1]}", _SPACES)
    return backend


def _missing() -> NoSandboxError | None:
    """Return the reason if bubblewrap cannot be had here at all."""
    if sys.platform != "linux":
        return NoSandboxError(f"bubblewrap needs Linux, and this is {sys.platform}", _RUNNER)
    if shutil.which("bwrap") is None:
        return NoSandboxError("bubblewrap is not installed", f"`apt install bubblewrap`, or {_RUNNER}")
    if not Path(_PRLIMIT).exists():
        return NoSandboxError(f"{_PRLIMIT} is not here", "`apt install util-linux`")
    from fusion.sandbox import seccomp

    if not seccomp.is_known():
        return NoSandboxError("there is no filter of system calls for this processor", _RUNNER)
    return None


def _advice(reason: str) -> str:
    """Return the advice for the words of a bwrap that failed."""
    if "source path" in reason:
        return "correct `[sandbox] readable`: each folder has to exist, and be readable for other users under root"
    if "nknown option" in reason:
        return "install bubblewrap 0.8 or newer"
    return _SPACES
