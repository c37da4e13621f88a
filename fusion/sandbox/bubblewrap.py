"""Bubblewrap: a command in namespaces of its own, with a read-only system and no file, key or network of the machine.

`bwrap` makes the namespaces, `prlimit` sets the limits inside, where processes are counted for this sandbox alone.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from math import ceil
from pathlib import Path, PurePosixPath
from threading import Event
from typing import IO, Any, Final

from fusion.core.errors import StageError
from fusion.core.types import Finished
from fusion.sandbox import seccomp
from fusion.sandbox.base import Backend, Command
from fusion.sandbox.process import Follower, signalled
from fusion.sandbox.usage import FOLDER, Usage

NOBODY: Final = 65534
"""User and group of commands, where Fusion runs as root: for root the kernel limits no processes."""
_SHARED_MEMORY: Final = 16
"""Megabytes of /dev/shm at most."""
_MB: Final = 1_000_000
_OPEN_FILES: Final = 256
_NICE: Final = 5
"""Steps below the priority of Fusion, which has to see a limit passed while many processes are busy."""
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": FOLDER,
    "TMPDIR": "/tmp",  # noqa: S108 - as above
    "LANG": "C.UTF-8",
}
_ROOT_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SYSTEM: Final = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/nix/store")


class Bubblewrap(Backend):
    """Runs commands with `bwrap`; folders in `readable` can be read too."""

    name = "bubblewrap"

    def __init__(self, bwrap: str, readable: Sequence[Path] = ()) -> None:
        self._bwrap = bwrap
        self._readable = readable
        self._filter = seccomp.program()

    def run(self, command: Command, stop: Event) -> Finished:
        with ExitStack() as stack:
            reports, writes = _pipe(stack)
            descriptors = Descriptors(stack)
            arguments = [*self._namespaces(), *_options(command, descriptors, self._filter)]
            arguments += ["--json-status-fd", str(writes.fileno())]
            process = self._started(stack, arguments, descriptors, command, writes)
            status = Status(reports.fileno())
            usage = Usage(status, command.limits)
            ended = Follower(process, command, stop, usage.passed).run()
            status.read()
        return self._outcome(ended, status, stop)

    def _namespaces(self) -> Iterator[str]:
        """Yield the options that are the same for every command."""
        yield from ("--unshare-all", "--unshare-user", "--clearenv", "--cap-drop", "ALL", "--die-with-parent")
        yield from ("--as-pid-1", "--new-session", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr")
        for name in _ROOT_LINKS:
            yield from _root_entry(name)
        for path in (*_SYSTEM, *map(str, self._readable)):
            yield from ("--ro-bind" if path not in _SYSTEM else "--ro-bind-try", path, path)
        shared = ("--size", str(_SHARED_MEMORY * _MB), "--tmpfs", "/dev/shm")  # noqa: S108 - its own
        yield from ("--proc", "/proc", "--dev", "/dev", *shared, "--remount-ro", "/dev")
        for name, value in _ENVIRONMENT.items():
            yield from ("--setenv", name, value)

    def _started(
        self,
        stack: ExitStack,
        arguments: Sequence[str],
        descriptors: "Descriptors",
        command: Command,
        writes: IO[bytes],
    ) -> subprocess.Popen[bytes]:
        given = descriptors.add(b"\0".join(one.encode("utf-8", "surrogateescape") for one in arguments))
        other: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            process = subprocess.Popen(  # noqa: S603 - bwrap itself, of the system
                [self._bwrap, "--args", str(given), "--", *_limited(command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={},  # the first process of the sandbox can be read there
                pass_fds=(writes.fileno(), *descriptors.numbers),
                start_new_session=True,
                **other,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise StageError(f"the sandbox could not start: {self._bwrap}: {error}") from error
        stack.enter_context(process)
        writes.close()
        return process

    def _outcome(self, ended: Finished, status: "Status", stop: Event) -> Finished:
        if status.code is not None:
            return ended._replace(code=signalled(status.code), by=self.name)
        if ended.stopped_by is None and not stop.is_set():
            raise StageError(f"the sandbox could not start: {_words(ended)}")
        return ended._replace(by=self.name)


class Descriptors:
    """Files in memory that a process inherits; they cannot be changed, and are closed at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.numbers: list[int] = []

    def add(self, content: bytes) -> int:
        """Return the descriptor of a file with this content."""
        number = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._stack.callback(os.close, number)
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(number, 0, os.SEEK_SET)
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, _SEALS)
        self.numbers.append(number)
        return number


class Status:
    """The reports of bwrap on the sandbox: its first process, and the exit code of the command."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = b""
        self._said: dict[str, Any] = {}
        os.set_blocking(descriptor, False)

    def read(self) -> None:
        """Take in the reports that have come."""
        with suppress(BlockingIOError):
            while chunk := os.read(self._descriptor, 4_096):
                self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            with suppress(ValueError):
                self._said |= json.loads(line)

    @property
    def first(self) -> int | None:
        """The process id of the sandbox's first process, once known."""
        return self._said.get("child-pid")

    @property
    def code(self) -> int | None:
        """The exit code of the command; None if it never started, or was killed."""
        return self._said.get("exit-code")


def _words(ended: Finished) -> str:
    """Return the line in which bwrap says why it failed."""
    lines = ended.stderr.strip().splitlines()
    return next((line for line in lines if line.startswith("bwrap: ")), lines[-1] if lines else ended.reason)


def _pipe(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Return both ends of a pipe; each is closed once, since its number may belong to another thread by then."""
    reads, writes = os.pipe()
    return stack.enter_context(os.fdopen(reads, "rb", 0)), stack.enter_context(os.fdopen(writes, "wb", 0))


def _root_entry(name: str) -> Iterator[str]:
    """Yield the option for a folder at the root, which is a link into /usr on most systems."""
    path = Path("/", name)
    if path.is_symlink():
        yield from ("--symlink", str(path.readlink()), str(path))
    elif path.is_dir():
        yield from ("--ro-bind", str(path), str(path))


def _options(command: Command, descriptors: Descriptors, program: bytes) -> Iterator[str]:
    """Yield the options for one command: the size of its folder, its files, and the filter of system calls."""
    size = command.limits.disk * _MB + sum(map(len, command.files.values()))
    yield from ("--size", str(size), "--tmpfs", "/tmp", "--dir", FOLDER)  # noqa: S108 - its own
    for name, content in command.files.items():
        yield from ("--perms", "0755", "--file", str(descriptors.add(content)), str(PurePosixPath(FOLDER, name)))
    yield from ("--remount-ro", "/", "--chdir", FOLDER, "--seccomp", str(descriptors.add(program)))


def _limited(command: Command) -> Iterator[str]:
    """Yield the command behind the one that sets its limits."""
    limits = command.limits
    # the first process, with which all others end: also if Fusion is killed before the kernel knows to tell bwrap
    yield from ("/usr/bin/timeout", "--signal=KILL", str(ceil(limits.seconds) + 2))
    yield from ("/usr/bin/prlimit", f"--nproc={limits.processes}", f"--data={limits.memory * _MB}")
    yield from (f"--fsize={limits.disk * _MB}", f"--cpu={ceil(limits.seconds) + 1}", "--core=0", "--memlock=65536")
    yield from (f"--nofile={_OPEN_FILES}", "--msgqueue=0", "--sigpending=1024", "--")
    yield from ("/usr/bin/nice", "-n", str(_NICE), *command.argv)
