"""fusion runs of maps: one line in the list, one whole to show, export, compare and remove."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion.cli.completion import map_ids, run_ids
from fusion.core.types import Failure
from fusion.store.base import Store
from fusion.store.open import open_store
from tests.cli.conftest import Command
from tests.kept_maps import Answer, Kept, keep

LATE = Failure(reason="ModelTimeoutError", message="no answer in 3 s")
BAD = Failure(reason="BadRequestError", message="no such model 'x'")
STOPPED = Failure(reason="BudgetError", message="a call would pass the usd limit of 'map'")
COMMAND = "`fusion map tickets.yaml … --id nightly`"
ROWS: dict[str, Answer] = {"a": "one", "b": LATE, "c": LATE, "d": BAD, "e": "two", "f": None}


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store(Path(os.environ["FUSION_STORE"]))
    yield opened
    opened.close()


def test_a_map_is_one_line_of_the_list(store: Store, command: Command) -> None:
    keep(store, Kept(ROWS, status=None, tags={"team": "x"}))
    keep(store, Kept({"a": "one"}, "weekly", at=2_000_000.0))
    done = command("runs", "list")
    head, newest, oldest = done.out.splitlines()
    assert head.split() == ["run", "status", "pipeline", "started", "calls", "cost", "time"]
    assert newest.split()[:3] == ["weekly", "ok", "tickets"]
    assert "1 of 1 row done; in.csv" in newest
    assert oldest.split()[:3] == ["nightly", "died", "tickets"]
    assert "team=x map: 2 of 6 rows done, 3 failed; in.csv" in oldest
    listed = json.loads(command("runs", "list", "--json", "--limit", "1").out)
    assert [(one["map_id"], one["ok"], one["cost"]["usd"]) for one in listed] == [("weekly", 1, "0.01")]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ((), ["f", "e", "d", "c", "b", "a"]),
        (("--limit", "2"), ["f", "e"]),
        (("--status", "failed"), ["d", "c", "b"]),
        (("--status", "failed", "--status", "died"), ["f", "d", "c", "b"]),
        (("--status", "interrupted"), []),
    ],
)
def test_the_rows_of_a_map_are_listed(
    store: Store, command: Command, words: tuple[str, ...], keys: list[str]
) -> None:
    keep(store, Kept(ROWS))
    done = command("runs", "list", "--map", "nightly", *words)
    rows = [line.split() for line in done.out.splitlines()[1:]]
    assert [row[1] for row in rows] == keys
    assert done.code == 0
    assert ("no rows match" in done.err) is (not keys)
    listed = json.loads(command("runs", "list", "--map", "nightly", "--json", *words).out)
    assert [(one["key"], one["map"]) for one in listed] == [(key, "nightly") for key in keys]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--map", "nothing"), "no map 'nothing' in"),
        (("list", "--map", "nightly", "--tag", "a=b"), "--tag has no effect with --map"),
        (("list", "--map", "nightly", "--pipeline", "p"), "--pipeline has no effect with --map"),
        (
            ("show", "nightly", "z"),
            "no row with the key or number 'z'; its rows have the numbers 1 to 6",
        ),
        (("show", "nightly", "--all"), "--all has no effect here"),
        (("diff", "nightly", "nightly-1"), "'nightly' is a map and 'nightly-1' is none"),
        (("diff", "nightly-1", "nightly"), "'nightly' is a map and 'nightly-1' is none"),
        (("remove", "nightly-1"), "'nightly-1' is a row of map 'nightly'"),
        (("export", "nothing"), "no run 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_told(store: Store, command: Command, words: tuple[str, ...], said: str) -> None:
    keep(store, Kept(ROWS))
    done = command("runs", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_map_is_not_resumed_as_a_run(store: Store, command: Command) -> None:
    keep(store, Kept(ROWS))
    done = command("resume", "nightly")
    assert done.code == 2
    assert "'nightly' is a map, not a run: `fusion map` with `--id nightly` goes on with it" in done.err


def test_show_sums_a_map_up(store: Store, command: Command) -> None:
    keep(store, Kept(ROWS, passes=2))
    shown = command("runs", "show", "nightly").out
    for line in (
        "nightly: map of tickets, ok in 2 passes; profile local; began ",
        "rows from in.csv; answers in out.jsonl",
        "rows: 2 ok, 3 failed, 1 unfinished, of 6 in the inputs",
        "cost: $0.0700, 6 calls",
        "  2 (b, c): ModelTimeoutError: no answer in 3 s",
        "  1 (d): BadRequestError: no such model 'x'",
        "newest rows:",
        "slowest rows:",
    ):
        assert line in shown
    details = json.loads(command("runs", "show", "nightly", "--json").out)
    assert [one["count"] for one in details["failures"]] == [2, 1]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ({"status": None}, f"to go on: {COMMAND} with the same options\n"),
        ({"status": "interrupted"}, f"to go on: {COMMAND} with the same options\n"),
        (
            {"status": "failed", "failure": STOPPED},
            f"to go on: {COMMAND} with the same options and a higher budget\n",
        ),
        (
            {"rows": {"a": "one", "b": LATE}},
            f"to ask the failed rows again: {COMMAND} with the same options and --retry-failed\n",
        ),
        ({"rows": {"a": "one"}, "output": ""}, None),
    ],
)
def test_show_says_how_to_go_on(store: Store, command: Command, one: dict[str, Any], said: str | None) -> None:
    keep(store, Kept(**{"rows": ROWS, **one}))
    shown = command("runs", "show", "nightly").out
    if said is None:
        assert "fusion map" not in shown
        assert "no output" in shown
    else:
        assert shown.endswith(said)


@pytest.mark.parametrize("words", [("nightly", "b"), ("nightly", "2"), ("nightly-2",), ("nig", "b")])
def test_a_row_is_shown_as_any_run(store: Store, command: Command, words: tuple[str, ...]) -> None:
    keep(store, Kept(ROWS))
    done = command("runs", "show", *words)
    assert done.out.startswith("nightly-2: tickets, failed")
    assert "ModelTimeoutError: no answer in 3 s" in done.out
    assert json.loads(command("runs", "show", *words, "--json").out)["run"]["run_id"] == "nightly-2"


def test_a_narrow_terminal_loses_no_key(store: Store, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    keep(store, Kept({**ROWS, "a rather long key of a row, from a file": "x"}))
    for words in (("list",), ("list", "--map", "nightly"), ("show", "nightly")):
        lines = command("runs", *words).out.splitlines()
        assert max(map(len, lines)) <= 80


def test_diff_names_the_rows_that_differ(store: Store, command: Command) -> None:
    keep(store, Kept(ROWS, "first"))
    keep(store, Kept({"a": "one", "b": "now", "e": "other", "g": "new"}, "second"))
    told = command("runs", "diff", "first", "second").out
    assert "rows: 1 the same, 1 failed in one of them, 3 only in a, 1 with another answer, 1 only in b" in told
    assert "cost: $0.0300 less in b" in told
    assert [line.split() for line in told.splitlines() if line.startswith("  g")] == [
        ["g", "only", "in", "b", "b:", "second-4"]
    ]
    diff = json.loads(command("runs", "diff", "first", "second", "--json").out)
    assert diff["counts"]["same"] == 1


def test_a_map_is_exported_pruned_and_removed(store: Store, command: Command, tmp_path: Path) -> None:
    keep(store, Kept(ROWS))
    file = tmp_path / "map.json"
    assert command("runs", "export", "nightly", "-o", str(file)).code == 0
    assert len(json.loads(file.read_text())["rows"]) == 6
    lock = store.lock("nightly")
    done = command("runs", "remove", "nightly")
    assert (done.code, "map 'nightly' is being run" in done.err) == (2, True)
    lock.release()
    assert "would remove 1 run" in command("runs", "prune", "--keep", "0", "--dry-run").err
    assert command("runs", "remove", "nightly").err == "removed nightly\n"
    assert command("runs", "list").out == ""


def test_ids_of_maps_are_completed(store: Store) -> None:
    keep(store, Kept(ROWS))
    assert run_ids("nig") == map_ids("nig") == ["nightly"]
    assert run_ids("x") == map_ids("x") == []
