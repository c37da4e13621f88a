"""The model of a map on many nodes: its figures are stated, its results are the same each time and make sense."""

import re
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.distributed import caps, model
from benchmarks.distributed.assumptions import Assumptions, stated
from benchmarks.distributed.blocks import RULES, Account, Rule, built, hundredth, spending
from benchmarks.distributed.deaths import Deaths
from benchmarks.distributed.kills import Plan, Trial
from benchmarks.distributed.limits import breaks, load
from benchmarks.distributed.scene import CALLS, USD_A_CALL, repeated

SMALL = replace(Assumptions(), rows=2_000)


def test_the_model_prints_every_figure_with_its_source_and_the_same_tables_each_time() -> None:
    first = list(model.report([1, 4], SMALL, 3))
    assert first == list(model.report([1, 4], SMALL, 3))
    printed = "\n".join(first)
    for one in stated(SMALL):
        assert one.source
        assert re.search(rf"^\| {one.name} \| .* \| {re.escape(one.source)} \|$", printed, re.MULTILINE)
    assert len(re.findall(r"^\| ---", printed, re.MULTILINE)) == 5


@pytest.mark.parametrize(
    ("settings", "nodes", "limit"),
    [
        ([], 1000, "connections"),
        (["max_connections=10000", "notified_commits=1e9"], 1000, "processors of the database"),
        (["max_connections=10000", "run_bytes=1e6", "notified_commits=1e9"], 100, "write-ahead log"),
        (["provider_calls=500"], 10, "providers"),
        (["run_cpu_ms=40", "notified_commits=1e9"], 1, "processors of nodes"),
        (["max_connections=10000", "server_cores=1000"], 1000, "waits for commits"),
        (["max_connections=1e6", "server_gb=4", "notified_commits=1e9", "server_cores=1000"], 1000, "memory"),
    ],
)
def test_the_first_limit_is_the_resource_that_is_used_most(settings: list[str], nodes: int, limit: str) -> None:
    assert load(nodes, Assumptions().having(settings)).first.startswith(limit)


@pytest.mark.parametrize("nodes", [1, 10, 100, 1000])
def test_no_fleet_is_faster_than_its_slots_and_none_uses_more_than_there_is(nodes: int) -> None:
    given = Assumptions()
    state = load(nodes, given)
    assert state.runs <= nodes * given.slots / given.run_seconds
    assert set(state.over) <= {"connections", "memory of connections"}


@pytest.mark.parametrize("resource", ["connections", "processors of the database", "write-ahead log", "providers"])
def test_a_limit_is_reached_at_the_number_of_nodes_that_is_stated_for_it(resource: str) -> None:
    given = replace(Assumptions(), notified_commits=1e9, commit_ms=1e-6, provider_calls=1e5)
    half = round(breaks(given)[resource] / 2)
    cores = given.server_cores if resource == "processors of the database" else 1e4
    ample = replace(given, node_cores=1e3, server_cores=cores)
    assert load(half, ample).uses[resource] == pytest.approx(0.5, rel=0.02)


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown figure 'speed'"):
        Assumptions().having(["speed=3"])


@pytest.mark.parametrize("rate", [0.0, 100.0, 1_000.0])
def test_deaths_cost_time_and_calls_and_no_rows(rate: float) -> None:
    given = replace(SMALL, deaths_a_day=rate)
    end = Deaths(load(10, given), given, 1).run()
    assert (end.deaths > 0) == (end.calls_again > 0) == (rate > 0)
    assert end.seconds >= end.ideal * 0.999
    assert end.calls_again <= end.deaths * given.slots


def test_later_takeovers_lose_more_time() -> None:
    ends = []
    for seconds in (1, 60, 600):
        given = replace(SMALL, deaths_a_day=1_000, takeover_seconds=seconds)
        ends.append(Deaths(load(10, given), given, 1).run().seconds)
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]


@pytest.mark.parametrize("nodes", [1, 10, 200])
@pytest.mark.parametrize("headroom", [0.8, 1.2])
@pytest.mark.parametrize("rule", RULES)
def test_no_rule_of_blocks_spends_more_than_the_cap(nodes: int, headroom: float, rule: str) -> None:
    given = replace(SMALL, headroom=headroom)
    end = Account(load(nodes, given), given, RULES[rule], 2).run()
    assert end.spent <= 1 + 1e-9
    assert end.stuck <= 1


@pytest.mark.parametrize("rule", [spending, built])
def test_hundredths_of_a_cap_starve_a_thousand_nodes_and_blocks_after_spending_do_not(rule: Rule) -> None:
    given = replace(SMALL, rows=20_000)
    state = load(1000, given)
    all_leased = Account(state, given, hundredth, 0).run()
    assert all_leased.stuck > 0.99
    assert all_leased.starved > 0.85
    shared = Account(state, given, rule, 0).run()
    assert shared.starved < 0.05
    assert rule is built or shared.stuck < 0.05
    assert shared.seconds < 1.05


@pytest.mark.parametrize(
    ("asked", "journaled", "count"),
    [
        ("a b c", {1, 2, 3}, 0),
        ("a b a", {2, 3}, 0),  # the first reply was lost in flight
        ("a b a", {1, 2}, 1),  # the first reply was kept, and yet it was asked again
        ("a a a", {1}, 2),
        ("a b a b", {3, 2}, 1),
        ("a b a", set(), 0),  # none was kept
    ],
)
def test_a_call_is_repeated_if_it_is_requested_after_the_reply_that_is_kept(
    asked: str, journaled: set[int], count: int
) -> None:
    lines = [{"digest": digest, "number": number} for number, digest in enumerate(asked.split(), start=1)]
    assert repeated(lines, frozenset(journaled)) == count


@pytest.mark.parametrize(("cap", "times"), [("above", Decimal(3)), ("below", Decimal("0.5"))])
def test_caps_of_trials_are_above_and_below_the_cost(cap: str, times: Decimal) -> None:
    plan = Plan("workers", rows=100, cap=cap)
    assert plan.usd == 100 * CALLS * USD_A_CALL * times
    assert Trial(plan).right
    assert not Trial(plan, faults=["1 rows lost"]).right


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.needs("initdb"))])
def test_a_trial_of_caps_spends_to_the_cap_and_no_more(kind: str) -> None:
    with ExitStack() as stack:
        place = caps.places(kind, stack)(0)
        end = caps.trial(place, 0, calls=900, processes=3, rpm=60_000, kills=(0.5, 1.0))
    assert end.holds, end
    assert end.cap * Decimal("0.9") < end.true <= end.counted
    assert end.calls > 100


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"true": Decimal("0.9")}, False),  # more than the account has counted
        ({"counted": Decimal("1.1")}, False),
        ({"leased": Decimal("0.3")}, False),
        ({"rate": 1.01}, False),
    ],
)
def test_a_trial_of_caps_holds_if_neither_cap_nor_rate_is_passed(change: dict[str, Any], holds: bool) -> None:
    end = caps.Trial(Decimal(1), Decimal("0.8"), Decimal("0.8"), Decimal("0.05"), 100, 1.0)
    assert end._replace(**change).holds is holds
