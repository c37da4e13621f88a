"""The store in a SQLite file."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusion.core.errors import RunBusyError, StoreError
from fusion.core.types import File, Message, Request
from fusion.store.base import Store, Synchronous
from fusion.store.open import open_store
from fusion.store.rows import Cached, Decision
from tests.store.account_conformance import AccountConformance
from tests.store.children import line, process
from tests.store.conformance import (
    SMALL,
    StoreConformance,
    attempt,
    call,
    ended,
    kept,
    key,
    random_text,
    reply,
    request,
    session,
    started,
    work,
)
from tests.store.map_conformance import MapConformance

Open = Callable[..., Store]


class TestSqlite(StoreConformance, MapConformance, AccountConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = open_store(tmp_path / "runs.db")
        yield store
        store.close()

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Store]:
        store = open_store(tmp_path / "small.db", cache_bytes=SMALL)
        yield store
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = open_store(path)
    yield store
    store.close()


def stop(running: "subprocess.Popen[str]") -> None:
    """As the kernel does when memory is short."""
    running.kill()
    running.communicate(timeout=30)


# How much room it takes.


def test_a_long_context_is_kept_once_for_all_calls_of_a_run(store: Store, path: Path) -> None:
    context = Message(role="user", content=random_text(100_000), files=((0, PICTURE),))
    rows = [
        call(n, request=Request(messages=(context, Message(role="user", content=f"part {n}")), max_tokens=9))
        for n in range(1, 301)
    ]
    kept(store, started(), *rows)
    assert store.sizes()["bytes"] < 2_000_000
    assert list(store.calls("r1", texts=True)) == rows
    kept(store, started("r2"), call(1, "r2", request=rows[0].request))
    store.remove(["r1"])
    assert store.call("r2", 1) == call(1, "r2", request=rows[0].request)


PICTURE = File(media_type="image/png", data=random_text(100_000).encode())


def test_the_space_of_runs_that_are_removed_is_given_back(store: Store) -> None:
    empty = store.sizes()["bytes"]
    for run in range(3):
        rows = (call(n, f"r{run}", reply=reply(random_text(3000 + n))) for n in range(1, 501))
        kept(store, started(f"r{run}"), session(f"r{run}"), *rows)
    full = store.sizes()["bytes"]
    store.remove(["r0", "r1", "r2"])
    assert full > 20 * (store.sizes()["bytes"] - empty)
    assert store.sizes()["bytes"] < empty + 200_000


def test_what_a_killed_remover_left_is_removed_the_next_time(store: Store, path: Path) -> None:
    kept(store, started(), *work())
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO removed SELECT run FROM runs")
    connection.execute("DELETE FROM runs")
    connection.commit()
    connection.close()
    assert store.sizes()["calls"] == 1
    assert store.remove([]) == 0
    assert store.sizes()["calls"] == 0


def test_a_removal_does_not_keep_others_waiting(store: Store, path: Path) -> None:
    kept(store, started(), *(call(n, reply=reply(random_text(2000 + n))) for n in range(1, 8001)), started("r2"))
    removing = process("store = open_store(sys.argv[1]); print('go', flush=True); store.remove(['r1'])", path)
    assert line(removing) == "go"
    longest, number = 0.0, 0
    while removing.poll() is None:
        number += 1
        begun = time.perf_counter()
        kept(store, *work(number, "r2"))
        longest = max(longest, time.perf_counter() - begun)
    removing.communicate()
    assert removing.returncode == 0
    assert longest < 2.0
    assert store.last_numbers("r2") == (number, 0)


# What a process that dies leaves behind.

WRITES = """
store = open_store(sys.argv[1])
kept(store, started(), session())
number = 0
while True:
    number += 1
    kept(store, *work(number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_written_outlives_a_kill(path: Path, after: int) -> None:
    writing = process(WRITES, path)
    while int(line(writing)) < after:
        pass
    writing.send_signal(signal.SIGKILL)
    assert writing.stdout is not None
    rest = writing.stdout.read().split()
    writing.communicate(timeout=30)
    last = int(rest[-1]) if rest else after
    store = open_store(path)
    found = [(one.number, one.key) for one in store.index("r1")]
    assert found[:last] == [(number, key(number)) for number in range(1, last + 1)]
    assert len(found) <= last + 1
    assert len(list(store.attempts("r1"))) == len(found)
    store.close()


LOCKS = """
store = open_store(sys.argv[1])
lock = store.lock("r1")
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_lock_is_gone_with_its_process(store: Store, path: Path) -> None:
    holding = process(LOCKS, path)
    assert line(holding) == "locked"
    assert store.is_locked("r1")
    with pytest.raises(RunBusyError):
        store.lock("r1")
    stop(holding)
    assert not store.is_locked("r1")
    store.lock("r1").release()
    assert not [left for left in (path.parent / "runs.db.locks").iterdir() if left.name == "r1"]


FORKS = """
store = open_store(sys.argv[1])
lock = store.lock("r1")
child = os.fork()
if not child:
    print("forked", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def test_a_lock_does_not_live_on_in_a_child(store: Store, path: Path) -> None:
    parent = process(FORKS, path)
    assert line(parent) == "forked"
    assert parent.wait(timeout=30) == -signal.SIGKILL
    store.lock("r1").release()
    parent.communicate("go\n", timeout=30)


def test_of_many_processes_one_gets_the_lock(path: Path) -> None:
    race = """
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    lock = store.lock("r1")
    print("mine", flush=True)
except Exception as error:
    print(type(error).__name__, flush=True)
sys.stdin.readline()
"""
    racing = [process(race, path) for _ in range(4)]
    assert [line(one) for one in racing] == ["ready"] * 4
    for one in racing:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    assert sorted(line(one) for one in racing) == ["RunBusyError"] * 3 + ["mine"]
    for one in racing:
        one.communicate("done\n", timeout=30)


def test_an_interpreter_that_ends_writes_what_was_put(path: Path) -> None:
    ending = process("store = open_store(sys.argv[1]); store.put(started(), call())", path)
    ending.communicate(timeout=30)
    assert ending.returncode == 0
    store = open_store(path)
    assert store.call("r1", 1) == call()
    store.close()


# What goes wrong while it is written.

FULL = """
import asyncio, resource
from fusion.core.errors import StoreError
store = open_store(sys.argv[1])
kept(store, started(), *work(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
async def go():
    store.put(*(row for n in range(2, 900) for row in work(n)))
    try:
        await store.written()
    except StoreError as error:
        print(error)
    store.put(*work(1000))
    try:
        await store.written()
    except StoreError as error:
        print(error)
    try:
        store.flush()
    except StoreError as error:
        print(error)
asyncio.run(go())
print(store.last_numbers("r1"))
store.close()
"""


def test_a_disk_that_fills_up_is_said_and_nothing_waits(path: Path) -> None:
    filling = process(FULL, path)
    said = filling.communicate(timeout=30)[0].splitlines()
    assert filling.returncode == 0
    assert len(said) == 4
    assert "make room or repair it, or choose another place" in said[0]
    assert str(path) in said[0]
    assert said[0] == said[1] == said[2]
    assert said[3] == "(1, 0)"
    store = open_store(path)
    assert store.call("r1", 1) == call()
    kept(store, *work(2))
    store.close()


def test_a_row_that_cannot_be_kept_is_said_and_the_others_are(store: Store) -> None:
    store.put(started(), Decision("r1", "work", None, "odd", object()), attempt())
    with pytest.raises(StoreError, match="a Decision cannot be stored: a object is not JSON data"):
        store.flush()
    store.flush()
    assert [one for one, _ in store.attempts("r1")] == [attempt()]


@pytest.mark.anyio
async def test_a_row_that_cannot_be_kept_is_said_to_the_next_that_waits(store: Store) -> None:
    store.put(started(), Decision("r1", "work", None, "odd", object()))
    while store.run("r1") is None:
        await asyncio.sleep(0)
    with pytest.raises(StoreError, match="a Decision cannot be stored"):
        await store.written()
    await store.written()


def test_half_a_character_is_kept_where_it_may_stand(store: Store) -> None:
    kept(store, started(tags={"k": "a\udcff"}), Decision("r1", "work", None, "odd", "a\ud800"))
    assert store.decisions("r1")[0].value == "a\ud800"
    row = store.run("r1")
    assert row is not None
    assert dict(row.tags) == {"k": "a\udcff"}


def test_another_process_may_keep_the_store_busy_for_a_while(store: Store, path: Path) -> None:
    blocking = process(
        "import sqlite3; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE')\n"
        "print('busy', flush=True); sys.stdin.readline(); c.execute('COMMIT')",
        path,
    )
    assert line(blocking) == "busy"
    store.put(started())
    assert store.run("r1") is None
    blocking.communicate("go\n", timeout=30)
    store.flush()
    assert store.run("r1") is not None


def test_a_child_process_says_that_the_store_is_its_parents(store: Store) -> None:
    kept(store, started())
    child = os.fork()
    if not child:
        try:
            store.put(call())
            store.flush()
        except StoreError as error:
            os._exit(7 if "another process" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    kept(store, call())


@pytest.mark.parametrize(("synchronous", "number"), [("NORMAL", 1), ("FULL", 2)])
def test_synchronous_is_what_was_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: Synchronous, number: int
) -> None:
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def watched(*given: object, **more: object) -> sqlite3.Connection:
        made.append(connect(*given, **more))  # type: ignore[call-overload]
        return made[-1]

    open_store(path).close()
    monkeypatch.setattr(sqlite3, "connect", watched)
    store = kept(open_store(path, synchronous=synchronous), started())
    asked = [one.execute("PRAGMA synchronous").fetchone()[0] for one in made[1:]]
    assert asked == [number]
    store.close()


def test_what_is_cached_is_there_for_other_processes(store: Store, path: Path) -> None:
    kept(store, Cached("k", reply(), 1.0))
    reading = process("import asyncio; print(asyncio.run(open_store(sys.argv[1]).cached('k')).text)", path)
    assert reading.communicate(timeout=30)[0] == "an answer\n"


def test_memory_does_not_grow_with_the_runs_that_were_written(store: Store) -> None:
    def write(numbers: range) -> None:
        for number in numbers:
            run_id, text = f"r{number}", f"{number} " * 500
            rows = (started(run_id), session(run_id), *work(1, run_id)[:2], call(1, run_id, request=request(text)))
            kept(store, *rows, ended(run_id))

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        write(range(2000, 4000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 3_500_000
