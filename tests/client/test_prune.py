"""Removal of what is old: in blocks of runs, in both stores."""

import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from fusion.client.history import History
from fusion.core.budget import Account, Amount, Bid, Caps
from fusion.core.errors import RunBusyError
from fusion.store.accounts import Drawing
from fusion.store.base import Store
from fusion.store.lookup import BLOCK
from fusion.store.open import open_store
from fusion.store.rows import Attempt, AttemptEnd, Ended, RunFilter, SessionStart, Started
from tests.postgres import Cluster

FEW_LOCKS = "-c fsync=off -c full_page_writes=off -c max_locks_per_transaction=10"


def kept(store: Store, count: int) -> list[str]:
    """The ids of runs that ended long ago, the newest first."""
    ids = [f"run-{number}" for number in range(count)]
    for number, run_id in enumerate(ids):
        store.put(
            Started(run_id, None, run_id, "p", "local", 1e6 - number, {}, "full", f"f{number}", None),
            SessionStart(run_id, 1, 1e6),
            Ended(run_id, 1, "ok", 1e6 + 1, Decimal(0), 0, 0, None, None),
        )
    store.flush()
    return ids


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("initdb"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    here = request.param == "sqlite"
    made = open_store(tmp_path / "runs.db" if here else request.getfixturevalue("database"))
    yield made
    made.close()


def left(store: Store) -> list[str]:
    return [row.run_id for row in store.runs(RunFilter())]


def test_all_but_running_ones_are_removed(store: Store) -> None:
    ids = kept(store, 2 * BLOCK + 5)
    running = [ids[0], ids[BLOCK], ids[-1]]
    locks = [store.lock(run_id) for run_id in running]
    would = History(store).prune(keep=0, dry_run=True)
    gone = History(store).prune(keep=0)
    assert [one.run_id for one in would] == [one.run_id for one in gone]  # type: ignore[union-attr]
    assert len(gone) == len(ids) - 3
    assert left(store) == running
    for lock in locks:
        lock.release()
    assert len(History(store).prune(older_than=1)) == 3


def test_an_interrupted_removal_has_removed_whole_blocks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, whole = kept(store, 2 * BLOCK + 5), store.remove
    blocks: list[list[str]] = []

    def remove(run_ids: Iterable[str]) -> int:
        blocks.append(list(run_ids))
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return whole(blocks[-1])

    monkeypatch.setattr(store, "remove", remove)
    with pytest.raises(KeyboardInterrupt):
        History(store).prune(keep=0)
    assert left(store) == ids[BLOCK:]
    assert not any(store.is_locked(run_id) for run_id in ids)


def test_ids_are_removed_together_or_not_at_all(store: Store) -> None:
    ids = kept(store, BLOCK + 5)
    lock = store.lock(ids[-1])
    with pytest.raises(RunBusyError, match=ids[-1]):
        History(store).remove(ids)
    assert left(store) == ids
    lock.release()
    assert History(store).remove(ids) == tuple(ids)
    assert left(store) == []


def test_money_of_a_dead_process_is_counted_before_its_runs_go(store: Store) -> None:
    (run_id,) = kept(store, 1)
    account, lease = Account("team", Caps(usd=Decimal(1))), Amount(Decimal("0.5"), 0, 5)
    store.accounts.exchange(account, "dead", Bid(least=lease, most=lease, first=True))
    opened = Attempt(run_id, 1, 1, "s", None, "s", "bulk", "x/y", time.time(), Decimal("0.2"), 70)
    ended = AttemptEnd(run_id, 1, 1, "settled", time.time(), Decimal("0.1"), 30)
    store.put(Drawing("team", "dead", run_id, 1), opened, ended)
    store.flush()
    assert len(History(store).prune(keep=0)) == 1
    (row,) = store.accounts.rows("team")
    assert (row.spent, row.leased) == (Amount(Decimal("0.1"), 30, 1), Amount(Decimal(0), 0, 0))


@pytest.mark.needs("initdb")
def test_more_runs_are_removed_than_the_server_has_locks_for() -> None:
    cluster = Cluster(FEW_LOCKS)
    store = open_store(cluster.database())
    try:
        ids = kept(store, 2100)  # the server has room for 1,900 locks
        assert len(History(store).remove(ids)) == len(ids)
        assert left(store) == []
    finally:
        store.close()
        cluster.close()
