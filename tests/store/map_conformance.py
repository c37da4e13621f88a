"""What every Store does with maps: a suite to inherit from, with a `store` fixture that makes one."""

from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from fusion.core.budget import Account, Amount, Bid, Caps
from fusion.core.budget.accounts import NO_AMOUNT
from fusion.store.accounts import Drawing, map_account
from fusion.store.base import Store
from fusion.store.encoding import as_json
from fusion.store.rows import (
    Attempt,
    Ended,
    LinesFound,
    MapEnded,
    MapPass,
    MapStarted,
    RowSeen,
    RowStarted,
    RunFilter,
    RunStatus,
    SessionStart,
    Spending,
    Started,
)


def mapped(store: Store, map_id: str = "m", rows: int = 3) -> None:
    """Put a map of so many rows, in its first pass."""
    store.put(
        MapStarted(map_id, "p", "local", 100.0, {"team": "search"}, "in.csv", "out.csv"),
        MapPass(map_id, 1, 101.0, "shared", '{"version":2,"pipeline":{"name":"p"}}', rows),
    )
    for number in range(1, rows + 1):
        store.put(RowStarted(map_id, number, f"k{number}", 1, number, "shared", row_run(map_id, number)))
    store.flush()


def row_run(map_id: str, number: int, *, more: str = "") -> Started:
    """The run of a row."""
    run_id = f"{map_id}-{number}{more}"
    about = ("p", "local", 102.0, dict[str, str](), "full", f"f{number}{more}")
    return Started(run_id, None, run_id, *about, as_json({"inputs": {"text": number}}))


def row_ended(run_id: str, status: RunStatus = "ok") -> tuple[SessionStart, Ended]:
    """The only session of a row's run, which cost a cent in two calls."""
    return (
        SessionStart(run_id, 1, 103.0),
        Ended(run_id, 1, status, 104.0, Decimal("0.01"), 1, 2, None, as_json({"text": run_id})),
    )


class MapConformance:
    """What holds of the maps in any store."""

    def test_a_map_is_as_it_was_started(self, store: Store) -> None:
        mapped(store)
        found = store.map("m")
        assert found is not None
        assert (found.pipeline, found.status, found.passes, found.expected) == ("p", "running", 1, 3)
        assert (found.source, found.output, found.tags, found.fingerprint) == (
            "in.csv",
            "out.csv",
            {"team": "search"},
            "shared",
        )
        assert store.map("n") is None

    def test_a_row_has_the_record_of_its_map_and_its_own_inputs(self, store: Store) -> None:
        mapped(store)
        assert store.record("m-2") == {"version": 2, "pipeline": {"name": "p"}, "inputs": {"text": 2}}

    def test_rows_are_no_runs_of_the_history(self, store: Store) -> None:
        mapped(store)
        assert store.runs(RunFilter()) == []
        assert sorted((run.run_id, run.map, run.row) for run in store.runs(RunFilter(map="m"))) == [
            ("m-1", "m", 1),
            ("m-2", "m", 2),
            ("m-3", "m", 3),
        ]

    def test_rows_are_found_by_their_keys(self, store: Store) -> None:
        mapped(store)
        store.put(*row_ended("m-2"), LinesFound("m", True, (("k2", "ok 0.01"), ("gone", "ok 0"))))
        store.flush()
        found = store.map_entries("m", ["k2", "k3", "other"])
        assert {key: (entry.number, entry.status, entry.line) for key, entry in found.items()} == {
            "k2": (2, "ok", "ok 0.01"),
            "k3": (3, "running", None),
        }
        assert store.map_lines("m", ["gone", "k3"]) == {"gone": "ok 0"}
        store.put(LinesFound("m", True, ()))
        store.flush()
        assert store.map_lines("m", ["gone", "k2"]) == {}

    def test_a_new_generation_takes_the_place_of_a_run(self, store: Store) -> None:
        mapped(store)
        store.put(*row_ended("m-1"), RowStarted("m", 1, "k1", 2, 7, "shared", row_run("m", 1, more="-g2")))
        store.flush()
        entry = store.map_entries("m", ["k1"])["k1"]
        assert (entry.run_id, entry.status, entry.seen, entry.position) == ("m-1-g2", "running", 2, 7)
        counts = store.map_counts("m")
        assert (counts.rows, counts.ok, counts.waiting, counts.usd) == (3, 0, 3, Decimal("0.01"))

    def test_rows_are_counted_by_their_state(self, store: Store) -> None:
        mapped(store, rows=5)
        for number, status in enumerate(("ok", "partial", "failed", "interrupted"), start=1):
            store.put(*row_ended(f"m-{number}", cast(RunStatus, status)), RowSeen("m", number, 2, number))
        store.flush()
        counts = store.map_counts("m")
        assert (counts.ok, counts.partial, counts.failed, counts.waiting) == (1, 1, 1, 2)
        assert (counts.usd, counts.unknown_calls, counts.calls) == (Decimal("0.04"), 4, 8)
        assert store.map_counts("m", seen=2).rows == 4

    def test_open_attempts_of_rows_count_with_their_worst_case(self, store: Store) -> None:
        mapped(store)
        opened = Attempt("m-1", 1, 1, "s", None, "s", "bulk", "x/y", 103.0, Decimal("0.5"), 70)
        store.put(SessionStart("m-1", 1, 103.0), opened)
        store.flush()
        counts = store.map_counts("m")
        assert (counts.usd, counts.calls, counts.tokens) == (Decimal("0.5"), 1, 70)

    def test_rows_come_in_order_of_their_numbers(self, store: Store) -> None:
        mapped(store, rows=5)
        store.put(RowSeen("m", 4, 2, 1))
        store.flush()
        assert [entry.number for entry in store.map_pages("m")] == [1, 2, 3, 4, 5]
        assert [entry.number for entry in store.map_pages("m", seen=2)] == [4]
        assert store.last_row("m") == 5

    def test_an_earlier_pass_ends_nothing(self, store: Store) -> None:
        mapped(store)
        store.put(MapPass("m", 2, 110.0, "shared", "{}", None), MapEnded("m", 1, "ok", 111.0, None))
        store.flush()
        found = store.map("m")
        assert found is not None
        assert (found.status, found.passes) == ("running", 2)
        store.put(MapEnded("m", 2, "partial", 112.0, None))
        store.flush()
        ended = store.map("m")
        assert ended is not None
        assert (ended.status, ended.seconds) == ("partial", 2.0)

    @pytest.mark.parametrize(
        ("which", "found"),
        [
            (RunFilter(), ["n", "m"]),
            (RunFilter(tags={"team": "search"}, pipeline="p"), ["n", "m"]),
            (RunFilter(pipeline="q"), []),
            (RunFilter(statuses=("partial",)), ["m"]),
            (RunFilter(started_before=100.5), []),
            (RunFilter(started_from=1e12), []),
        ],
    )
    def test_maps_are_found_by_what_they_are(self, store: Store, which: RunFilter, found: list[str]) -> None:
        mapped(store, "m")
        mapped(store, "n")
        store.put(MapEnded("m", 1, "partial", 112.0, None))
        store.flush()
        assert [one.map_id for one in store.maps(which)] == found
        assert store.map_ids("n") == ["n"]

    def test_a_row_is_found_by_its_number(self, store: Store) -> None:
        mapped(store)
        found = store.map_entry("m", 2)
        assert found is not None
        assert (found.key, found.run_id) == ("k2", "m-2")
        assert store.map_entry("m", 4) is None
        assert store.map_entry("n", 1) is None

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ({}, ["k1", "k2", "k3", "k4"]),
            ({"order": "last"}, ["k4", "k3", "k2", "k1"]),
            ({"order": "last", "limit": 2}, ["k4", "k3"]),
            ({"order": "slowest", "limit": 2}, ["k1", "k3"]),
            ({"statuses": ("failed",)}, ["k2"]),
            ({"statuses": ("running", "ok"), "order": "last", "limit": 2}, ["k4", "k3"]),
            ({"limit": 0}, []),
        ],
    )
    def test_the_runs_of_rows_are_listed(self, store: Store, options: dict[str, Any], found: list[str]) -> None:
        mapped(store, rows=4)
        for number, (status, seconds) in enumerate((("ok", 3.0), ("failed", 1.0), ("ok", 2.0)), start=1):
            session, ended = row_ended(f"m-{number}", cast(RunStatus, status))
            store.put(session, replace(ended, ended=session.started + seconds))
        store.flush()
        listed = list(store.map_runs("m", **options))
        assert [key for key, _ in listed] == found
        assert [run.run_id for _, run in listed] == [f"m-{key[1:]}" for key in found]
        assert {(run.map, run.shared) for _, run in listed} <= {("m", "shared")}

    def test_many_rows_are_listed_in_pages(self, store: Store) -> None:
        mapped(store, rows=250)
        assert [run.row for _, run in store.map_runs("m")] == [*range(1, 251)]
        assert [run.row for _, run in store.map_runs("m", order="last", limit=120)] == [*range(250, 130, -1)]

    def test_spending_is_summed_over_rows_by_stage(self, store: Store) -> None:
        mapped(store)
        for number, stage in ((1, "s"), (2, "s"), (3, "t")):
            run_id = f"m-{number}"
            opened = Attempt(run_id, 1, 1, stage, None, "s", "bulk", "x/y", 103.0 + number, Decimal("0.5"), 70)
            store.put(SessionStart(run_id, 1, 103.0), opened)
        store.flush()
        assert store.map_spending("m") == {
            "s": Spending(Decimal("1.0"), 140, 2, 0),
            "t": Spending(Decimal("0.5"), 70, 1, 0),
        }
        assert store.map_spending("n") == {}

    def test_the_shared_records_of_a_map_are_apart_from_those_of_its_rows(self, store: Store) -> None:
        mapped(store)
        store.put(MapPass("m", 2, 110.0, "edited", '{"version":2,"pipeline":{"name":"q"}}', None))
        store.flush()
        names = {name: record["pipeline"]["name"] for name, record in store.map_records("m")}
        assert names == {"shared": "p", "edited": "q"}
        assert store.own_record("m-2") == {"inputs": {"text": 2}}

    def test_the_record_of_a_pass_replaces_that_of_an_earlier_one(self, store: Store) -> None:
        mapped(store)
        store.put(MapPass("m", 2, 110.0, "shared", '{"version":2,"limits":{"usd":"3"}}', None))
        store.flush()
        assert dict(store.map_records("m"))["shared"] == {"version": 2, "limits": {"usd": "3"}}

    def test_rows_are_read_together_with_their_inputs(self, store: Store) -> None:
        mapped(store)
        found = store.row_runs("m", [2, 3, 77])
        assert [(run.run_id, run.row) for run, _ in found] == [("m-2", 2), ("m-3", 3)]
        assert [inputs for _, inputs in found] == [{"inputs": {"text": 2}}, {"inputs": {"text": 3}}]
        assert store.row_runs("m", []) == store.row_runs("none", [1]) == []

    def test_ids_of_rows_are_no_ids_of_runs(self, store: Store) -> None:
        mapped(store)
        assert store.run_ids("m") == []

    def test_a_map_is_removed_with_its_account_alone(self, store: Store) -> None:
        mapped(store, "m")
        cap, cent = Caps(usd=Decimal(1)), Amount(Decimal("0.01"), 5, 1)
        accounts = [Account(name, cap) for name in (map_account("m"), map_account("n"), "team")]
        for account in accounts:
            store.accounts.exchange(account, "h", Bid(cent, least=cent, most=cent, first=True))
            store.put(Drawing(account.name, "h", "m-1", 1))
        assert store.remove_map("m")
        assert [(row.account.name, row.spent) for row in store.accounts.rows()] == [("map n", cent), ("team", cent)]
        assert [len(store.accounts.leases(account.name)) for account in accounts] == [0, 1, 1]
        first = store.accounts.exchange(accounts[0], "h", Bid(first=True))
        assert (first.spent, first.leased) == (NO_AMOUNT, NO_AMOUNT)

    def test_a_map_is_removed_with_its_rows(self, store: Store) -> None:
        mapped(store, "m")
        mapped(store, "n")
        assert store.remove_map("m")
        assert not store.remove_map("m")
        assert store.map("m") is None
        assert store.run("m-1") is None
        assert store.run("n-1") is not None
        assert store.map_counts("n").rows == 3
