"""Process: follows one process to its end, under bounds on its time and output."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Final

from fusion.core.types import Finished, StoppedBy
from fusion.sandbox.base import Command

Watch = Callable[[], StoppedBy | None]
"""Returns the limit that a process has passed, if any."""
TICK: Final = 0.05
"""Seconds between two looks at a process."""
_GRACE: Final = 1.0
"""Seconds that the pipes of an ended process may stay open."""
_CHUNK: Final = 65_536
_SHELL: Final = 128
"""Exit codes above it stand for a signal, as a shell gives them."""


class Output:
    """The first bytes of a stream, `most` of them; `full` once more came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        self._bytes += chunk[: self._most + 1 - len(self._bytes)]

    @property
    def full(self) -> bool:
        return len(self._bytes) > self._most

    @property
    def text(self) -> str:
        return self._bytes[: self._most].decode("utf-8", "replace")


class Follower:
    """Feeds a process its input, reads its output, and kills it at its limits, or once `stop` is set."""

    def __init__(
        self, process: subprocess.Popen[bytes], command: Command, stop: Event, watch: Watch | None = None
    ) -> None:
        limits = command.limits
        self._process = process
        self._limits = limits
        self._input = memoryview(command.stdin)
        self._stop = stop
        self._watch = watch
        self._begun = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._outputs = (Output(limits.output), Output(limits.output))
        for stream, output in zip((process.stdout, process.stderr), self._outputs, strict=True):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, output)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def run(self) -> Finished:
        """Return the end of the process, once it and all that hold its output are dead."""
        try:
            stopped = self._until_over()
        finally:
            self.kill()
        code = self._process.wait()
        self._drain()
        seconds = time.monotonic() - self._begun
        if any(output.full for output in self._outputs):
            stopped = stopped or "output"
        out, err = self._outputs
        return Finished(code, out.text, err.text, stopped, seconds)

    def kill(self) -> None:
        """Kill the process and its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def _until_over(self) -> StoppedBy | None:
        """Read until the process has ended; return the limit that it passed first."""
        while self._process.poll() is None:
            if self._selector.get_map():
                self._move(TICK)
            else:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(TICK)
            if (passed := self._passed()) or self._stop.is_set():
                return passed
        return None

    def _passed(self) -> StoppedBy | None:
        if any(output.full for output in self._outputs):
            return "output"
        if time.monotonic() - self._begun > self._limits.seconds:
            return "seconds"
        return None if self._watch is None else self._watch()

    def _move(self, seconds: float) -> None:
        """Move bytes between the process and here, once there are some to move."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._feed()
                continue
            chunk = _chunk(key.fd)
            if chunk:
                key.data.add(chunk)
            elif chunk is not None:
                self._selector.unregister(key.fileobj)

    def _feed(self) -> None:
        """Write the next bytes of the input; at its end, and if nothing reads it, close it."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            self._input = self._input[os.write(stdin.fileno(), self._input[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._input = self._input[:0]
        if not self._input:
            self._selector.unregister(stdin)
            stdin.close()

    def _drain(self) -> None:
        """Read what is left in the pipes of a dead process."""
        until = time.monotonic() + _GRACE
        while self._selector.get_map() and time.monotonic() < until:
            self._move(TICK)
        self._selector.close()


def _chunk(descriptor: int) -> bytes | None:
    """Return the next bytes of a pipe: none at its end, None if there is nothing to read yet."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None


def signalled(code: int) -> int:
    """Return an exit code, with a signal in place of the shell's code above 128."""
    return _SHELL - code if _SHELL < code <= _SHELL + signal.NSIG else code
