"""The sandbox in tests: bubblewrap as the user who runs them and, under root, as another one too."""

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from importlib.metadata import EntryPoint
from threading import Event
from typing import Any

import pytest

from fusion.core.config import SandboxTable
from fusion.core.types import Finished, ProcessLimits
from fusion.sandbox import SandboxDoor
from fusion.sandbox.base import Command
from fusion.sandbox.probe import found
from fusion.stages import registry

OTHER = 12345
"""A user without a name, a home or a file."""
USERS = ["root", "another user"] if os.geteuid() == 0 else ["another user"]
QUICK = ProcessLimits(seconds=20.0, memory=200, disk=8, processes=20, output=20_000)

Boxed = Callable[..., Finished]


def limits(**more: Any) -> ProcessLimits:
    return QUICK.model_copy(update=more)


@pytest.fixture(params=USERS)
def boxed(request: pytest.FixtureRequest) -> Boxed:
    """Runs a command in the sandbox, as one of the users."""
    return runner(request.param)


def runner(user: str) -> Boxed:
    def run(*argv: str, limits: ProcessLimits = QUICK, **more: Any) -> Finished:
        command = Command.of(argv, limits=limits, **more)
        work = lambda: found(SandboxTable()).run(command, Event())  # noqa: E731
        return work() if user == "root" or os.geteuid() != 0 else as_another(work)

    return run


def python(code: str) -> tuple[str, ...]:
    return ("python3", "-I", "-S", "-c", code)


def as_another(work: Callable[[], Any]) -> Any:
    """Do some work in a child of another user; what it returns or raises comes back."""
    found(SandboxTable())  # its modules are read before the child loses sight of them
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.close(reads)
            os.chdir("/")
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            with os.fdopen(writes, "wb") as file:
                file.write(pickle.dumps(_outcome(work)))
        os._exit(0)
    os.close(writes)
    try:
        with os.fdopen(reads, "rb") as file:
            outcome = pickle.loads(file.read())
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = EntryPoint(name="shell", value="tests.sandbox.shell:Shell", group=registry.GROUP)
    real = metadata.entry_points
    monkeypatch.setattr(
        metadata, "entry_points", lambda *, group: [entry] if group == registry.GROUP else real(group=group)
    )
    registry.kinds.cache_clear()
    yield
    registry.kinds.cache_clear()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, shell: None) -> list[Command]:
    """The commands that reach the sandbox, which each get their number as output."""
    commands: list[Command] = []

    async def given(self: SandboxDoor, command: Command) -> Finished:
        commands.append(command)
        return Finished(0, f"{len(commands)};", "", None, 0.25, "double")

    monkeypatch.setattr(SandboxDoor, "run", given)
    return commands
