"""Tests in several processes at once, `pytest -n 2 --dist loadgroup`: they share the cores."""

import os
from collections.abc import Iterator

import pytest

GROUPS = ("local", "wheel")
"""Marks whose tests stay in one worker: embedded models compute one call at a time, and a wheel is built once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for group in GROUPS:
            if item.get_closest_marker(group):
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True, scope="session")
def free_cores() -> Iterator[None]:
    """Give embedded models the cores that the other workers leave.

    Threads of llama.cpp wait for each other in busy loops: one without a core of its own slows all of them down.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FUSION_LOCAL_THREADS", raising=False)
        if workers > 1:
            patch.setenv("FUSION_LOCAL_THREADS", str(max(1, (os.cpu_count() or 1) - workers + 1)))
        yield
