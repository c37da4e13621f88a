"""Budgets that outlive a run: kept in the store, for all processes, by calendar period."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Result, RunFailed, ScriptedModel, Settings, UsageError
from fusion.cli.views.lines import first_line
from fusion.core.budget import Account, Amount, Bid, Caps
from fusion.core.errors import BudgetError
from fusion.core.events import EventBase, MapStarted, RunStarted
from fusion.store.accounts import settle_dead
from fusion.store.open import open_store
from tests.conftest import Write, pipeline

ONE = pipeline(
    "inputs: {t: What.}\noutput: a\nstages:\n"
    "  a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}', max_tokens: 10}\n"
)
TWO = pipeline(
    "inputs: {t: What.}\noutput: b\nstages:\n"
    "  a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}', max_tokens: 10}\n"
    "  b: {kind: generate, role: bulk, prompt: '{{ a }}', max_tokens: 10}\n"
)


@pytest.fixture
def fusion(write: Write, model: ScriptedModel, tmp_path: Path) -> Iterator[Any]:
    """Makes a Fusion on these settings, with a store."""
    made: list[Fusion] = []

    def make(text: str = "", **options: Any) -> Fusion:
        if text:
            write(text)
        made.append(Fusion(**{"profile": "local", "model": model, "store": tmp_path / "runs.db", **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Clock:
    """The wall clock of budgets."""

    def __init__(self, patch: pytest.MonkeyPatch, *at: int) -> None:
        self.at(*at)
        patch.setattr("fusion.core.budget.leased.time.time", lambda: self.now)

    def at(self, *at: int) -> None:
        self.now = datetime(*at, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, 2026, 11, 30, 12)


def spent(path: Path, name: str = "team") -> dict[str, Amount]:
    """What was spent of an account, by period; nothing of it is leased any more."""
    store = open_store(path)
    rows = store.accounts.rows(name)
    store.close()
    assert all(row.leased == Amount(Decimal(0), 0, 0) for row in rows)
    return {row.account.period: row.spent for row in rows}


@pytest.mark.parametrize(
    ("limit", "per", "says"),
    [
        (
            "usd = 0.25",
            "day",
            r"limit \$0\.25, spent \$0\.20 on 2026-11-30 \(UTC\), .* again at 2026-12-01 00:00 UTC",
        ),
        ("usd = 0.25", "week", r"spent \$0\.20 in 2026-W49 \(UTC\), .* opens again at 2026-12-07 00:00 UTC"),
        ("calls = 2", "month", r"limit 2, spent 2 in 2026-11 \(UTC\), .* opens again at 2026-12-01 00:00 UTC"),
        ("tokens = 110", "day", r"limit 110, spent \d+ on 2026-11-30 \(UTC\)"),
        ("usd = 0.25", "store", r"limit \$0\.25, spent \$0\.20 in all, needed up to \$0\.10; raise"),
    ],
)
def test_a_budget_with_a_period_outlives_the_process(
    fusion: Any, clock: Clock, limit: str, per: str, says: str
) -> None:
    for _ in range(2):
        with fusion(f"[budgets.team]\n{limit}\nper = '{per}'\n") as one:
            assert one.complete("x", pipeline=ONE, within="team").status == "ok"
    with pytest.raises(RunFailed, match=says) as caught:
        fusion().complete("x", pipeline=ONE, within="team")
    assert caught.value.exit_code == 4
    assert re.search(r"the \w+ limit of 'budgets.team' of .*own/fusion\.toml", str(caught.value))


def test_the_next_period_begins_anew(fusion: Any, clock: Clock, tmp_path: Path) -> None:
    one = fusion("[budgets.team]\nusd = 0.25\nper = 'day'\n")
    for _ in range(2):
        one.complete("x", pipeline=ONE, within="team")
    clock.at(2026, 12, 1)
    for _ in range(2):
        one.complete("x", pipeline=ONE, within="team")
    with pytest.raises(RunFailed, match="on 2026-12-01"):
        one.complete("x", pipeline=ONE, within="team")
    one.close()
    assert [one.usd for one in spent(tmp_path / "runs.db").values()] == [Decimal("0.2")] * 2


def test_a_run_that_a_budget_ended_goes_on_in_the_next_period(fusion: Any, clock: Clock, tmp_path: Path) -> None:
    one = fusion("[budgets.team]\ncalls = 1\nper = 'day'\ntags = {}\n")
    with pytest.raises(RunFailed, match="opens again at 2026-12-01") as caught:
        one.complete("x", pipeline=TWO)
    run_id = caught.value.result.run_id
    with pytest.raises(RunFailed):
        one.resume(run_id)
    clock.at(2026, 12, 1, 9)
    result = one.resume(run_id)
    assert (result.status, result.cost.usd) == ("ok", Decimal("0.2"))
    one.close()
    assert {period: one.calls for period, one in spent(tmp_path / "runs.db").items()} == {
        "2026-11-30": 1,
        "2026-12-01": 1,
    }


@pytest.mark.parametrize(
    ("tags", "of_run", "covered"),
    [
        ("{team = 'search'}", {"team": "search"}, True),
        ("{team = 'search'}", {"team": "search", "job": "7"}, True),
        ("{team = 'search', job = '7'}", {"team": "search"}, False),
        ("{team = 'search'}", {"team": "ads"}, False),
        ("{team = 'search'}", {}, False),
        ("{}", {}, True),
        ("{}", {"team": "ads"}, True),
    ],
)
def test_a_budget_covers_runs_by_their_tags(
    fusion: Any, tmp_path: Path, tags: str, of_run: dict[str, str], covered: bool
) -> None:
    with fusion(f"[budgets.team]\nusd = 5\nper = 'day'\ntags = {tags}\n") as one:
        one.complete("x", pipeline=ONE, tags=of_run)
    assert bool(spent(tmp_path / "runs.db")) == covered


def test_a_run_is_within_every_budget_that_covers_it(fusion: Any, tmp_path: Path) -> None:
    settings = (
        "[budgets.all]\nusd = 9\nper = 'month'\ntags = {}\n"
        "[budgets.team]\nusd = 0.35\nper = 'day'\ntags = {t = 's'}\n"
        "[budgets.job]\ncalls = 3\nper = 'store'\n[budgets.here]\ncalls = 9\n"
    )
    with fusion(settings) as one:
        one.complete("x", pipeline=ONE, within="job", tags={"t": "s"})
        one.complete("x", pipeline=ONE, within="job")
        one.complete("x", pipeline=ONE, within="here", tags={"t": "s"})
        one.complete("x", pipeline=ONE)
        one.complete("x", pipeline=ONE, within="job", tags={"t": "s"})
        with pytest.raises(RunFailed, match=r"usd limit of 'budgets\.team'"):
            one.complete("x", pipeline=ONE, within="here", tags={"t": "s"})
        with pytest.raises(RunFailed, match=r"calls limit of 'budgets\.job'"):
            one.complete("x", pipeline=ONE, within="job")
    path = tmp_path / "runs.db"
    calls = [next(iter(spent(path, name).values())).calls for name in ("all", "team", "job")]
    assert calls == [5, 3, 3]


def test_several_processes_share_a_budget(fusion: Any, tmp_path: Path) -> None:
    fusions = [fusion("[budgets.team]\nusd = 0.75\nper = 'day'\ntags = {}\n") for _ in range(3)]
    handles = [one.start("x", pipeline=ONE) for _ in range(4) for one in fusions]
    results = [handle.wait() for handle in handles]
    assert [one.status for one in results].count("ok") == 7
    for one in fusions:
        one.close()
    assert [one.usd for one in spent(tmp_path / "runs.db").values()] == [Decimal("0.7")]


@pytest.mark.parametrize(
    ("options", "asked"),
    [({"store": None}, {"within": "team"}), ({"store": None}, {"tags": {"t": "s"}})],
)
def test_a_budget_of_the_store_needs_one(fusion: Any, options: dict[str, Any], asked: dict[str, Any]) -> None:
    one = fusion("[budgets.team]\nusd = 5\nper = 'day'\ntags = {t = 's'}\n", **options)
    with pytest.raises(UsageError, match=r"\[budgets\.team\] of .*fusion\.toml counts .* in a store.*--store"):
        one.complete("x", pipeline=ONE, **asked)
    assert one.complete("x", pipeline=ONE).status == "ok"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("usd = 1\nper = 'year'", "day"),
        ("usd = 1\nper = 1", "per"),
        ("per = 'day'", "it limits nothing"),
        ("usd = 1\ntags = {a = 'b'}", "`tags` needs `per`"),
        ("seconds = 1\nper = 'day'", "`seconds` are those of one process"),
        ("usd = 1\nper = 'day'\ntags = ['a']", "tags"),
        ("usd = 1\nper = 'day'\ntag = {}", "tags"),
    ],
)
def test_mistakes_are_named(write: Write, table: str, says: str) -> None:
    write(f"[budgets.team]\n{table}\n")
    with pytest.raises(UsageError, match=f"budgets.team.*{says}"):
        Settings.from_environment()


KILLED = """
import os, sys
from decimal import Decimal
from fusion import Fusion, Price, Say, ScriptedModel, Usage
from tests.client.test_kept_budgets import ONE
calls = 0
def script(request):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), 9)
    return Say("fine", usage=Usage(input=1, output=calls))
price = Price(input=Decimal(0), output=Decimal("0.01"))
fusion = Fusion(profile="local", model=ScriptedModel(script, name="m/paid", price=price), store=sys.argv[1])
for _ in range(3):
    fusion.complete("x", pipeline=ONE, within="team")
"""


def test_a_killed_process_is_settled_by_its_journal(fusion: Any, write: Write, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    write("[budgets.team]\nusd = 5\nper = 'store'\n")
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": "."}, check=False
    )
    assert died.returncode == -9
    store = open_store(path)
    assert settle_dead(store, "team") == 1
    store.close()
    assert spent(path) == {"": Amount(Decimal("0.13"), spent(path)[""].tokens, 3)}


def test_a_map_counts_every_row(fusion: Any, tmp_path: Path) -> None:
    with fusion("[budgets.team]\ncalls = 3\nper = 'day'\ntags = {t = 's'}\n") as one:
        rows = one.map(["a", "b", "c", "d", "e"], pipeline=ONE, tags={"t": "s"}, id="m1", concurrency=1)
        with pytest.raises(BudgetError, match=r"'budgets\.team'"):
            list(rows)
    assert [one.calls for one in spent(tmp_path / "runs.db").values()] == [3]


@pytest.mark.parametrize("rows", [0, 1, 5, 30])
def test_a_map_tells_of_the_budgets_that_cover_it_at_its_begin_and_end(fusion: Any, rows: int) -> None:
    """The report counts all that was spent, and no lease of the process itself as spent."""
    text = (
        "[budgets.team]\ncalls = 100\nusd = 9\nper = 'store'\ntags = {}\n[budgets.day]\ntokens = 99999\nper = 'day'\n"
    )
    one, events = fusion(text), list[EventBase]()
    one.complete("x", pipeline=ONE)
    handle = one.start_map([f"row {at}" for at in range(rows)], pipeline=ONE, within="day", on_event=events.append)
    report = handle.wait()
    begun = {budget.name: budget for event in events if isinstance(event, MapStarted) for budget in event.budgets}
    ended = {budget.name: budget for budget in report.budgets}
    assert begun.keys() == ended.keys() == {"team", "day"}
    assert begun["team"].limits["calls"].limit == 100
    assert begun["day"].limits["tokens"].left == 99_999
    calls, dollars = ended["team"].limits["calls"], ended["team"].limits["usd"]
    assert (calls.spent, calls.leased, calls.left) == (1 + rows, 0, 99 - rows)
    assert (dollars.spent, dollars.left) == (Decimal("0.10") * (1 + rows), 9 - Decimal("0.10") * (1 + rows))
    assert one.map([], pipeline=ONE).report is None


@pytest.mark.parametrize(
    ("limits", "rows", "lacks"),
    [
        ("calls = 40", 8, ()),
        ("calls = 16", 8, ("calls",)),  # as many are likely, and one is spent
        ("usd = 0.05\ncalls = 99", 3, ("usd",)),
        ("tokens = 30", 3, ("tokens",)),
        ("calls = 1", 0, ()),
        ("usd = 0.05\ntokens = 2\ncalls = 2", 9, ("usd", "tokens", "calls")),
    ],
)
def test_the_quote_of_a_map_says_which_limits_it_is_likely_to_pass(
    fusion: Any, limits: str, rows: int, lacks: tuple[str, ...]
) -> None:
    one = fusion(f"[budgets.team]\n{limits}\nper = 'store'\n[budgets.other]\ncalls = 1\nper = 'store'\n")
    if "usd" not in limits and "tokens" not in limits:
        one.complete("x", pipeline=ONE, within="team")
    quote = one.quote_map([f"row {at}" for at in range(rows)], pipeline=ONE, within="team")
    (team,) = quote.budgets
    assert team.name == "team"
    assert quote.lacks(team) == lacks
    assert one.quote_map([], pipeline=ONE).budgets == ()


def test_a_budget_of_this_process_caps_the_quote_of_a_map(fusion: Any) -> None:
    one = fusion("[budgets.here]\nusd = 0.25\n[budgets.kept]\nusd = 1\nper = 'store'\ntags = {}\n", store=None)
    quote = one.quote_map(["x"] * 100, pipeline=ONE, within="here", budget={"usd": 7, "calls": 9})
    assert (quote.usd.cap, quote.limits.calls, quote.budgets) == (Decimal("0.25"), 9, ())
    assert one.quote_map(["x"] * 100, pipeline=ONE, budget={"usd": 7}).usd.cap == 7
    with pytest.raises(UsageError, match=r"no \[budgets.hear\]"):
        one.quote_map(["x"], pipeline=ONE, within="hear")


@pytest.mark.parametrize("given", ["", "[budgets.here]\ncalls = 9\n"])
def test_a_map_without_kept_budgets_tells_of_none(fusion: Any, given: str) -> None:
    one = fusion(given or "[defaults]\n")
    report = one.start_map(["x"], pipeline=ONE, **({"within": "here"} if given else {})).wait()
    assert report.status == "ok"
    assert report.budgets == ()


@pytest.mark.parametrize(
    ("text", "store", "shared"),
    [
        ("[limits]\nrpm = 9\n", True, False),
        ("[limits]\nrpm = 9\nshared = true\n", True, True),
        ("[limits]\nrpm = 9\nshared = false\n", True, False),
        ("[limits]\nrpm = 9\n", False, False),
    ],
)
def test_rates_are_shared_where_the_settings_say_so(fusion: Any, text: str, store: bool, shared: bool) -> None:
    one = fusion(text, **({} if store else {"store": None}))
    one.complete("x", pipeline=ONE)
    if store:
        assert (one.store.accounts.book("requests m/paid", 1.0) > 1) == shared


def test_shared_rates_need_a_store(fusion: Any) -> None:
    with pytest.raises(UsageError, match=r"`shared` in .limits. holds rates for all processes of a store"):
        fusion("[limits]\nrpm = 9\nshared = true\n", store=None)


def test_a_run_begins_with_what_is_left(fusion: Any) -> None:
    one, events = fusion("[budgets.team]\nusd = 5\nper = 'store'\ntags = {}\n"), list[EventBase]()
    one.complete("x", pipeline=ONE)
    one.complete("x", pipeline=ONE, on_event=events.append)
    started = next(event for event in events if isinstance(event, RunStarted))
    assert [(one.name, one.limits["usd"].limit) for one in started.budgets] == [("team", Decimal(5))]
    assert first_line(started).endswith(" left")


# Receipts.


def used(result: Any) -> dict[tuple[str, str], dict[str, tuple[Any, Any]]]:
    """The budgets of a receipt, by name and period: what was spent and what is left, by unit."""
    return {
        (one.name, one.period): {unit: (share.spent, share.left) for unit, share in one.limits.items()}
        for one in result.receipt.budgets
    }


def test_a_receipt_says_what_the_run_spent_of_each_budget(fusion: Any, clock: Clock) -> None:
    one = fusion(
        "[budgets.team]\nusd = 5\ncalls = 9\nper = 'day'\ntags = {}\n"
        "[budgets.all]\nusd = 7\nper = 'store'\ntags = {}\n"
    )
    first, second = (one.complete("x", pipeline=TWO) for _ in range(2))
    assert used(first) == {
        ("all", ""): {"usd": (Decimal("0.2"), Decimal("6.8"))},
        ("team", "2026-11-30"): {"usd": (Decimal("0.2"), Decimal("4.8")), "calls": (2, 7)},
    }
    assert used(second)["team", "2026-11-30"] == {"usd": (Decimal("0.2"), Decimal("4.6")), "calls": (2, 5)}
    assert [budget.opens for budget in first.receipt.budgets] == [None, datetime(2026, 12, 1, tzinfo=UTC)]
    assert one.runs.show(second.run_id).receipt == second.receipt
    assert Result.model_validate_json(second.model_dump_json()) == second


def test_a_receipt_knows_what_other_processes_spent_and_lease(fusion: Any, tmp_path: Path) -> None:
    one = fusion("[budgets.team]\nusd = 5\nper = 'store'\ntags = {}\n")
    account, store = Account("team", Caps(Decimal(5))), open_store(tmp_path / "runs.db")
    lease = Amount(Decimal(2), 0, 0)
    store.accounts.exchange(account, "other", Bid(Amount(Decimal(1), 5, 1), least=lease, most=lease, first=True))
    store.close()
    assert used(one.complete("x", pipeline=ONE)) == {("team", ""): {"usd": (Decimal("0.1"), Decimal("1.9"))}}


@pytest.mark.parametrize(
    "settings",
    ["", "[budgets.team]\nusd = 5\nper = 'day'\n", "[budgets.team]\nusd = 5\nper = 'day'\ntags = {t = 's'}\n"],
)
def test_a_run_without_such_a_budget_names_none(fusion: Any, settings: str) -> None:
    result = fusion(settings).complete("x", pipeline=ONE)
    assert "budgets" not in result.receipt.model_dump()


def test_a_receipt_has_a_line_for_each_period(fusion: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.store.journal.time.time", lambda: clock.now)
    one = fusion("[budgets.team]\ncalls = 1\nper = 'day'\ntags = {}\n")
    with pytest.raises(RunFailed) as caught:
        one.complete("x", pipeline=TWO)
    first = caught.value.result
    assert used(first) == {("team", "2026-11-30"): {"calls": (1, 0)}}
    clock.at(2026, 12, 1, 9)
    assert used(one.resume(first.run_id)) == {
        ("team", "2026-11-30"): {"calls": (1, None)},
        ("team", "2026-12-01"): {"calls": (1, 0)},
    }


def test_the_receipt_of_a_killed_run_says_what_it_spent(fusion: Any, write: Write, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    write("[budgets.team]\nusd = 5\nper = 'store'\n")
    subprocess.run([sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": "."}, check=False)
    with fusion() as one:
        died = one.runs.list()[0].run_id
        assert used(one.runs.show(died)) == {("team", ""): {"usd": (Decimal("0.1"), None)}}
        assert used(one.resume(died, within="team")) == {("team", ""): {"usd": (Decimal("0.2"), Decimal("4.77"))}}
