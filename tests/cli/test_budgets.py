"""`fusion budgets`: what is left of the budgets that the store keeps."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from fusion.core.budget import Account, Amount, Bid, Caps
from fusion.store.open import open_store
from tests.cli.conftest import ONE, Command
from tests.cli.scripted import on_scripted_models
from tests.conftest import Write

SETTINGS = (
    "[budgets.team]\nusd = 5\ncalls = 1000\nper = 'store'\n[budgets.day]\ntokens = 9000\nper = 'day'\n"
    "[budgets.here]\nusd = 1\n"
)


@pytest.fixture
def place(write: Write, tmp_path: Path) -> str:
    """A store in which $1.25 are spent of `team`, and $2 leased by a process that lives as long as the test."""
    write(SETTINGS)
    path = tmp_path / "runs.db"
    store = open_store(path)
    account = Account("team", Caps(Decimal(5), None, 1000))
    lease = Amount(Decimal(2), 0, 10)
    store.accounts.exchange(account, "a", Bid(spent=Amount(Decimal("1.25"), 10, 3), first=True, last=True))
    store.accounts.exchange(account, "dead", Bid(least=lease, most=lease, first=True))
    store.close()
    return str(path)


def test_the_budgets_of_the_store_are_listed(command: Command, place: str) -> None:
    ran = command("budgets", "--store", place)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()]
    assert [row[0] for row in rows] == ["budget", "day", "team", "team"]
    assert "9,000 tokens" in ran.out
    assert rows[2][1:] == ["all", "$5.0000", "$1.2500", "$0.0000", "$3.7500"]
    assert "here" not in ran.out


def test_the_lease_of_a_living_process_counts(command: Command, place: str) -> None:
    store = open_store(place)
    lock = store.claim("dead")
    assert lock is not None
    found = {one["name"]: one for one in json.loads(command("budgets", "--store", place, "--json").out)}
    lock.release()
    store.close()
    assert found["team"]["limits"]["usd"] == {"limit": "5", "spent": "1.25", "leased": "2", "left": "1.75"}
    assert found["team"]["opens"] is None
    assert found["day"]["opens"].endswith("T00:00:00Z")
    assert found["day"]["limits"]["tokens"]["left"] == 9000


def test_a_budget_begins_anew(command: Command, place: str) -> None:
    ran = command("budgets", "--clear", "team", "--store", place)
    assert (ran.code, "'team' begins anew" in ran.err) == (0, True)
    found = {one["name"]: one for one in json.loads(command("budgets", "--store", place, "--json").out)}
    assert found["team"]["limits"]["usd"]["left"] == "5"


@pytest.mark.parametrize("name", ["here", "tea", "nothing"])
def test_other_names_are_refused(command: Command, place: str, name: str) -> None:
    ran = command("budgets", "--clear", name, "--store", place)
    assert (ran.code, f"no [budgets.{name}] with a period" in ran.err) == (2, True)


def test_without_such_a_budget_the_table_says_how(command: Command, write: Write, tmp_path: Path) -> None:
    write("[budgets.here]\nusd = 1\n")
    ran = command("budgets", "--store", str(tmp_path / "runs.db"))
    assert (ran.code, "per" in ran.out) == (0, True)


def test_a_map_says_what_is_left_at_its_begin_and_end(
    command: Command, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("[budgets.team]\ncalls = 9\nusd = 2\nper = 'month'\ntags = {}\n")
    on_scripted_models(monkeypatch)
    file, rows, store = tmp_path / "test.yaml", tmp_path / "rows.jsonl", str(tmp_path / "runs.db")
    file.write_text(ONE)
    rows.write_text('{"task": "a"}\n{"task": "b"}\n')
    month = f"{datetime.now(UTC):%Y-%m}"
    of_rows = ("map", str(file), str(rows), "-m", "scripted/echo", "--store", store)
    ran = command(*of_rows)
    first, *rest = ran.err.splitlines()
    assert first.endswith(f"; team: $2.0000, 9 calls left in {month}")
    assert f"budget team: $0.0000 of $2.0000, 2 of 9 calls spent; $2.0000, 7 calls left in {month}" in rest
    again = command(*of_rows, "--quiet")
    assert "budget team" not in again.err
    rows.write_text("".join(f'{{"task": "{word}"}}\n' for word in "abcdefghijk"))
    ahead = command(*of_rows, "--dry-run")
    told = f"Budget team: $2.0000, 7 calls left in {month}: the map is likely to stop at its calls limit"
    assert told in ahead.out.splitlines()
    assert command(*of_rows, "--dry-run", "--limit", "3").out.count("likely to stop") == 0


def test_the_receipt_of_a_run_names_its_budgets(
    command: Command, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("[budgets.team]\ncalls = 9\nper = 'month'\ntags = {}\n")
    on_scripted_models(monkeypatch)
    file, store = tmp_path / "test.yaml", str(tmp_path / "runs.db")
    file.write_text(ONE)
    month = f"{datetime.now(UTC):%Y-%m}"
    told = f"budget team: 1 call spent, 8 calls left in {month}"
    ran = command("run", str(file), "write", "-m", "scripted/echo", "--store", store)
    assert told in ran.err.splitlines()
    assert told in command("runs", "show", "latest", "--store", store).out.splitlines()
    shown = json.loads(command("runs", "show", "latest", "--store", store, "--json").out)
    (budget,) = shown["receipt"]["budgets"]
    assert (budget["name"], budget["period"]) == ("team", month)
    assert budget["limits"] == {"calls": {"limit": 9, "spent": 1, "left": 8}}
    page = tmp_path / "run.html"
    assert command("runs", "show", "latest", "--store", store, "--html", str(page)).code == 0
    assert '"budgets":[{"name":"team"' in page.read_text()
