"""fusion run, resume and runs: what is kept of runs, on scripted models."""

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fusion.cli.completion import budget_names
from fusion.client.history import History
from fusion.core.result import Result
from fusion.engine.receipt import Accounts, before
from fusion.store.open import open_store
from tests.cli.conftest import BARE, MANY, ONE, Command, Ran, read_until, start
from tests.cli.scripted import on_scripted_models
from tests.conftest import own_settings

FLAT = MANY.replace("role: bulk", "role: bulk, concurrency: 1")

Fusion = Callable[..., Ran]


@pytest.fixture
def fusion(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fusion:
    """`fusion` with these words, in a folder of its own; `text` is written into `test.yaml`."""
    on_scripted_models(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, text: str | None = None) -> Ran:
        if text is not None:
            (tmp_path / "test.yaml").write_text(text)
        return command(*words)

    return run


def listed(fusion: Fusion, *words: str) -> list[dict[str, Any]]:
    done = fusion("runs", "list", "--json", *words)
    assert done.code == 0
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def run_of(fusion: Fusion, text: str, *words: str, model: str = "echo") -> str:
    """The id of a run that was just made."""
    fusion("run", "test.yaml", *words, "-m", f"scripted/{model}", text=text)
    return str(listed(fusion)[0]["run_id"])


# fusion run.


def test_a_run_is_kept_where_the_environment_says_and_named_at_both_ends(fusion: Fusion) -> None:
    done = fusion("run", "test.yaml", "write", "-m", "scripted/echo", text=ONE)
    (run,) = listed(fusion)
    assert done.err.splitlines()[0].startswith(f"test: run {run['run_id']}; ")
    assert done.err.splitlines()[-1] == f"kept: fusion runs show {run['run_id']}"
    assert Path(os.environ["FUSION_STORE"]).exists()
    assert (run["status"], run["pipeline"], run["calls"], run["cost"]) == (
        "ok",
        "test",
        1,
        {"usd": "0", "unknown_calls": 0},
    )


def test_store_names_another_place_and_no_store_none(fusion: Fusion, tmp_path: Path) -> None:
    place = str(tmp_path / "other runs.db")
    done = fusion("run", "test.yaml", "write", "-m", "scripted/echo", "--store", place, text=ONE)
    assert done.err.splitlines()[-1].endswith(f" --store '{place}'")
    done = fusion("run", "test.yaml", "write", "-m", "scripted/echo", "--no-store")
    assert "kept" not in done.err
    assert listed(fusion) == []
    assert len(listed(fusion, "--store", place)) == 1


def test_tags_are_in_the_list_the_receipt_and_the_events(fusion: Fusion) -> None:
    words = ("--tag", "team=search", "--tag", "why=a=b")
    done = fusion("run", "test.yaml", "write", "-m", "scripted/echo", "--events", *words, text=ONE)
    tags = {"team": "search", "why": "a=b"}
    assert json.loads(done.out.splitlines()[0])["tags"] == tags
    done = fusion("run", "test.yaml", "write", "-m", "scripted/echo", "--json", *words)
    assert Result.model_validate_json(done.out).receipt.tags == tags
    run_of(fusion, ONE, "other")
    assert [run["tags"] for run in listed(fusion, "--tag", "team=search")] == [tags, tags]


def test_the_shared_cache_answers_later_runs_and_the_receipt_says_so(fusion: Fusion) -> None:
    fusion("run", "test.yaml", "a,b", "-m", "scripted/echo", "--cache", "shared", text=MANY)
    done = fusion("run", "test.yaml", "b,c", "-m", "scripted/echo", "--cache", "shared", "-v")
    assert "work 1: work by scripted/echo: answered by the cache" in done.err
    assert "1 (1 reused)" in done.err
    assert "1 call, 1 reused (saved $0.0000); " in done.err
    done = fusion("run", "test.yaml", "b,c", "-m", "scripted/echo", "--cache", "off", "--json")
    assert Result.model_validate_json(done.out).receipt.reused == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--no-store", "--store", "x.db"), "--store needs a store"),
        (("--no-store", "--resume-or-start"), "--resume-or-start needs a store"),
        (("--no-store", "--cache", "shared"), "--cache shared needs a store"),
        (("--tag", "team"), "--tag 'team': give it as key=value"),
        (("--tag", "a=1", "--tag", "a=2"), "--tag a=… is given twice"),
        (("--cache", "all"), "'all'"),
        (("--dry-run", "--store", "x.db"), "--store has no effect with --dry-run"),
        (("--dry-run", "--no-store"), "--no-store has no effect with --dry-run"),
        (("--dry-run", "--tag", "a=1"), "--tag has no effect with --dry-run"),
        (("--dry-run", "--within", "nightly"), "--within has no effect with --dry-run"),
        (("--dry-run", "--cache", "run"), "--cache has no effect with --dry-run"),
        (("--dry-run", "--resume-or-start"), "--resume-or-start has no effect with --dry-run"),
    ],
)
def test_options_that_contradict_or_have_no_effect_are_refused(
    fusion: Fusion, words: tuple[str, ...], said: str
) -> None:
    done = fusion("run", "test.yaml", "write", "-m", "scripted/echo", *words, text=ONE)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_store_that_cannot_be_used_is_said_before_any_call(fusion: Fusion, tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no store" * 100)
    for command in (("run", "test.yaml", "write", "-m", "scripted/bug"), ("resume", "1"), ("runs", "list")):
        done = fusion(*command, "--store", "bad.db", text=ONE)
        assert (done.code, done.out) == (2, "")
        assert re.fullmatch(r"fusion: .*bad\.db.*\n", done.err)


# Going on.


def test_a_failed_run_says_how_to_go_on_and_goes_on_without_paying_twice(fusion: Fusion) -> None:
    done = fusion("run", "test.yaml", "a,b,c", "-m", "scripted/echo", "--budget", "calls=2", "-q", text=FLAT)
    assert done.code == 4
    words = done.err.splitlines()[-1].removeprefix("to go on: ").split()
    assert (words[:2], words[3:]) == (["fusion", "resume"], ["--budget", "calls=…"])
    done = fusion("resume", words[2], "--budget", "calls=3", "-v")
    assert (done.code, done.out) == (0, "do a\n\ndo b\n\ndo c\n")
    assert done.err.splitlines()[0] == (
        f"run {words[2]}: failed after 2 calls and $0.0000; finished calls are reused"
    )
    assert f"test: run {words[2]}, resumed (1); " in done.err
    assert "work 1: work by scripted/echo: finished before" in done.err
    assert "\n3 calls; " in done.err


def test_a_run_that_a_shared_budget_ended_says_how_to_go_on_within_it(
    fusion: Fusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_settings(tmp_path, monkeypatch)("[budgets.nightly]\ncalls = 2\n")
    done = fusion("run", "test.yaml", "a,b,c", "-m", "scripted/echo", "--within", "nightly", "-q", text=FLAT)
    assert (done.code, done.out) == (4, "")
    assert f"the calls limit of 'budgets.nightly' of {file}: limit 2, spent 2" in done.err
    words = done.err.splitlines()[-1].removeprefix("to go on: ").split()
    assert (words[:2], words[3:]) == (["fusion", "resume"], ["--within", "nightly"])
    done = fusion(*words[1:])
    assert (done.code, done.out) == (0, "do a\n\ndo b\n\ndo c\n")


@pytest.mark.parametrize(("given", "within"), [("", ["--within", "nightly"]), ("tags = {}\n", [])])
@pytest.mark.parametrize("per", ["month", "store"])
def test_a_run_that_a_kept_budget_ended_says_how_the_budget_has_room_again(
    fusion: Fusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per: str, given: str, within: list[str]
) -> None:
    table = f"[budgets.nightly]\ncalls = 2\nper = '{per}'\n{given}"
    file = own_settings(tmp_path, monkeypatch)(table)
    done = fusion("run", "test.yaml", "a,b,c", "-m", "scripted/echo", *within, "-q", text=FLAT)
    assert (done.code, done.out) == (4, "")
    first, second = done.err.splitlines()[-2:]
    next_month = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).strftime("%Y-%m-01 00:00 UTC")
    wait = f"wait until {next_month}" if per == "month" else "begin it anew: fusion budgets --clear nightly"
    assert first == f"the budget 'nightly' has no room left: raise `budgets.nightly.calls` in {file}, or {wait}"
    words = second.removeprefix("to go on: ").split()
    assert (words[:2], words[3:]) == (["fusion", "resume"], within)
    assert fusion(*words[1:]).code == 4
    own_settings(tmp_path, monkeypatch)(table.replace("2", "3"))
    done = fusion(*words[1:])
    assert (done.code, done.out) == (0, "do a\n\ndo b\n\ndo c\n")


@pytest.mark.parametrize(
    "words", [("run", "test.yaml", "x"), ("resume", "latest"), ("bench", "x.jsonl", "-m", "x/y")]
)
def test_a_budget_that_is_not_declared_is_told_before_any_call(
    fusion: Fusion, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_settings(tmp_path, monkeypatch)("[budgets.nightly]\ncalls = 2\n")
    (tmp_path / "x.jsonl").write_text('{"question": "x", "answer": "y"}\n')
    run_of(fusion, ONE, "write")
    more = ("--scorer", "exact") if words[0] == "bench" else ()
    done = fusion(*words, *more, "--within", "nightyl", text=ONE)
    assert (done.code, done.out) == (2, "")
    assert "no [budgets.nightyl] in your settings; did you mean 'nightly'?" in done.err
    assert budget_names("n") == ["nightly"]


def test_a_run_that_has_its_answer_gives_it_again(fusion: Fusion) -> None:
    run = run_of(fusion, ONE, "write")
    done = fusion("resume", run[:20])
    assert (done.code, done.out) == (0, "write / nothing\n")
    assert done.err.startswith(f"run {run} has its answer (ok); nothing to run\n")
    assert fusion("resume", run, "-q") == Ran(0, "write / nothing\n", "")
    assert fusion("runs", "remove", run).code == 0  # nobody is at it any more


def test_an_edited_pipeline_says_first_what_it_uses_again(fusion: Fusion, tmp_path: Path) -> None:
    text = MANY.replace("merge, over: work, strategy: concat", "generate, role: bulk, prompt: '{{ work.items }}'")
    run = run_of(fusion, text, "a,b")
    (tmp_path / "test.yaml").write_text(text.replace("'{{ work.items }}'", "'All: {{ work.items }}'"))
    done = fusion("resume", run, "--pipeline", "test.yaml")
    assert done.code == 0
    new = listed(fusion)[0]
    assert new["parent"] == run
    lines = done.err.splitlines()
    assert f"test: run {new['run_id']}, from {run}; " in lines[0]
    started = lines.index("work: started (map)")
    assert lines.index(f"work is reused from run {run}: 2 finished calls") < started
    assert lines.index("answer runs again: edited: prompt") < started
    assert "2 reused (saved" in done.err


def test_what_cannot_be_resumed_is_told(fusion: Fusion) -> None:
    done = fusion("resume", "2020")
    assert (done.code, done.out) == (2, "")
    assert "no run '2020' in " in done.err
    run = run_of(fusion, ONE, "write")
    run_of(fusion, ONE, "write")
    done = fusion("resume", run[:8])
    assert done.code == 2
    assert f"several runs begin with '{run[:8]}'" in done.err
    done = fusion("resume", run, "--json", "--events")
    assert (done.code, "see `fusion resume --help`" in done.err) == (2, True)


@pytest.mark.parametrize("content", ["digest", "off"])
def test_where_prompts_are_not_kept_no_way_to_go_on_is_named(fusion: Fusion, content: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f'[store]\ncontent = "{content}"\n')
    done = fusion("run", "test.yaml", "a,bad,c", "-m", "scripted/torn", "--config", "own.toml", text=MANY)
    assert (done.code, "to go on" in done.err) == (3, False)
    assert done.err.splitlines()[-1] == (
        f"it cannot be resumed: its prompts are not kept (`content` in [store] is '{content}')"
    )
    (run,) = listed(fusion)
    done = fusion("resume", run["run_id"])
    assert done.code == 2
    assert "were not kept" in done.err


def test_a_run_that_somebody_is_at_is_left_alone(fusion: Fusion, tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(MANY)
    words = ("run", "test.yaml", "a,slow", "-m", "scripted/slow")
    with start(*words, "-v", module="tests.cli.scripted", cwd=tmp_path) as process:
        read_until(process.stderr, b"work 1: work by")
        (run,) = listed(fusion)
        assert run["status"] == "running"
        for refused in (
            ("resume", run["run_id"]),
            (*words, "--resume-or-start"),
            ("runs", "remove", run["run_id"]),
        ):
            done = fusion(*refused)
            assert (done.code, done.out) == (2, "")
            assert f"run '{run['run_id']}' is being run" in done.err
        assert json.loads(fusion("runs", "prune", "--keep", "0", "--json").out) == []
        process.kill()
        process.communicate()
    (run,) = listed(fusion)
    assert run["status"] == "died"
    assert [one["run_id"] for one in listed(fusion, "--status", "died")] == [run["run_id"]]
    assert listed(fusion, "--status", "running") == []


def test_resume_or_start_goes_on_with_the_latest_of_the_same_or_starts_one(fusion: Fusion) -> None:
    words = ("run", "test.yaml", "a,b,c", "-m", "scripted/echo", "--resume-or-start")
    assert fusion(*words, "--budget", "calls=2", text=FLAT).code == 4
    first = listed(fusion)[0]["run_id"]
    done = fusion("run", "test.yaml", "a,b,d", "-m", "scripted/echo", "--resume-or-start")
    assert (done.code, len(listed(fusion))) == (0, 2)  # other inputs are another run
    done = fusion(*words, "--budget", "calls=3")
    assert (done.code, done.out) == (0, "do a\n\ndo b\n\ndo c\n")
    assert f"run {first}: failed after 2 calls" in done.err
    assert len(listed(fusion)) == 2
    assert fusion(*words).code == 0
    assert len(listed(fusion)) == 3  # the latest has its answer


# fusion runs.


def test_list_is_newest_first_and_ends_with_sizes(fusion: Fusion) -> None:
    assert fusion("runs", "list").err.startswith("no runs\n0 runs, 0 calls and 0 cached replies in ")
    first, second = run_of(fusion, ONE, "write"), run_of(fusion, BARE)
    done = fusion("runs", "list")
    head, *rows = done.out.splitlines()
    assert head.split() == ["run", "status", "pipeline", "started", "calls", "cost", "time"]
    assert [row.split()[0] for row in rows] == [second, first]
    assert re.fullmatch(r"2 runs, 2 calls and 0 cached replies in .*runs\.db: [\d.]+ [kM]B\n", done.err)
    assert [run["run_id"] for run in listed(fusion, "--limit", "1")] == [second]
    assert listed(fusion, "--pipeline", "other") == []
    assert {*listed(fusion)[0]} >= {
        "run_id",
        "status",
        "pipeline",
        "started",
        "cost",
        "calls",
        "seconds",
        "tags",
        "parent",
    }


def test_show_draws_stages_and_calls_and_the_receipt(fusion: Fusion) -> None:
    run = run_of(fusion, MANY, "a,b")
    done = fusion("runs", "show", run)
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{run}: test, ok; profile local; began 20")
    assert re.match(r"work \(map\) +0\.0-\d\.\d s  2 calls, ", lines[2])
    assert re.match(r"  1 1/work +0\.0-\d\.\d s  scripted/echo, ", lines[3])
    assert lines[5].startswith("answer (merge)")
    assert lines[-1].startswith("2 calls; ")


def test_the_receipt_is_the_same_from_every_door(fusion: Fusion) -> None:
    words = ("run", "test.yaml", "a,bad,a,b", "-m", "scripted/dull", "--cache", "run", "--json")
    receipt = json.loads(fusion(*words, text=FLAT).out)["receipt"]
    run = listed(fusion)[0]["run_id"]
    assert [(line["calls"], line["reused"]) for line in receipt["lines"]] == [(6, 1)]  # one is cut off and continued
    assert json.loads(fusion("runs", "show", run, "--json").out)["receipt"] == receipt
    assert json.loads(fusion("runs", "export", run).out)["receipt"] == receipt
    store = open_store(os.environ["FUSION_STORE"])
    assert json.loads(History(store).show(run).receipt.model_dump_json()) == receipt
    accounts = Accounts({})
    accounts.take_up(before(store, run))
    (line,) = json.loads(accounts.receipt(0).model_dump_json())["lines"]
    assert line == {**receipt["lines"][0], "price_source": line["price_source"]}
    store.close()


def test_show_of_a_big_run_is_bounded_and_all_shows_every_call(fusion: Fusion) -> None:
    run = run_of(fusion, MANY, ",".join("abcdefghij" * 10))
    short = fusion("runs", "show", run).out.splitlines()
    assert len(short) < 40
    assert any(re.match(r"  and 76 more calls +`--all` shows them", line) for line in short)
    assert len(fusion("runs", "show", run, "--all").out.splitlines()) > 100
    assert len(json.loads(fusion("runs", "show", run, "--json").out)["calls"]) == 100


def test_show_of_a_failed_run_says_why_and_how_to_go_on(fusion: Fusion) -> None:
    run = run_of(fusion, MANY, "a,bad", model="torn")
    done = fusion("runs", "show", run)
    assert "\nfailed: BadRequestError: no such thing\n" in done.out
    assert done.out.splitlines()[-1] == (f"edit the pipeline, then: fusion resume {run} --pipeline FILE")


def test_a_call_is_shown_by_its_number_or_its_place(fusion: Fusion) -> None:
    run = run_of(fusion, FLAT, "a,b")
    done = fusion("runs", "show", run, "2")
    assert done.out.startswith("call 2: work/2/work, finished\nrole bulk, model scripted/echo\n")
    assert done.out.endswith("\n--- user\ndo b\n\n--- reply\ndo b\n")
    assert fusion("runs", "show", run, "work/2/work").out == done.out
    assert fusion("runs", "show", run, "work/2").out == done.out
    told = json.loads(fusion("runs", "show", run, "2", "--json").out)
    assert (told["text"], told["messages"][-1]["content"], told["item"]) == ("do b", "do b", 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("3", "has no call 3; its calls have the numbers 1 to 2"),
        ("work", "'work' matches 2 calls of run"),
        ("wrok/1", "has no call 'wrok/1'; give its number, or its place"),
    ],
)
def test_a_call_that_is_not_there_is_told(fusion: Fusion, call: str, said: str) -> None:
    done = fusion("runs", "show", run_of(fusion, MANY, "a,b"), call)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_diff_tells_what_is_not_the_same(fusion: Fusion) -> None:
    a = run_of(fusion, FLAT, "a,b")
    b = run_of(fusion, FLAT.replace('"do {{', '"please do {{'), "a,b,c")
    done = fusion("runs", "diff", a, b)
    assert done.code == 0
    assert "-stages.work.prompt: do {{ item.source }}\n+stages.work.prompt: please do {{ item.source }}\n" in done.out
    assert "\ninput words:\n" in done.out
    assert "\n-a,b\n+a,b,c\n" in done.out
    assert "\nmodels: the same\n" in done.out
    assert "\ncalls: 2 different, 1 only b\n" in done.out
    assert "\n-do b\n" in done.out
    told = json.loads(fusion("runs", "diff", a, b, "--json").out)
    assert [pair["state"] for pair in told["calls"]] == ["different", "different", "only b"]
    same = run_of(fusion, FLAT, "a,b")
    assert fusion("runs", "diff", a, same).out.count("the same") == 4


def test_export_is_one_document_with_all_there_is(fusion: Fusion, tmp_path: Path) -> None:
    run = run_of(fusion, MANY, "a,b")
    document = json.loads(fusion("runs", "export", run).out)
    assert [*document] == [
        "version", "run", "receipt", "record", "result", "decisions", "events", "attempts", "calls",
    ]  # fmt: skip
    assert (document["version"], document["run"]["run_id"]) == (1, run)
    assert sorted(call["text"] for call in document["calls"]) == ["do a", "do b"]
    assert [attempt["end"]["state"] for attempt in document["attempts"]] == ["settled", "settled"]
    assert fusion("runs", "export", run, "-o", "run.json") == Ran(0, "", "")
    assert json.loads((tmp_path / "run.json").read_text()) == document
    assert fusion("runs", "export", run, "-o", "nowhere/run.json").code == 2


def test_runs_are_removed_by_id_and_pruned_by_age_number_and_status(fusion: Fusion) -> None:
    runs = [run_of(fusion, ONE, "write") for _ in range(3)]
    failed = run_of(fusion, MANY, "bad", model="torn")
    assert fusion("runs", "remove", runs[0], runs[0][:20]).err == f"removed {runs[0]}\n"
    assert fusion("runs", "remove", runs[1], runs[0]).code == 2
    assert len(listed(fusion)) == 3  # none, where one is not there
    done = fusion("runs", "prune", "--older-than", "30d")
    assert (done.code, done.out, done.err) == (0, "", "removed 0 runs\n")
    done = fusion("runs", "prune", "--status", "failed", "--dry-run", "--json")
    assert [run["run_id"] for run in json.loads(done.out)] == [failed]
    assert len(listed(fusion)) == 3
    assert fusion("runs", "prune", "--status", "failed").err == "removed 1 run\n"
    assert fusion("runs", "prune", "--keep", "1").err == "removed 1 run\n"
    assert [run["run_id"] for run in listed(fusion)] == [runs[2]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--status", "faild"), "--status 'faild': no such status; did you mean 'failed'?"),
        (("list", "--limit", "0"), "--limit"),
        (("list", "--store", "nowhere.db"), "--store 'nowhere.db': there is no such file"),
        (("show", "2020"), "no run '2020'"),
        (("show", "2020", "1", "--all"), "--all has no effect here"),
        (("diff", "2020", "2021"), "no run '2020'"),
        (("prune",), "no runs to prune"),
        (("prune", "--older-than", "soon"), "--older-than 'soon': give a number of hours, days or weeks"),
        (("prune", "--keep", "-1"), "--keep"),
    ],
)
def test_words_that_are_not_understood_are_told(fusion: Fusion, words: tuple[str, ...], said: str) -> None:
    done = fusion("runs", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
