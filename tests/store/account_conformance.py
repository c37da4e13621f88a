"""What the accounts of every Store do: a suite to inherit from, with a `store` fixture that makes one."""

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

import pytest

from fusion.core.budget import Account, Amount, Bid, Caps, Standing
from fusion.core.budget.accounts import NO_AMOUNT as NOTHING
from fusion.core.errors import StoreError
from fusion.store.accounts import GRACE, Drawing, settle_dead
from fusion.store.base import Store
from fusion.store.rows import AttemptEnd, AttemptState
from tests.store.conformance import attempt, session, started

DOLLAR = Account("nightly", Caps(usd=Decimal(1)))
DAY = Account("nightly", Caps(usd=Decimal(1)), "2026-11-30", 1000.0, 2000.0)


def usd(amount: str, *, tokens: int = 0, calls: int = 0) -> Amount:
    return Amount(Decimal(amount), tokens, calls)


def ask(amount: str, most: str | None = None, **more: Any) -> Bid:
    return Bid(least=usd(amount), most=usd(most or amount), **{"first": True, **more})


def sums(store: Store, account: Account = DOLLAR) -> tuple[Amount, Amount]:
    """The spent and the leased amount of an account."""
    row = next(one for one in store.accounts.rows(account.name) if one.account.period == account.period)
    return row.spent, row.leased


class Died(NamedTuple):
    """A holder that died with a lease of $0.50: what it had reported, its attempts, and what is spent in the end."""

    reported: str
    attempts: Iterable[tuple[AttemptState, str, str]]
    spent: str
    calls: int


class AccountConformance:
    """The tests of the accounts of a `store`."""

    @pytest.mark.parametrize(
        ("caps", "part"),
        [
            pytest.param(Caps(usd=Decimal("1.00")), usd("0.25"), id="usd"),
            pytest.param(Caps(usd=Decimal("0.0000004")), usd("0.0000001"), id="usd of one token"),
            pytest.param(Caps(usd=Decimal("40000000.04")), usd("10000000.01"), id="usd of a company"),
            pytest.param(Caps(tokens=4_000_000_000), Amount(Decimal(0), 1_000_000_000, 0), id="tokens"),
            pytest.param(Caps(calls=4), Amount(Decimal(0), 0, 1), id="calls"),
            pytest.param(Caps(Decimal(9), 4, 9), usd("0.25", tokens=1, calls=2), id="the first of three"),
        ],
    )
    def test_leases_never_pass_the_cap(self, store: Store, caps: Caps, part: Amount) -> None:
        account = Account("nightly", caps)
        bid = Bid(least=part, most=part, first=True)
        answers = [store.accounts.exchange(account, f"h{number}", bid) for number in range(6)]
        assert [one.granted for one in answers] == [True] * 4 + [False] * 2
        assert answers[-1].open == NOTHING
        assert sums(store, account) == (NOTHING, part.plus(part).plus(part.plus(part)))
        assert store.accounts.rows()[0].account == account

    def test_a_lease_is_no_more_than_what_is_left(self, store: Store) -> None:
        first = store.accounts.exchange(DOLLAR, "a", ask("0.1", "0.7"))
        second = store.accounts.exchange(DOLLAR, "b", ask("0.1", "0.7"))
        third = store.accounts.exchange(DOLLAR, "c", ask("0.1", "0.7"))
        assert [one.open.usd for one in (first, second, third)] == [Decimal("0.7"), Decimal("0.3"), Decimal(0)]
        assert [one.granted for one in (first, second, third)] == [True, True, False]

    def test_a_repeated_bid_changes_nothing(self, store: Store) -> None:
        bids = [
            ask("0.1", "0.4"),
            Bid(spent=usd("0.2", calls=2), least=usd("0.3"), most=usd("0.3")),
            Bid(spent=usd("0.9", calls=3), least=usd("0.3"), most=usd("0.3")),
        ]
        for bid in bids:
            once = store.accounts.exchange(DOLLAR, "a", bid)
            again = store.accounts.exchange(DOLLAR, "a", bid._replace(first=False))
            assert (again.open, again.spent, again.leased) == (once.open, once.spent, once.leased)

    def test_what_was_spent_and_the_rest_come_back_at_the_end(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "a", ask("0.5"))
        last = store.accounts.exchange(DOLLAR, "a", Bid(spent=usd("0.2", tokens=10, calls=1), last=True))
        assert last == Standing(True, NOTHING, usd("0.2", tokens=10, calls=1), NOTHING)
        assert store.accounts.leases("nightly") == []
        assert store.accounts.exchange(DOLLAR, "b", ask("0.8")).granted
        assert not store.accounts.exchange(DOLLAR, "c", ask("0.0000001")).granted

    def test_a_refused_bid_reports_and_gives_back_what_it_does_not_keep(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "a", ask("0.5"))
        answer = store.accounts.exchange(DOLLAR, "a", Bid(usd("0.3"), usd("0.1"), usd("0.9"), usd("0.9")))
        assert answer == Standing(False, usd("0.1"), usd("0.3"), usd("0.1"))

    def test_more_than_the_lease_counts_in_full(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "a", ask("0.5"))
        answer = store.accounts.exchange(DOLLAR, "a", Bid(usd("1.7"), usd("0.1"), usd("0.1"), usd("0.1")))
        assert answer == Standing(False, NOTHING, usd("1.7"), NOTHING)
        assert not store.accounts.exchange(DOLLAR, "b", ask("0.1")).granted

    def test_periods_and_names_are_apart(self, store: Store) -> None:
        others = [DAY, DAY._replace(period="2026-12-01"), DOLLAR, DOLLAR._replace(name="weekly")]
        assert all(store.accounts.exchange(one, "a", ask("1")).granted for one in others)
        assert [row.account.name for row in store.accounts.rows()] == ["nightly"] * 3 + ["weekly"]
        assert [row.account.period for row in store.accounts.rows("nightly")] == ["", "2026-11-30", "2026-12-01"]
        assert store.accounts.rows("nightly")[1].account == DAY

    def test_a_changed_cap_holds_from_then_on(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "a", ask("1"))
        assert store.accounts.exchange(DOLLAR._replace(caps=Caps(usd=Decimal(3))), "b", ask("2")).granted
        assert not store.accounts.exchange(DOLLAR, "c", ask("0.1")).granted

    @pytest.mark.parametrize(
        "died",
        [
            pytest.param(Died("0", [], "0", 0), id="nothing sent"),
            pytest.param(Died("0", [("open", "0.2", "0.2")], "0.2", 1), id="open: the worst case"),
            pytest.param(Died("0", [("settled", "0.2", "0.05")], "0.05", 1), id="settled"),
            pytest.param(Died("0", [("refunded", "0.2", "0")], "0", 0), id="refunded"),
            pytest.param(Died("0", [("charged", "0.2", "0.2"), ("settled", "0.2", "0.1")], "0.3", 2), id="charged"),
            pytest.param(Died("0.1", [("settled", "0.2", "0.1"), ("open", "0.2", "0.2")], "0.3", 2), id="reported"),
            pytest.param(Died("0.3", [("settled", "0.2", "0.1")], "0.3", 1), id="reported, not by attempts"),
            pytest.param(Died("0", [("settled", "0.2", "0.9")], "0.9", 1), id="more than its lease"),
        ],
    )
    def test_a_dead_holder_is_settled_by_its_attempts(self, store: Store, died: Died) -> None:
        store.put(started(), session(), Drawing("nightly", "dead", "r1", 1))
        store.accounts.exchange(DOLLAR, "dead", ask("0.5"))
        for number, (state, worst, cost) in enumerate(died.attempts, start=1):
            store.put(attempt(number, usd=Decimal(worst), tokens=0))
            if state != "open":
                store.put(AttemptEnd("r1", 1, number, state, 120.0, Decimal(cost), 0))
        store.flush()
        if died.reported != "0":
            store.accounts.exchange(DOLLAR, "dead", Bid(spent=usd(died.reported), most=usd("0.5")))
        assert settle_dead(store, "nightly") == 1
        assert sums(store) == (usd(died.spent, calls=died.calls), NOTHING)
        assert settle_dead(store, "nightly") == 0

    @pytest.mark.parametrize("lost", ["not kept", "removed", "never begun"])
    def test_unknown_attempts_leave_the_lease_spent(self, store: Store, lost: str) -> None:
        store.put(started(), session(), Drawing("nightly", "dead", "r1", 1))
        if lost == "never begun":
            store.put(Drawing("nightly", "dead", "r1", 2))
        if lost == "not kept":
            store.put(Drawing("nightly", "dead", "r2", 1))
        store.flush()
        if lost == "removed":
            store.remove(["r1"])
        store.accounts.exchange(DOLLAR, "dead", ask("0.5"))
        store.accounts.exchange(DOLLAR, "dead", Bid(spent=usd("0.1"), most=usd("0.4")))
        settle_dead(store, "nightly")
        assert sums(store) == (usd("0.5"), NOTHING)

    def test_only_attempts_on_the_account_and_in_its_period_count(self, store: Store) -> None:
        store.put(started(), session(), Drawing("nightly", "dead", "r1", 1))
        store.put(started("r2"), session("r2"), Drawing("weekly", "dead", "r2", 1))
        assert DAY.begins is not None
        assert DAY.ends is not None
        for number, at in enumerate((DAY.begins - 1, DAY.begins, DAY.ends, DAY.ends + GRACE), start=1):
            store.put(attempt(number, opened=at, usd=Decimal("0.1"), tokens=0))
        store.put(attempt(1, run_id="r2", opened=1500.0, usd=Decimal("0.1"), tokens=0))
        store.flush()
        store.accounts.exchange(DAY, "dead", ask("0.5"))
        settle_dead(store, "nightly", DAY.period)
        assert sums(store, DAY) == (usd("0.2", calls=2), NOTHING)

    def test_a_holder_that_lives_is_not_settled(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "alive", ask("0.5"))
        lock = store.claim("alive")
        assert lock is not None
        assert settle_dead(store, "nightly") == 0
        lock.release()
        assert settle_dead(store, "nightly") == 1

    def test_a_settled_holder_is_told_so(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "a", ask("0.5"))
        settle_dead(store, "nightly")
        with pytest.raises(StoreError, match="the lease of 'nightly' was settled"):
            store.accounts.exchange(DOLLAR, "a", ask("0.1", first=False))
        with pytest.raises(StoreError, match="the lease of 'other' was settled"):
            store.accounts.exchange(DOLLAR._replace(name="other"), "a", ask("0.1", first=False))

    def test_a_cleared_account_begins_anew_under_its_leases(self, store: Store) -> None:
        store.accounts.exchange(DOLLAR, "a", Bid(spent=usd("0.2"), most=usd("0.5"), first=True))
        store.accounts.exchange(DAY, "b", ask("0.5"))
        store.accounts.exchange(DAY, "b", Bid(spent=usd("0.5"), last=True))
        assert store.accounts.clear("nightly") == 2
        assert [row.account.period for row in store.accounts.rows()] == [""]
        assert sums(store) == (NOTHING, usd("0.5"))
        last = store.accounts.exchange(DOLLAR, "a", Bid(spent=usd("0.6"), last=True))
        assert (last.spent, last.leased) == (usd("0.4"), NOTHING)
        assert store.accounts.clear("nightly") == 1
        assert store.accounts.rows() == []
        assert store.accounts.clear("nightly") == 0

    @pytest.mark.parametrize("seed", range(3))
    def test_many_holders_at_once_keep_the_cap(self, store: Store, seed: int) -> None:
        account = Account("nightly", Caps(Decimal("3.00"), 3000, 300))

        def work(number: int) -> Amount:
            random, holder = Random(f"{seed} {number}"), f"h{number}"
            lease = store.accounts.exchange(account, holder, Bid(first=True))
            spent = NOTHING
            for _ in range(25):
                part = Amount(Decimal(random.randint(1, 90)) / 1000, random.randint(1, 90), random.randint(1, 9))
                bid = Bid(spent, NOTHING, part, part.plus(part))
                lease = store.accounts.exchange(account, holder, bid)
                total = lease.spent.plus(lease.leased)
                assert all(one <= cap for one, cap in zip(total, account.caps, strict=True) if cap is not None)
                if lease.granted:
                    spent = spent.plus(part)
            store.accounts.exchange(account, holder, Bid(spent, last=True))
            return spent

        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(work, range(4)))
        spent = NOTHING
        for part in parts:
            spent = spent.plus(part)
        assert sums(store, account) == (spent, NOTHING)
        assert min(Amount(*account.caps).minus(spent)) >= 0  # type: ignore[arg-type, type-var] # all caps are set
        assert spent.usd is not None
        assert spent.usd > 1

    def test_booked_times_of_a_rate_never_overlap(self, store: Store) -> None:
        def book(seconds: float) -> tuple[float, float, float]:
            before = time.time()
            begins = store.accounts.book("openai", seconds)
            return before + begins, time.time() + begins, seconds

        with ThreadPoolExecutor(4) as pool:
            booked = sorted(pool.map(book, [0.5, 1.5, 0.25, 3.0] * 5))
        assert booked[-1][0] - booked[0][0] == pytest.approx(sum(one[2] for one in booked[:-1]), abs=0.5)
        for one, following in itertools.pairwise(booked):
            assert following[1] - one[0] >= one[2] - 1e-6

    def test_a_free_time_of_a_rate_is_at_once_and_rates_are_apart(self, store: Store) -> None:
        assert store.accounts.book("openai", 60.0) == 0
        assert store.accounts.book("anthropic", 0.001) == 0
        assert store.accounts.book("openai", 60.0) == pytest.approx(60.0, abs=5.0)
