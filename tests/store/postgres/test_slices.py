"""The queue of slices: each is taken once, by those that may, and comes back from workers that leave or die."""

import threading
from collections.abc import Callable, Iterator

import pytest

from fusion.core.errors import UsageError
from fusion.store.base import Store
from fusion.store.open import open_store
from fusion.store.slices import Slices, WorkerRow
from tests.kept_maps import Kept, keep
from tests.postgres import execute

pytestmark = pytest.mark.needs("initdb")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = open_store(database)
    for map_id in ("m", "n"):
        keep(store, Kept(rows=dict.fromkeys("abc"), map_id=map_id, status=None))
    yield store
    store.close()


def worker(slices: Slices, name: str, *, concurrency: int = 4) -> str:
    slices.enter(WorkerRow(name, f"the {name}", "host", 1, "0.8.0", concurrency, 0.0))
    return name


def begun(slices: Slices, *parts: list[int], map_id: str = "m") -> Slices:
    slices.open(map_id, f"terms of {map_id}")
    slices.put(map_id, parts)
    return slices


def test_a_slice_is_taken_once_in_its_order(store: Store) -> None:
    slices = begun(store.slices, [1, 2], [3])
    a, b = worker(slices, "a"), worker(slices, "b")
    first, second = slices.take(a, {}), slices.take(b, {})
    assert first is not None
    assert second is not None
    assert (first.map_id, first.terms, first.numbers, first.deaths) == ("m", "terms of m", (1, 2), 0)
    assert second.numbers == (3,)
    assert slices.take(a, {}) is None
    assert slices.under_way("m") == {1, 2, 3}


def test_many_workers_take_no_slice_twice(store: Store) -> None:
    slices = begun(store.slices, *([number] for number in range(200)))
    names = [worker(slices, f"w{number}") for number in range(4)]
    taken: list[int] = []

    def take(name: str) -> None:
        while (one := slices.take(name, {})) is not None:
            taken.extend(one.numbers)

    threads = [threading.Thread(target=take, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))


def test_ends_are_told_once_in_their_order(store: Store) -> None:
    slices = begun(store.slices, [1, 2, 3])
    a = worker(slices, "a")
    taken = slices.take(a, {})
    assert taken is not None
    assert slices.settle(a, taken.slice, "first", [2, 3])
    assert slices.under_way("m") == {2, 3}
    assert slices.settle(a, taken.slice, "last", [])
    assert slices.ends("m") == ["first", "last"]
    assert slices.ends("m") == []
    assert slices.under_way("m") == frozenset()
    assert not slices.settle(a, taken.slice, "again", [])
    assert slices.ends("m") == []


def test_a_worker_takes_of_the_map_of_which_it_runs_fewest_rows(store: Store) -> None:
    slices = begun(begun(store.slices, [1], [2]), [7], [8], map_id="n")
    a = worker(slices, "a")
    found = [slices.take(a, busy) for busy in ({}, {"m": 1}, {"m": 1, "n": 2}, {"m": 2, "n": 2})]
    assert [one and (one.map_id, one.numbers) for one in found] == [
        ("m", (1,)),
        ("n", (7,)),
        ("m", (2,)),
        ("n", (8,)),
    ]


def test_a_map_that_a_worker_refuses_goes_to_others(store: Store) -> None:
    slices = begun(store.slices, [1], [2])
    a, b = worker(slices, "a"), worker(slices, "b")
    taken = slices.take(a, {})
    assert taken is not None
    slices.refuse(a, taken.slice, "no key")
    assert slices.take(a, {}) is None
    crew = slices.crew("m")
    assert crew.refusals == {"a": "no key"}
    assert [one.worker for one in crew.fit] == ["b"]
    assert crew.capacity == 4
    assert slices.take(b, {}) is not None
    slices.stop("m")
    slices.open("m", "terms of the next pass")
    assert slices.crew("m").refusals == {}


def test_a_dead_workers_rows_come_back_one_by_one(store: Store) -> None:
    slices = begun(store.slices, [1, 2, 3])
    a, b = worker(slices, "a"), worker(slices, "b")
    taken = slices.take(a, {})
    assert taken is not None
    slices.settle(a, taken.slice, "one", [2, 3])
    assert slices.bury(a) == 2
    found = [slices.take(b, {}) for _ in range(2)]
    assert [one and (one.numbers, one.deaths) for one in found] == [((2,), 1), ((3,), 1)]
    assert not slices.settle(a, taken.slice, "too late", [])
    assert slices.beat(a, rows=0, draining=False) is None


def test_a_silent_worker_is_late(store: Store, database: str) -> None:
    slices = store.slices
    a, b = worker(slices, "a"), worker(slices, "b")
    execute(database, "UPDATE fusion.workers SET beat = beat - 60 WHERE worker = 'a'")
    assert slices.late() == [a]
    assert [(one.worker, one.alive) for one in slices.workers()] == [(a, False), (b, True)]
    assert [one.worker for one in slices.crew("m").workers] == [b]
    assert slices.beat(a, rows=3, draining=True) == frozenset()
    assert slices.late() == []
    first = slices.workers()[0]
    assert (first.rows, first.draining, first.alive) == (3, True, True)


def test_a_leaving_worker_gives_its_slices_back_whole(store: Store) -> None:
    slices = begun(store.slices, [1, 2])
    a, b = worker(slices, "a"), worker(slices, "b")
    assert slices.take(a, {}) is not None
    slices.leave(a)
    again = slices.take(b, {})
    assert again is not None
    assert (again.numbers, again.deaths) == ((1, 2), 0)
    slices.give_back(b, again.slice, [2])
    assert [one.worker for one in slices.workers()] == [b]
    rest = slices.take(b, {})
    assert rest is not None
    assert rest.numbers == (2,)


def test_a_map_that_stops_is_withdrawn_and_its_workers_hear_of_it(store: Store) -> None:
    slices = begun(store.slices, [1], [2])
    a = worker(slices, "a")
    taken = slices.take(a, {})
    assert taken is not None
    assert slices.beat(a, rows=1, draining=False) == {taken.slice}
    slices.stop("m")
    assert slices.take(a, {}) is None
    assert slices.beat(a, rows=1, draining=False) == frozenset()
    slices.give_back(a, taken.slice, [1])
    assert slices.under_way("m") == frozenset()


def test_a_new_pass_keeps_what_runs_and_withdraws_what_waits(store: Store) -> None:
    slices = begun(store.slices, [1], [2])
    a = worker(slices, "a")
    taken = slices.take(a, {})
    assert taken is not None
    assert slices.open("m", "new terms") == ("terms of m", {1})
    assert slices.take(a, {}) is None
    assert slices.settle(a, taken.slice, "end", [])
    assert slices.ends("m") == ["end"]
    slices.close("m")
    assert slices.open("m", "newest") == (None, frozenset())


def test_a_removed_map_leaves_nothing_in_the_queue(store: Store) -> None:
    slices = begun(store.slices, [1])
    assert store.remove_map("m")
    assert slices.take(worker(slices, "a"), {}) is None


@pytest.mark.parametrize("of_map", [True, False])
def test_changes_are_heard(store: Store, of_map: bool) -> None:
    slices = begun(store.slices, [1])
    a, heard = worker(slices, "a"), threading.Event()
    listener = slices.listen("m" if of_map else None, heard.set)
    assert heard.wait(30)  # it listens
    heard.clear()
    change: Callable[[], object] = (
        (lambda: slices.settle(a, taken.slice, "end", [])) if of_map else lambda: slices.put("m", [[5]])
    )
    taken = slices.take(a, {})
    assert taken is not None
    change()
    assert heard.wait(30)
    listener.close()


def test_a_file_has_no_queue(tmp_path: object) -> None:
    store = open_store(f"{tmp_path}/runs.db")
    with pytest.raises(UsageError, match=r"--store postgresql://…"):
        store.slices  # noqa: B018
    store.close()
