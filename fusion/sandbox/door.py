"""SandboxDoor: the sandbox that the settings choose, found at the first command and shared by all runs."""

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Event
from typing import Final

from fusion.core.config.sandbox import SandboxTable
from fusion.core.types import Finished
from fusion.sandbox.base import Command, Sandbox
from fusion.sandbox.probe import found

_DEFAULT: Final = SandboxTable()
_GRACE: Final = 2.0
"""Seconds that a stopped command has to end."""


@dataclass(frozen=True)
class SandboxDoor(Sandbox):
    """Runs commands in threads: as many at once as the settings say, over all runs of the process."""

    table: SandboxTable = _DEFAULT

    async def run(self, command: Command) -> Finished:
        stop = Event()
        command = command._replace(limits=self.table.limits(command.limits))
        threads = _threads(self.table.concurrency or _cores())
        future = threads.submit(_run, self.table, command, stop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            await _dead(future)
            raise


async def _dead(future: Future[Finished]) -> None:
    """Wait until a stopped command has ended."""
    if not future.cancel():
        await asyncio.wait([asyncio.wrap_future(future)], timeout=_GRACE)


def _run(table: SandboxTable, command: Command, stop: Event) -> Finished:
    return found(table).run(command, stop)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="fusion-sandbox")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


DEFAULT: Final = SandboxDoor()
"""The sandbox of default settings."""
