"""Connections that are cut, and the ends of processes: who keeps what, and who may go on."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from fusion.core.errors import RunBusyError, StoreError, StoreLostError
from fusion.store.base import Store
from fusion.store.open import open_store
from fusion.store.postgres.locks import key_of
from fusion.store.rows import Cached, Decision
from tests.postgres import Cluster, backends, execute, terminate
from tests.store.children import line, process
from tests.store.conformance import attempt, call, kept, reply, session, started, work

pytestmark = pytest.mark.needs("initdb")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = open_store(database)
    yield store
    store.close()


class Told:
    """What is told of a lock."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.errors: list[StoreError] = []

    def __call__(self, error: StoreError) -> None:
        self.errors.append(error)
        self.event.set()

    def wait(self) -> StoreError:
        assert self.event.wait(20)
        return self.errors[0]


# A server that is gone.


@pytest.fixture
def stopping() -> Iterator[Cluster]:
    server = Cluster()
    yield server
    server.close()


def test_a_server_that_stops_is_lost_to_an_open_store_and_a_wrong_setting_to_another(stopping: Cluster) -> None:
    url = stopping.database()
    store = open_store(url)
    assert store.run("r1") is None
    stopping.stop("immediate")
    uses: list[Callable[[], object]] = [
        lambda: store.run("r1"),
        lambda: store.run_ids("r"),
        lambda: store.slices.workers(),
        lambda: store.row_runs("m", [1, 2]),
        lambda: store.claim("r1"),
    ]
    for use in uses:
        with pytest.raises(StoreLostError, match="goes on once it is back") as lost:
            use()
        assert lost.value.exit_code == 3
    with pytest.raises(StoreError) as refused:
        open_store(url)
    assert (type(refused.value), refused.value.exit_code) == (StoreError, 2)
    stopping.start()
    assert store.run("r1") is None
    store.close()


# Locks.


def test_the_key_of_a_lock_is_the_beginning_of_its_digest() -> None:
    assert len({key_of(f"r{n}") for n in range(1000)}) == 1000
    assert all(-(2**63) <= key_of(f"r{n}") < 2**63 for n in range(1000))


def test_another_store_of_the_process_does_not_get_a_lock_that_is_held(store: Store, database: str) -> None:
    other = open_store(database)
    lock = store.lock("r1")
    with pytest.raises(RunBusyError):
        other.lock("r1")
    assert other.is_locked("r1")
    assert other.claim("r1") is None
    lock.release()
    other.lock("r1").release()
    other.close()


HOLDS = """
store = open_store(sys.argv[1])
lock = store.lock("r1")
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_lock_is_gone_with_its_process(store: Store, database: str) -> None:
    holding = process(HOLDS, database)
    assert line(holding) == "locked"
    assert store.is_locked("r1")
    with pytest.raises(RunBusyError):
        store.lock("r1")
    holding.kill()
    holding.communicate(timeout=30)
    freed(store, "r1")
    store.lock("r1").release()


def freed(store: Store, name: str) -> None:
    """Wait until the server has seen the end of the connection that held a lock."""
    for _ in range(400):
        if not store.is_locked(name):
            return
        threading.Event().wait(0.02)
    pytest.fail(f"{name} is still locked")


FORKS = """
store = open_store(sys.argv[1])
lock = store.lock("r1")
kept(store, started())
store.run("r1")
child = os.fork()
if not child:
    print("forked", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def test_a_lock_does_not_live_on_in_a_child(store: Store, database: str) -> None:
    parent = process(FORKS, database)
    assert line(parent) == "forked"
    assert parent.wait(timeout=30) == -signal.SIGKILL
    freed(store, "r1")
    parent.communicate("go\n", timeout=30)


def test_a_child_process_says_that_the_store_is_its_parents(store: Store) -> None:
    kept(store, started())
    lock = store.lock("r1")
    child = os.fork()
    if not child:
        told = 0
        for act in (store.flush, lambda: store.run("r1"), lambda: store.lock("r2")):
            try:
                act()
            except StoreError as error:
                told += "another process" in str(error)
        os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    kept(store, call())
    assert store.call("r1", 1) == call()
    lock.release()


# Connections that are cut.


def test_a_reader_that_is_cut_connects_again(store: Store, database: str) -> None:
    kept(store, started())
    assert store.run("r1") is not None
    assert terminate(database, "reader") >= 1
    assert store.run("r1") is not None


def test_a_writer_that_is_cut_writes_on(store: Store, database: str) -> None:
    lock = store.lock("r1")
    kept(store, started(), session())
    for number in range(1, 4):
        assert terminate(database, "writer") == 1
        kept(store, *work(number))
    assert store.last_numbers("r1") == (3, 0)
    assert store.is_locked("r1")
    lock.release()


def test_a_lock_that_is_lost_is_told_and_frees_the_run(store: Store, database: str) -> None:
    other, told = open_store(database), Told()
    kept(store, started(), session())
    lock = store.lock("r1")
    lock.when_lost(told)
    assert terminate(database, "locks") == 1
    error = told.wait()
    assert isinstance(error, StoreLostError)
    assert "the connection that holds its locks was cut" in str(error)
    taken = other.lock("r1")
    store.put(*work())
    with pytest.raises(StoreLostError, match="resume them"):
        store.flush()
    with pytest.raises(StoreLostError):
        store.lock("r2")
    assert other.last_numbers("r1") == (0, 0)
    taken.release()
    late = Told()
    lock.when_lost(late)
    assert late.wait() is error
    lock.release()
    other.close()


def test_a_store_goes_on_once_the_runs_that_lost_their_locks_have_ended(store: Store, database: str) -> None:
    kept(store, started())
    first, second, told = store.lock("r1"), store.lock("r2"), Told()
    first.when_lost(told)
    terminate(database, "locks")
    told.wait()
    first.release()
    with pytest.raises(StoreLostError):
        store.lock("r1")
    second.release()
    again = store.lock("r1")
    kept(store, *work())
    assert store.last_numbers("r1") == (1, 0)
    again.release()


def test_a_process_that_has_lost_its_locks_unknowingly_writes_nothing(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in one that was stopped for a while: the server refuses what it still sends."""
    monkeypatch.setattr("fusion.store.postgres.session.Session._cut", lambda self: None)
    kept(store, started())
    lock = store.lock("r1")
    terminate(database, "locks")
    store.put(*work())
    with pytest.raises(StoreLostError):
        store.flush()
    assert execute(database, "SELECT count(*) FROM fusion.calls") == [(0,)]
    lock.release()


def test_what_was_refused_reaches_no_later_session(store: Store, database: str) -> None:
    kept(store, started())
    lock, told = store.lock("r1"), Told()
    lock.when_lost(told)
    terminate(database, "locks")
    told.wait()
    store.put(*work(1))
    lock.release()
    store.put(*work(2))
    store.flush()
    assert [one.number for one in store.index("r1")] == [2]


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_is_restarted(how: str) -> None:
    cluster = Cluster("-c full_page_writes=off" if how == "immediate" else "-c fsync=off")
    try:
        store, told = open_store(cluster.database()), Told()
        lock = store.lock("r1")
        lock.when_lost(told)
        kept(store, started(), session(), *work(1))
        cluster.stop(how)
        assert isinstance(told.wait(), StoreLostError)
        store.put(*work(2))
        with pytest.raises(StoreLostError):
            store.flush()
        with pytest.raises(StoreError, match="start the server"):
            store.run("r1")
        lock.release()
        with pytest.raises(StoreError, match="start the server"):
            store.lock("r1")
        cluster.start()
        again = store.lock("r1")
        assert store.last_numbers("r1") == (1, 0)
        kept(store, *work(2))
        assert [one.number for one in store.index("r1")] == [1, 2]
        again.release()
        store.close()
    finally:
        cluster.close()


# What cannot be written.


def test_a_batch_that_cannot_be_written_is_said_to_all_that_wait(store: Store, database: str) -> None:
    kept(store, started())
    lock, told = store.lock("r1"), Told()
    lock.when_lost(told)
    execute(database, "ALTER TABLE fusion.attempts RENAME TO gone")

    async def writes() -> list[BaseException | None]:
        store.put(attempt())
        waiting = [asyncio.create_task(store.written()) for _ in range(3)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in asyncio.run(writes())] == [StoreLostError] * 3
    assert "its tables are gone" in str(told.wait())
    execute(database, "ALTER TABLE fusion.gone RENAME TO attempts")
    lock.release()
    kept(store, *work())
    assert store.last_numbers("r1") == (1, 0)


def test_a_row_that_cannot_be_kept_is_said_and_the_others_are(store: Store) -> None:
    store.put(started(), Decision("r1", "work", None, "odd", object()), attempt())
    with pytest.raises(StoreError, match="a Decision cannot be stored: a object is not JSON data"):
        store.flush()
    store.flush()
    assert [one for one, _ in store.attempts("r1")] == [attempt()]


@pytest.mark.parametrize("text", ["a\0b", "\0", "a\ud800", "é\U0010ffff", "\x01x"])
def test_characters_that_no_column_holds(store: Store, text: str) -> None:
    row = call(reply=reply(f"{text} said", served="one"), request=None)
    kept(store, started(tags={"k": text, 'k"': "v"}), Decision("r1", "work", None, "odd", text))
    assert store.decisions("r1")[0].value == text
    run = store.run("r1")
    assert run is not None
    assert run.tags["k"] == text
    if "\ud800" not in text:
        assert kept(store, row).call("r1", 1) == row
    served = call(2, reply=reply(served=text), request=None)
    kept(store, served)
    found = store.call("r1", 2)
    assert found is not None
    assert found.reply is not None
    assert len(found.reply.served) == len(text)


def test_tags_are_found_by_their_name_and_value_alone(store: Store) -> None:
    from fusion.store.rows import RunFilter

    tags: list[dict[str, str]] = [
        {"k": "v"},
        {'a"k': "v"},
        {"a": ',"k":"v"'},
        {"a,": "v", "k": "v w"},
        {"é": "\ud800", "k": "v"},
        {"kk": "v", "k": "V"},
    ]
    kept(store, *(started(f"r{n}", started=float(n), tags=one) for n, one in enumerate(tags)))
    for name, value, found in [("k", "v", ["r4", "r0"]), ('a"k', "v", ["r1"]), ("a", ',"k":"v"', ["r2"])]:
        assert [row.run_id for row in store.runs(RunFilter(tags={name: value}))] == found
    assert [row.run_id for row in store.runs(RunFilter(tags={"é": "\ud800"}))] == ["r4"]


def test_processes_that_write_the_same_cached_replies_do_not_stop_each_other(store: Store, database: str) -> None:
    stores = [store, open_store(database), open_store(database)]

    def write(one: Store, keys: Callable[[int], int]) -> None:
        for turn in range(20):
            one.put(*(Cached(f"k{keys(n)}", reply(f"{turn}"), float(turn)) for n in range(30)))
            one.flush()

    orders: list[Callable[[int], int]] = [lambda n: n, lambda n: 29 - n, lambda n: n * 7 % 30]
    threads = [threading.Thread(target=write, args=one) for one in zip(stores, orders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.sizes()["cached"] == 30
    for one in stores[1:]:
        one.close()


def test_a_closed_store_leaves_no_connection(database: str) -> None:
    store = open_store(database)
    kept(store, started())
    store.lock("r1")
    store.run("r1")
    assert len(backends(database)) == 3
    store.close()
    for _ in range(200):
        if not backends(database):
            break
        threading.Event().wait(0.02)
    assert backends(database) == []


def test_an_interpreter_that_ends_writes_what_was_put(database: str) -> None:
    ending = process(
        "store = open_store(sys.argv[1]); lock = store.lock('r1'); store.put(started(), call())", database
    )
    ending.communicate(timeout=30)
    assert ending.returncode == 0
    store = open_store(database)
    assert store.call("r1", 1) == call()
    store.close()
