"""Fusion.runs of maps: a map is one whole, its rows are runs."""

import json
import resource
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import UsageError
from fusion.client.history import History
from fusion.core.errors import RunBusyError
from fusion.core.types import Failure
from fusion.store.base import Store
from fusion.store.lookup import find_map
from fusion.store.open import open_store
from fusion.store.rows import SessionStart, Started
from tests.kept_maps import CENT, Answer, Kept, keep

LATE = Failure(reason="ModelTimeoutError", message="no answer in 3 s")
LATER = Failure(reason="ModelTimeoutError", message="no answer in 4.5 s")
BAD = Failure(reason="BadRequestError", message="no such model 'x'")
ROWS: dict[str, Answer] = {"a": "one", "b": LATE, "c": LATER, "d": BAD, "e": "two", "f": None}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "runs.db")
    yield opened
    opened.close()


@pytest.fixture
def history(store: Store) -> History:
    return History(store)


def one_run(store: Store, run_id: str, at: float) -> None:
    store.put(Started(run_id, None, run_id, "p", "local", at, {}, "full", "f", "{}"), SessionStart(run_id, 1, at))
    store.flush()


def test_a_map_is_summed_up(store: Store, history: History) -> None:
    keep(store, Kept(ROWS, status="failed", tags={"team": "x"}, passes=2))
    (one,) = history.maps()
    assert (one.map_id, one.status, one.pipeline, one.passes, one.tags) == (
        "nightly",
        "failed",
        "tickets",
        2,
        {"team": "x"},
    )
    assert (one.rows, one.expected, one.ok, one.partial, one.failed, one.waiting) == (6, 6, 2, 0, 3, 1)
    assert (one.done, one.source, one.output) == (2, "in.csv", "out.jsonl")
    assert (one.cost.usd, one.calls) == (CENT * 7, 6)  # an open attempt counts with its worst case
    assert history.list() == ()


def test_a_map_shows_spending_failures_and_rows(store: Store, history: History) -> None:
    keep(store, Kept(ROWS, status="failed"))
    shown = history.show_map("night")
    assert shown.pipeline_file == "tickets.yaml"
    assert [(line.stage, line.calls, line.cost.usd) for line in shown.stages] == [("work", 6, CENT * 7)]
    assert [(one.count, one.keys, one.failure) for one in shown.failures] == [
        (2, ("b", "c"), LATE),
        (1, ("d",), BAD),
    ]
    assert [row.number for row in shown.newest] == [5, 4, 3, 2, 1]
    assert [row.key for row in shown.slowest] == ["e", "d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("status", "locked", "state"),
    [
        (None, True, "running"),
        (None, False, "died"),
        ("ok", False, "ok"),
        ("partial", False, "partial"),
        ("interrupted", False, "interrupted"),
    ],
)
def test_the_lock_of_a_map_tells_a_running_one_from_a_dead_one(
    store: Store, history: History, status: Any, locked: bool, state: Any
) -> None:
    keep(store, Kept(ROWS, status=status))
    lock = store.lock("nightly") if locked else None
    assert history.show_map("nightly").map.status == state
    assert [row.status for row in history.rows("nightly", limit=1)] == ["running" if locked else "died"]
    assert [one.map_id for one in history.maps(status=[state])] == ["nightly"]
    assert history.maps(status=["failed"]) == ()
    if lock is not None:
        lock.release()


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, ["f", "e", "d", "c", "b", "a"]),
        ({"limit": 2}, ["f", "e"]),
        ({"status": ["failed"]}, ["d", "c", "b"]),
        ({"status": ["failed"], "limit": 1}, ["d"]),
        ({"status": ["died", "ok"]}, ["f", "e", "a"]),
        ({"status": ["running"]}, []),
    ],
)
def test_rows_of_a_map_are_listed(store: Store, history: History, options: Any, keys: list[str]) -> None:
    keep(store, Kept(ROWS))
    rows = list(history.rows("nightly", **options))
    assert [row.key for row in rows] == keys
    assert [row.run_id for row in rows] == [f"nightly-{row.number}" for row in rows]


@pytest.mark.parametrize(
    ("given", "run"), [("b", "nightly-2"), ("4", "nightly-4"), ("1", "nightly-7"), ("7", "nightly-7")]
)
def test_a_row_is_found_by_its_key_else_its_number(store: Store, history: History, given: str, run: str) -> None:
    keep(store, Kept({**ROWS, "1": "a key that is a number"}))
    assert history.row("nightly", given) == run
    assert history.show(run).run.run_id == run


@pytest.mark.parametrize("given", ["z", "8", "0", "", "²"])
def test_a_row_that_is_not_there_is_told(store: Store, history: History, given: str) -> None:
    keep(store, Kept(ROWS))
    with pytest.raises(UsageError, match="has no row with the key or number"):
        history.row("nightly", given)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("nightly", "nightly"),
        ("nig", "nightly"),
        ("weekly", "weekly"),
        ("latest", "weekly"),
        ("nightly-3", None),
        ("run", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_an_id_that_many_rows_share_is_that_of_the_map(store: Store, given: str, found: str | None) -> None:
    keep(store, Kept(ROWS))
    keep(store, Kept(ROWS, "weekly", at=2_000_000.0))
    one_run(store, "run-1", 1_500_000.0)
    row = find_map(store, given)
    assert (None if row is None else row.map_id) == found


def test_ids_that_several_share_are_told(store: Store, history: History) -> None:
    keep(store, Kept(ROWS, "night-1"))
    one_run(store, "night-2", 3_000_000.0)
    with pytest.raises(UsageError, match="several runs begin with 'night': night-1, night-2"):
        history.show_map("night")
    assert find_map(store, "latest") is None
    assert history.ids("night") == ("night-1", "night-2")
    with pytest.raises(UsageError, match="'night-1' is a map, not a run"):
        history.show("night-1")
    with pytest.raises(UsageError, match="no map 'night-2'"):
        history.show_map("night-2")


def test_a_map_is_removed_as_a_whole(store: Store, history: History) -> None:
    keep(store, Kept(ROWS))
    keep(store, Kept(ROWS, "weekly"))
    with pytest.raises(UsageError, match="'nightly-2' is a row of map 'nightly'; remove the map"):
        history.remove(["weekly", "nightly-2"])
    lock = store.lock("nightly")
    with pytest.raises(RunBusyError, match="map 'nightly' is being run"):
        history.remove(["weekly", "nightly"])
    lock.release()
    assert [one.map_id for one in history.maps()] == ["weekly", "nightly"]
    assert history.remove(["nig"]) == ("nightly",)
    assert store.run("nightly-1") is None
    assert [one.map_id for one in history.maps()] == ["weekly"]


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"keep": 0}, ["weekly", "run-1", "nightly"]),
        ({"keep": 1}, ["run-1", "nightly"]),
        ({"keep": 2}, ["nightly"]),
        ({"status": ["failed"]}, ["weekly"]),
        ({"older_than": 1, "pipeline": "tickets"}, ["weekly", "nightly"]),
        ({"older_than": 100_000}, []),
        ({"keep": 0, "tags": {"team": "x"}}, ["nightly"]),
    ],
)
def test_maps_are_pruned_with_their_rows(store: Store, history: History, options: Any, gone: list[str]) -> None:
    keep(store, Kept(ROWS, tags={"team": "x"}))
    one_run(store, "run-1", 1_500_000.0)
    keep(store, Kept(ROWS, "weekly", status="failed", at=2_000_000.0))

    def named(pruned: Any) -> list[str]:
        return [getattr(one, "map_id", None) or one.run_id for one in pruned]

    assert named(history.prune(dry_run=True, **options)) == gone
    assert len(history.maps()) == 2
    assert named(history.prune(**options)) == gone
    assert {one.map_id for one in history.maps()} == {"nightly", "weekly"} - set(gone)


def test_the_latest_pass_of_a_map_is_its_age(store: Store, history: History) -> None:
    keep(store, Kept(ROWS, at=time.time() - 0.5, passes=2))
    assert history.prune(older_than=0) == ()
    keep(store, Kept(ROWS, "old", at=time.time() - 86400 * 3))
    lock = store.lock("old")
    assert history.prune(older_than=2) == ()
    lock.release()
    assert [one.pipeline for one in history.prune(older_than=2)] == ["tickets"]


def test_a_map_is_exported_with_its_rows(store: Store, history: History) -> None:
    keep(store, Kept(ROWS, status="failed"))
    document = json.loads("".join(history.export("nightly")))
    assert document["map"]["map_id"] == "nightly"
    assert document["records"]["f"]["file"] == "tickets.yaml"
    rows = document["rows"]
    assert [row["row"] for row in rows] == [{"number": n, "key": key} for n, key in enumerate(ROWS, start=1)]
    assert {row["shared"] for row in rows} == {"f"}
    assert [row["record"] for row in rows] == [{"inputs": {"text": key}} for key in ROWS]
    assert rows[0]["result"]["text"] == "one"
    assert [row["run"]["status"] for row in rows] == ["ok", "failed", "failed", "failed", "ok", "died"]
    assert rows[0]["calls"][0]["messages"][0]["content"] == "work on a"
    whole = json.loads("".join(history.export("nightly-1")))
    assert whole["record"]["file"] == "tickets.yaml"


def test_a_map_without_rows_is_exported_too(store: Store, history: History) -> None:
    keep(store, Kept({}))
    document = json.loads("".join(history.export("nightly")))
    assert (document["rows"], document["map"]["rows"]) == ([], 0)
    shown = history.show_map("nightly")
    assert (shown.stages, shown.failures, shown.newest, shown.slowest) == ((), (), (), ())


def test_an_export_comes_in_pieces(store: Store, history: History) -> None:
    keep(store, Kept({f"k{n}": "word " * 2000 for n in range(600)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    length = sum(len(piece) for piece in history.export("nightly"))
    assert length > 10_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


@pytest.mark.parametrize(
    ("a", "b", "state"),
    [
        ("one", "one", "same"),
        ("one", "two", "different"),
        ("one", LATE, "status"),
        (LATE, LATER, "same"),
        ("one", None, "unfinished"),
        (None, None, "unfinished"),
        ("one", "-", "only a"),
        ("-", "one", "only b"),
    ],
)
def test_maps_are_compared_row_by_row(store: Store, history: History, a: Any, b: Any, state: str) -> None:
    for map_id, answer in (("first", a), ("second", b)):
        keep(store, Kept({"same": "x"} | ({} if answer == "-" else {"k": answer}), map_id))
    diff = history.diff_maps("first", "second")
    assert diff.counts == ({"same": 2} if state == "same" else {"same": 1, state: 1})
    assert [(pair.key, pair.state) for pair in diff.rows] == ([] if state == "same" else [("k", state)])
    assert (diff.a.map_id, diff.b.map_id, diff.more) == ("first", "second", 0)


def test_answers_that_were_not_kept_cannot_be_compared(store: Store, history: History) -> None:
    keep(store, Kept({"k": "x"}, "first", content="off"))
    keep(store, Kept({"k": "x"}, "second"))
    assert history.diff_maps("first", "second").counts == {"not kept": 1}


def test_of_many_differences_the_first_are_named(store: Store, history: History) -> None:
    keep(store, Kept({f"k{n}": LATE for n in range(1200)}, "first"))
    keep(store, Kept({}, "second"))
    diff = history.diff_maps("first", "second")
    assert (diff.counts, len(diff.rows), diff.more) == ({"only a": 1200}, 1000, 200)
    assert diff.a.cost.usd == Decimal(12)
