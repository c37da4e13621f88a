"""Watchdog: measures the CPU time of every callback on an event loop's thread."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

MOST = 0.020
"""Seconds of CPU that one callback may take."""


@dataclass
class Watch:
    """The callbacks that took longer than they may, with their CPU time in milliseconds."""

    slow: list[tuple[float, str]] = field(default_factory=list)
    longest: float = 0.0


@contextmanager
def watched() -> Iterator[Watch]:
    """Measure the callbacks of all event loops of this process. The garbage collector is kept out."""
    watch, plain = Watch(), asyncio.Handle._run

    def timed(handle: Any) -> None:
        begun = time.thread_time()
        plain(handle)
        took = time.thread_time() - begun
        watch.longest = max(watch.longest, took)
        if took > MOST:
            watch.slow.append((round(took * 1000, 1), repr(handle)[:300]))

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", timed)
            yield watch
    finally:
        gc.enable()
