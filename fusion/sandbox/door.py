"""SandboxDoor: the sandbox that the settings choose, found at the first command and shared by all runs."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Event

from fusion.core.config.sandbox import SandboxTable
from fusion.core.types import Finished
from fusion.sandbox.base import Backend, Command, Sandbox
from fusion.sandbox.probe import found


class SandboxDoor(Sandbox):
    """Runs commands in threads: as many at once as the settings say, over all runs of the process."""

    def __init__(self, table: SandboxTable) -> None:
        self._table = table

    async def run(self, command: Command) -> Finished:
        stop = Event()
        command = command._replace(limits=self._table.limits(command.limits))
        work = partial(_run, self._table, command, stop)
        future = asyncio.get_running_loop().run_in_executor(_threads(self._table.concurrency or _cores()), work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            if not future.cancel():
                await asyncio.gather(future, return_exceptions=True)
            raise


def _run(table: SandboxTable, command: Command, stop: Event) -> Finished:
    backend: Backend = found(table)
    return backend.run(command, stop)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="fusion-sandbox")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
