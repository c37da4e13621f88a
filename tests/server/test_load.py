"""Load and abuse of a real `fusion serve`: many, slow and large clients are served or refused, and hang none."""

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.perf import load
from fusion import Result
from fusion.engine.run import Run
from tests.server.conftest import Serve

SECONDS = 10
"""Seconds of a run beside the others at most, on a busy machine."""
MEGABYTES = 200


@pytest.fixture(scope="module")
def running() -> Iterator[load.Server]:
    with load.serving(table="connections = 300") as server:
        assert asyncio.run(load.ask(server.url)) == "200"
        yield server


@pytest.mark.parametrize(
    ("scenario", "number", "more", "answers"),
    [
        (load.streams, 100, {}, {"200": 100}),
        (load.slow_heads, 150, {}, {"open": 150}),
        (load.slow_bodies, 150, {}, {"open": 150}),
        (load.large_body, 100, {"told": True}, {"413": 1}),
        (load.large_body, 100, {"told": False}, {"413": 1}),
        (load.large_heads, 10, {}, {"431": 10}),
        (load.streams, 50, {}, {"200": 50}),
    ],
    ids=["streams", "slow heads", "slow bodies", "100 MB by length", "100 MB in chunks", "1 MB heads", "again"],
)
def test_clients_are_served_or_refused_and_hang_none(
    scenario: Any, number: int, more: dict[str, Any], answers: dict[str, int], running: load.Server
) -> None:
    found = asyncio.run(load.outcome(running, scenario, number, **more))
    assert found.clients == answers
    assert (found.beside, found.seconds < SECONDS) == ("200", True)
    assert found.grown < MEGABYTES


def test_clients_that_read_nothing_hang_none(running: load.Server) -> None:
    found = asyncio.run(load.outcome(running, load.slow_readers, 30, size=200_000))
    assert set(found.clients) <= {"200", "open", "429", "503"}
    assert (found.beside, found.seconds < SECONDS) == ("200", True)
    assert found.grown < MEGABYTES


def test_connections_beyond_the_bound_give_way_to_those_with_a_request(running: load.Server) -> None:
    found = asyncio.run(load.outcome(running, load.idle, 500))
    assert found.clients["closed"] + found.clients["refused"] >= 200
    assert (found.beside, found.seconds < SECONDS) == ("200", True)
    assert asyncio.run(load.outcome(running, load.streams, 20)).clients == {"200": 20}


@pytest.mark.parametrize("stream", [False, True])
def test_runs_that_are_over_leave_nothing_to_collect(serve: Serve, stream: bool) -> None:
    """Without the garbage collector: what a run made is gone with its last reference."""
    served = serve()

    def ask(times: int) -> None:
        for _ in range(times):
            assert served.post("/v1/chat/completions", served.chat(stream=stream)).status_code == 200

    def alive() -> int:
        return sum(isinstance(one, Run | Result) for one in gc.get_objects())

    ask(3)
    gc.collect()
    before = alive()
    gc.disable()
    try:
        ask(20)
        time.sleep(0.2)  # until the last one has ended
        assert alive() <= before + 2
    finally:
        gc.enable()
