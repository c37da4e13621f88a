"""A map on workers: processes of their own, which may die, drain, and have other settings."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from fusion import Budget, Fusion, Limits, Pipeline, ScriptedModel, Tool, UsageError
from fusion.core.errors import RunBusyError, StoreError
from tests.bulk.executors.site import MODEL, Site, hasten
from tests.postgres import Cluster, backends, cut
from tests.provider import Answer

pytestmark = pytest.mark.needs("initdb")
TEXTS = [f"row {number}" for number in range(1, 13)]


def test_two_workers_share_a_map(site: Site) -> None:
    both, asking = threading.Event(), set[str]()

    def answer(text: str, key: str) -> Answer:
        asking.add(key)
        if asking == {"a", "b"}:
            both.set()
        return Answer(text.lower(), until=both)

    site.on_call = answer
    for name in ("a", "b"):
        site.worker(name, "--concurrency", "2").wait_for("serving")
    rows, report = site.map(*TEXTS)
    assert report.status == "ok"
    assert {key: row.text for key, row in rows.items()} == {text: f"answer read {text}" for text in TEXTS}
    assert site.written == {text: f"answer read {text}" for text in TEXTS}
    assert site.keys == {"a", "b"}
    assert max(site.asked.values()) == 1
    assert report.cost.usd > 0
    assert site.notes == []


def test_the_rows_of_a_killed_worker_go_on_elsewhere(site: Site) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), hang=key == "a" and text.startswith("ANSWER"))
    a = site.worker("a", "--concurrency", "4")
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS[:4])
        for text in TEXTS[:4]:
            site.wait_for_call(f"ANSWER read {text}")
        a.kill()
        b = site.worker("b")
        report = handle.wait()
    assert report.status == "ok"
    assert site.asked == calls(TEXTS[:4], read=1, answer=2)
    assert b.wait_for("buried")["rows"] == 4
    assert site.keys == {"a", "b"}


def calls(texts: list[str], *, read: int, answer: int) -> dict[str, int]:
    counts = {f"READ {text}": read for text in texts}
    return counts | {f"ANSWER read {text}": answer for text in texts}


def test_a_worker_that_drains_ends_its_rows_and_leaves_the_others(site: Site) -> None:
    drains = threading.Event()
    site.on_call = lambda text, key: Answer(text.lower(), until=drains)
    a = site.worker("a", "--concurrency", "1")
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS[:6])
        site.wait_for_call("READ row 1")
        a.signal()
        a.wait_for("draining")
        drains.set()
        assert a.end() == 0
        assert [one["type"] for one in a.news if one["type"] != "took"] == ["serving", "draining", "ended"]
        done = {text for text in TEXTS if site.asked[f"ANSWER read {text}"]}
        assert done == {"row 1"}
        site.worker("b")
        assert handle.wait().status == "ok"
    assert max(site.asked.values()) == 1


def test_a_drain_without_grace_interrupts_rows(site: Site) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), hang=key == "a" and text.startswith("ANSWER"))
    a = site.worker("a", "--grace", "0")
    with site.fusion() as fusion:
        handle = site.start(fusion, "row 1")
        site.wait_for_call("ANSWER read row 1")
        a.signal()
        assert a.end() == 0
        site.worker("b")
        assert handle.wait().status == "ok"
    assert site.asked == {"READ row 1": 1, "ANSWER read row 1": 2}


def test_a_second_signal_ends_a_worker_at_once(site: Site) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), hang=True)
    a = site.worker("a")
    with site.fusion() as fusion:
        handle = site.start(fusion, "row 1")
        site.wait_for_call("READ row 1")
        a.signal(signal.SIGINT)
        a.wait_for("draining")
        a.signal()
        assert a.end() == 130
        begun = time.monotonic()
        assert handle.cancel().status == "interrupted"
        assert time.monotonic() - begun < 15  # it waits for no worker that counts as dead


def test_a_row_that_ends_its_workers_fails_and_the_others_do_not(site: Site) -> None:
    """The poison ends every worker that runs it; each time another one is started."""
    ended: list[str] = []

    def answer(text: str, key: str) -> Answer:
        if text == "ANSWER read poison":
            ended.append(key)
            os.kill(next(one.process.pid for one in site.workers if one.name == key), signal.SIGKILL)
            return Answer(hang=True)
        return Answer(text.lower(), delay=0.05)

    site.on_call = answer
    with site.fusion() as fusion:
        handle = site.start(fusion, "row 1", "poison", "row 2", "row 3")
        for number in range(4):
            last = site.worker(f"w{number}")
            if number < 3:
                last.end()
        report = handle.wait(60)
    assert ended == ["w0", "w1", "w2"]
    assert (report.ok, report.failed) == (3, 1)
    (failure,) = report.failures
    assert failure.failure.reason == "WorkerLostError"
    assert "ended 3 workers" in failure.failure.message
    assert site.asked["READ poison"] == 1


def test_a_worker_without_the_key_leaves_the_map_to_others(site: Site) -> None:
    poor = site.worker("poor", key=None)
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS[:3])
        assert "OPENAI_API_KEY" in poor.wait_for("refused")["message"]
        site.worker("rich")
        assert handle.wait().status == "ok"
    assert site.keys == {"rich"}
    assert any("worker poor cannot run this map" in note and "OPENAI_API_KEY" in note for note in site.notes)


def test_a_map_without_workers_says_so_and_waits(site: Site) -> None:
    said = threading.Event()

    def hear(event: Any) -> None:
        if "no worker serves" in getattr(event, "message", ""):
            said.set()

    with site.fusion() as fusion:
        handle = site.start(fusion, "row 1", on_event=hear)
        assert said.wait(60)
        assert not handle.over
        site.worker("late")
        assert handle.wait().status == "ok"


def drive(database: str, rows: str, folder: str, **more: Any) -> None:
    hasten()
    with Fusion(model=MODEL, store=database) as fusion:
        options: dict[str, Any] = {
            "pipeline": f"{folder}/two.yaml",
            "id": "m",
            "key": "text",
            "on": "workers",
            **more,
        }
        report = fusion.start_map(rows, output=f"{folder}/out.jsonl", **options).wait()
    sys.exit(report.exit_code)


def test_a_killed_driver_goes_on_and_takes_over_what_runs(site: Site) -> None:
    going = threading.Event()
    site.on_call = lambda text, key: Answer(text.lower(), until=going if text.startswith("ANSWER") else None)
    site.worker("a", "--concurrency", "2").wait_for("serving")
    driver = site.run("driver", drive, site.database, site.rows(*TEXTS), str(site.folder))
    site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
    driver.kill()
    going.set()
    rows, report = site.map(*TEXTS)
    assert report.status == "ok"
    assert len(rows) == len(TEXTS)
    assert max(site.asked.values()) == 1
    assert set(site.written) == set(TEXTS)


def drive_capped(database: str, rows: str, folder: str, calls: int) -> None:
    drive(database, rows, folder, budget={"calls": calls})


def test_a_map_here_waits_for_rows_that_workers_still_run(site: Site) -> None:
    """Calls that are under way at the takeover are not made twice, and rows that waited run here."""
    going = threading.Event()
    site.on_call = lambda text, key: Answer(text.lower(), until=going if text.startswith("ANSWER") else None)
    site.worker("a", "--concurrency", "2").wait_for("serving")
    driver = site.run("driver", drive_capped, site.database, site.rows(*TEXTS), str(site.folder), 2 * len(TEXTS))
    site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
    with pytest.raises(RunBusyError):
        site.map(*TEXTS, on=None)
    driver.kill()
    with site.fusion() as fusion:
        site.wait_until(lambda: fusion.runs.maps()[0].status == "died", "a dead map")
        assert fusion.runs.prune(status=["died"]) == ()
        handle = site.start(fusion, *TEXTS, on=None, budget={"calls": 2 * len(TEXTS)})
        site.wait_until(lambda: any("still run on workers" in note for note in site.notes), "a note")
        assert len(answering(site)) == 2
        going.set()
        report = handle.wait()
    assert (report.status, report.ok) == ("ok", len(TEXTS))
    assert set(site.asked.values()) == {1}
    assert site.keys == {"a", "sk-driver"}
    assert set(site.written) == set(TEXTS)


def test_a_map_here_waits_for_a_row_that_is_locked(site: Site) -> None:
    """As a Ray cluster does whose driver has died a moment ago."""
    going = threading.Event()
    site.on_call = lambda text, key: Answer(text.lower(), until=going if text == "ANSWER read row 1" else None)
    driver = site.run("driver", drive_here, site.database, site.rows("row 1"), str(site.folder))
    site.wait_for_call("ANSWER read row 1")
    driver.kill()
    going.set()
    with site.fusion() as fusion:
        lock = fusion.store.claim("m/1")
        assert lock is not None
        site.wait_until(lambda: not fusion.store.is_locked("m"), "a free map")
        handle = site.start(fusion, "row 1", on=None)
        site.wait_until(lambda: any("still runs on a Ray cluster" in note for note in site.notes), "a note")
        assert site.asked["ANSWER read row 1"] == 1
        lock.release()
        assert handle.wait().status == "ok"


def drive_here(database: str, rows: str, folder: str) -> None:
    drive(database, rows, folder, on=None)


def test_a_map_here_takes_the_rows_of_dead_workers(site: Site) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), hang=key == "a" and text.startswith("ANSWER"))
    worker = site.worker("a", "--concurrency", "2")
    worker.wait_for("serving")
    driver = site.run("driver", drive, site.database, site.rows(*TEXTS), str(site.folder))
    site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
    cut = answering(site)
    driver.kill()
    worker.kill()
    _, report = site.map(*TEXTS, on=None)
    assert (report.status, report.ok) == ("ok", len(TEXTS))
    assert {text for text, times in site.asked.items() if times > 1} <= {f"ANSWER read {one}" for one in cut}


def answering(site: Site) -> set[str]:
    """The rows whose second call was asked: workers run slices side by side, so these may be any."""
    return {text.removeprefix("ANSWER read ") for text in site.asked if text.startswith("ANSWER")}


def test_a_worker_that_was_late_goes_on_with_its_rows(site: Site) -> None:
    """Its lock says that it lives: the others let it have its rows, however late it is."""
    going = threading.Event()
    site.on_call = lambda text, key: Answer(text.lower(), until=going if key == "a" and "ANSWER" in text else None)
    a = site.worker("a", "--concurrency", "2")
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS)
        site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
        a.signal(signal.SIGSTOP)
        b = site.worker("b")
        site.wait_until(lambda: site.keys == {"a", "b"}, "calls of b")
        site.wait_until(lambda: any(one.age > 2 for one in fusion.store.slices.workers()), "ten beats without a")
        going.set()
        a.signal(signal.SIGCONT)
        assert handle.wait().status == "ok"
        assert max(site.asked.values()) == 1
        b.signal()
        assert b.end() == 0
        assert [one["type"] for one in b.news if one["type"] != "took"] == ["serving", "draining", "ended"]
        report = fusion.start_map([{"text": "next"}], **site.options(id="n", output=None)).wait(60)
    assert report.status == "ok"
    assert site.keys == {"a", "b"}


def test_a_worker_that_is_late_when_a_map_begins_serves_it(site: Site) -> None:
    a = site.worker("a")
    a.wait_for("serving")
    a.signal(signal.SIGSTOP)
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS)
        site.wait_for_queue(fusion, len(TEXTS))
        site.wait_until(lambda: any(one.age > 2 for one in fusion.store.slices.workers()), "ten beats without a")
        a.signal(signal.SIGCONT)
        assert handle.wait().status == "ok"
    assert site.asked == calls(TEXTS, read=1, answer=1)
    assert not [one for one in a.news if one["type"] not in ("serving", "took")]


def test_a_worker_that_others_took_over_serves_again_and_leaves_them_the_rows(site: Site) -> None:
    """It stops for a while, and its connections are cut meanwhile, as by a network that fails."""
    a_may, b_may = threading.Event(), threading.Event()
    may = {"a": a_may, "b": b_may}
    site.on_call = lambda text, key: Answer(text.lower(), until=may[key] if text.startswith("ANSWER") else None)
    a = site.worker("a", "--concurrency", "2")
    a.wait_for("serving")
    connections = backends(site.database)
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS)
        site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
        taken_over = answering(site)
        a.signal(signal.SIGSTOP)
        cut(site.database, connections)
        b = site.worker("b")
        assert b.wait_for("buried")["rows"] >= 2
        site.wait_until(lambda: all(site.asked[f"ANSWER read {text}"] == 2 for text in taken_over), "calls by b")
        a_may.set()
        a.signal(signal.SIGCONT)
        a.wait_for("lost")
        a.wait_for("serving", times=2)
        b_may.set()
        assert handle.wait().status == "ok"
        assert set(site.written) == set(TEXTS)
        assert {text for text, count in site.asked.items() if count > 1} == {
            f"ANSWER read {text}" for text in taken_over
        }
        b.signal()
        assert b.end() == 0
        site.provider.requests.clear()
        report = fusion.start_map([{"text": "next"}], **site.options(id="n", output=None)).wait(60)
    assert report.status == "ok"
    assert site.keys == {"a"}


def test_a_cancelled_map_stops_its_rows_and_withdraws_the_others(site: Site) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), hang=text.startswith("ANSWER"))
    site.worker("a", "--concurrency", "2")
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS)
        site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
        report = handle.cancel()
        assert report.status == "interrupted"
        assert fusion.store.slices.under_way("m") == frozenset()
        site.on_call = lambda text, key: Answer(text.lower())
    _, report = site.map(*TEXTS)
    assert report.status == "ok"
    assert {site.asked[f"READ {text}"] for text in TEXTS} == {1}


def test_two_maps_are_served_side_by_side(site: Site) -> None:
    """The second map has its rows run while the first one still has many that wait."""
    site.on_call = lambda text, key: Answer(text.lower(), delay=0 if site.asked["ANSWER read second"] else 0.1)
    site.worker("a", "--concurrency", "2").wait_for("serving")
    with site.fusion() as fusion:
        first = site.start(fusion, *[f"first {number}" for number in range(100)])
        site.wait_for_call("READ first 0")
        report = fusion.start_map([{"text": "second"}], **site.options(id="n", output=None)).wait()
        assert report.status == "ok"
        assert not first.over
        assert first.wait().status == "ok"


def test_a_worker_without_work_ends_when_it_is_told_so(site: Site) -> None:
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS[:3])
        site.wait_for_queue(fusion, 3)
        assert site.worker("a", "--idle", "0.5").end() == 0
        assert handle.wait().status == "ok"


def test_workers_are_listed(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    from fusion.cli.app import run_command

    site.worker("one", "--concurrency", "3").wait_for("serving")
    assert run_command(["worker", "--list", "--store", site.database]) == 0
    assert [line.split()[0::2] for line in capfd.readouterr().out.splitlines()][1] == ["one", "0/3", "serving"]


def test_a_driver_that_loses_its_lock_leaves_its_rows_to_the_workers(site: Site) -> None:
    """The next one takes them over as they run: no call is asked twice."""
    may = threading.Event()
    site.on_call = lambda text, key: Answer(text.lower(), until=may if text.startswith("ANSWER") else None)
    a = site.worker("a", "--concurrency", "2")
    a.wait_for("serving")
    of_workers = backends(site.database, "locks")
    with site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS)
        site.wait_until(lambda: len(answering(site)) == 2, "two second calls")
        cut(site.database, set(backends(site.database, "locks")) - set(of_workers))
        with pytest.raises(StoreError, match="locks was cut"):
            handle.wait()
        with Fusion(store=site.database) as other:
            assert len(other.store.slices.under_way("m")) == len(TEXTS)
    may.set()
    _, report = site.map(*TEXTS)
    assert report.status == "ok"
    assert set(site.written) == set(TEXTS)
    assert site.asked == calls(TEXTS, read=1, answer=1)
    assert not [one for one in a.news if one["type"] not in ("serving", "took")]


@pytest.fixture
def own_server() -> Iterator[Cluster]:
    """A server of this test, which stops and starts."""
    server = Cluster()
    yield server
    server.close()


def test_workers_outlive_a_restart_of_the_database(site: Site, own_server: Cluster) -> None:
    """The map is told to go on once, as its driver has lost its lock; the workers go on by themselves."""
    site.database = own_server.database()
    going, second = threading.Event(), set[str]()

    def answer(text: str, key: str) -> Answer:
        second.add(text)
        if second >= {f"ANSWER read row {number}" for number in (1, 2, 3, 4)}:
            going.set()  # the first calls of these rows are in the journal, or their second ones were not sent
        return Answer(text.lower(), hang=text == "ANSWER read row 4" and not restarted.is_set())

    restarted = threading.Event()
    site.on_call = answer
    workers = [site.worker(name, "--concurrency", "2") for name in ("a", "b")]
    with suppress(StoreError), site.fusion() as fusion:
        handle = site.start(fusion, *TEXTS[:8])
        site.wait_until(going.is_set, "second calls of the first four rows")
        own_server.stop()
        restarted.set()
        own_server.start()
        handle.wait()
    _, report = site.map(*TEXTS[:8])
    assert report.status == "ok"
    assert all(worker.process.is_alive() for worker in workers)
    assert all(worker.wait_for("lost") for worker in workers)
    assert [site.asked[f"READ row {number}"] for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert sum(site.asked.values()) <= 16 + 4  # those in flight are asked again
    for worker in workers:
        worker.signal()
    assert [worker.end() for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--store", "runs.db"], 2, "--store postgresql://…"),
        (["--store", "postgresql://nobody@127.0.0.1:9/none"], 2, "postgresql://nobody@127.0.0.1:9/none"),
        (["--json"], 2, "--json is for --list"),
        (["--concurrency", "0"], 2, "--concurrency"),
        (["--grace", "-1"], 2, "--grace"),
    ],
)
def test_a_worker_that_cannot_serve_says_why(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    from fusion.cli.app import run_command

    monkeypatch.chdir(tmp_path)
    assert run_command(["worker", *words]) == code
    assert said in capfd.readouterr().err


def fetched(place: str) -> str:
    """Fetch a page."""
    return place


TOOLED = """
name: tooled
inputs: {text: A row.}
stages:
  answer: {kind: generate, role: bulk, prompt: "ANSWER {{ inputs.text }}", tools: [fetched]}
output: answer
"""


@pytest.mark.parametrize(
    ("made", "given", "said"),
    [
        ({"roles": {"bulk": ScriptedModel(["x"])}}, {}, "the model 'scripted/model' is a Python object"),
        (
            {"tools": [Tool.of(fetched, effect="read")]},
            {"pipeline": Pipeline.from_yaml(TOOLED)},
            "the tool 'fetched'",
        ),
        ({}, {"within": Budget(Limits(usd=Decimal(1)))}, "Budget of this process"),
        ({}, {"on": "moon"}, "give 'workers' for"),
        ({"store": True}, {}, "--store postgresql://…"),
    ],
    ids=["model", "tool", "budget", "place", "store"],
)
def test_maps_that_cannot_go_elsewhere_are_refused_before_any_call(
    site: Site, made: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    options = {"model": MODEL, "store": site.database, **made}
    if "roles" in made:
        options.pop("model")
    with Fusion(**options) as fusion, pytest.raises(UsageError, match=re.escape(said)):
        fusion.start_map([{"text": "a"}], **site.options(**{"output": None, **given}))
    assert not site.provider.requests
