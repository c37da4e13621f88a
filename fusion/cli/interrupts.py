"""Ctrl-C, SIGTERM and SIGHUP: the first signal raises Interrupted in the main thread, the second ends the process."""

import os
import signal
import sys
import threading
from types import FrameType

from fusion.cli.exits import INTERRUPTED, Interrupted
from fusion.cli.terminal import is_terminal

_SHOW_CURSOR = b"\x1b[?25h\n"


class Interrupts:
    """Handle these signals while entered; signals that the process was started to ignore stay ignored."""

    def __init__(self) -> None:
        self._came = False
        self._held = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # as returned by `signal.signal`

    def interrupt(self) -> None:
        """Act as a first signal, from another thread."""
        if not self._came:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def hold(self) -> None:
        """Defer a first signal until `release`, to protect a critical section."""
        self._held = True

    def release(self) -> None:
        """Raise Interrupted if a signal was deferred; stop deferring."""
        self._held = False
        if self._came:
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            if is_terminal(sys.stderr):
                os.write(2, _SHOW_CURSOR)
            os._exit(INTERRUPTED)
        self._came = True
        if not self._held:
            raise Interrupted
