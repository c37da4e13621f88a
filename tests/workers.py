"""Tests in several processes at once, `pytest -n 2 --dist loadgroup`: they share the cores."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

GROUPS = ("local", "wheel")
"""Marks whose tests stay in one worker: embedded models compute one call at a time, and a wheel is built once."""


class Scheduling(LoadGroupScheduling):
    """Gives one worker all tests of a group, or of a file: fixtures of a file are set up once."""

    def _split_scope(self, nodeid: str) -> str:
        group = super()._split_scope(nodeid)
        return nodeid.partition("::")[0] if group == nodeid else group


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    if config.getvalue("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for group in GROUPS:
            if item.get_closest_marker(group):
                item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=turn)
        for item in items:
            if mark := item.get_closest_marker("xdist_group"):  # xdist 3.8 knows no way to tell pytest 9.2's items
                item._id = type(item.id).parse(f"{item.nodeid}@{mark.args[0]}")


def turn(item: pytest.Item) -> tuple[bool, bool]:
    """The longest groups begin first: at the end they would leave the other workers without work."""
    group = item.get_closest_marker("xdist_group")
    return group is None, group is not None and group.args[0] not in GROUPS


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
