"""Processes of their own for a test: forked off one that has Fusion loaded, so that none of them loads it anew."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
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


def started(work: Callable[..., None], *arguments: Any, output: Path) -> Any:
    """Begin this work in a process with this environment, which prints to a file; to be killed and joined."""
    output.touch()
    given = (dict(os.environ), work, arguments, str(output))
    process = _SERVER.Process(target=_begin, args=given, daemon=True)
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


def _begin(
    environment: Mapping[str, str], work: Callable[..., None], arguments: tuple[Any, ...], output: str | None = None
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if output is not None:
        _print_to(output)
    work(*arguments)


def _print_to(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
