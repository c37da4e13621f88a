"""News of runs: what one process writes is told to those that follow the run in others."""

import threading
from collections.abc import Iterator

import pytest

from fusion.store.base import Store
from fusion.store.open import open_store
from fusion.store.postgres.news import payloads
from fusion.store.rows import Decision, Noticed, Row
from tests.postgres import backends, terminate
from tests.store.conformance import call, ended, kept, session, started

needs_server = pytest.mark.needs("initdb")


@pytest.fixture
def stores(database: str) -> Iterator[tuple[Store, Store]]:
    """The store as two processes open it."""
    both = open_store(database), open_store(database)
    kept(both[0], started(), session(), started("r2"), session("r2"))
    yield both
    for one in both:
        one.close()


class Heard:
    """Counts what is told of a run."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._news = threading.Event()
        self._follower = store.follow(run_id, self._news.set)
        assert self._news.wait(20)  # it listens now
        self._news.clear()

    def within(self, seconds: float) -> bool:
        found = self._news.wait(seconds)
        self._news.clear()
        return found

    def close(self) -> None:
        assert self._follower is not None
        self._follower.close()


@needs_server
@pytest.mark.parametrize(
    "row",
    [
        Noticed("r1", 1, '{"type":"noted"}'),
        Decision("r1", "work", None, "gate", {"answer": "approved"}),
        ended(),
        session(number=2, at=200.0),
        Noticed("r1", 2, '{"type":"noted","message":"' + "x" * 9000 + '"}'),
    ],
)
def test_another_process_hears_of_a_run(stores: tuple[Store, Store], row: Row) -> None:
    writing, reading = stores
    heard = Heard(reading, "r1")
    writing.put(row)
    writing.flush()
    assert heard.within(20)
    heard.close()


@needs_server
def test_others_hear_nothing_of_it(stores: tuple[Store, Store]) -> None:
    writing, reading = stores
    first, second = Heard(reading, "r1"), Heard(reading, "r2")
    kept(writing, Noticed("r1", 1, "{}"))
    assert first.within(20)
    assert not second.within(0)
    second.close()
    kept(writing, Noticed("r2", 1, "{}"), Noticed("r1", 2, "{}"))
    assert first.within(20)
    assert not second.within(0)
    first.close()


@needs_server
def test_single_calls_are_no_news(stores: tuple[Store, Store]) -> None:
    writing, reading = stores
    heard = Heard(reading, "r1")
    kept(writing, call())
    kept(writing, Noticed("r2", 1, "{}"))
    assert not heard.within(0.2)
    heard.close()


@needs_server
def test_a_follower_that_is_cut_hears_what_came_meanwhile(stores: tuple[Store, Store], database: str) -> None:
    writing, reading = stores
    heard = Heard(reading, "r1")
    assert terminate(database, "news") == 1
    kept(writing, Noticed("r1", 1, "{}"))
    assert heard.within(20)
    assert reading.events("r1") == [{}]
    while not backends(database, "news"):
        threading.Event().wait(0.02)
    heard.within(0.5)
    kept(writing, Noticed("r1", 2, "{}"))
    assert heard.within(20)
    heard.close()


@needs_server
def test_the_connection_ends_with_the_last_follower(stores: tuple[Store, Store], database: str) -> None:
    _, reading = stores
    heard = [Heard(reading, "r1"), Heard(reading, "r2")]
    assert len(backends(database, "news")) == 1
    for one in heard:
        one.close()
    for _ in range(400):
        if not backends(database, "news"):
            break
        threading.Event().wait(0.02)
    assert backends(database, "news") == []
    again = Heard(reading, "r1")
    again.close()


@pytest.mark.parametrize("count", [0, 1, 2, 300, 5000])
def test_a_notification_is_short_enough_for_the_server(count: int) -> None:
    runs = {f"map-{n:06}-é": n for n in range(count)}
    found = list(payloads(runs))
    assert all(len(one.encode()) < 8000 for one in found)
    lines = [line.split(" ", 1) for one in found for line in one.split("\n")]
    assert {run_id: int(number) for number, run_id in lines} == runs
