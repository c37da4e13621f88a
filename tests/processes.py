"""Processes of their own for a test: forked off one that has Fusion loaded, so that none of them loads it anew."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "tests.conftest",
        "fusion.client.client",
        "fusion.bench.benchmark",
        "matplotlib.pyplot",
        "fusion.bulk.executors.service",
        "fusion.store.postgres.open",
    ]
)


def started(work: Callable[..., None], *arguments: Any) -> Any:
    """Begin this work in a process with this environment; the process, to be killed and joined."""
    process = _SERVER.Process(target=_begin, args=(dict(os.environ), work, arguments), daemon=True)
    process.start()
    return process


def exit_code(work: Callable[..., None], *arguments: Any, within: float = 120) -> int | None:
    """Do this work in a process with this environment; gives its exit code, negative for a signal."""
    process = _SERVER.Process(target=_begin, args=(dict(os.environ), work, arguments))
    process.start()
    process.join(within)
    try:
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()


def _begin(environment: Mapping[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)
