"""A map has the same outcome wherever its rows run: here, or on a worker."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from fusion import Fusion, MapReport, Pipeline, RowResult
from fusion.bulk.executors import service
from fusion.bulk.executors.service import Service
from fusion.bulk.fusion import node_of
from fusion.store.slices import WorkerRow
from tests.bulk.executors.site import GATED, PATIENCE, Site
from tests.conftest import own_settings
from tests.provider import Answer

pytestmark = pytest.mark.needs("initdb")
TEXTS = [f"row {number}" for number in range(1, 9)]
Map = Callable[..., tuple[dict[str, RowResult], MapReport]]


@contextmanager
def served(site: Site) -> Iterator[Fusion]:
    """A worker in this process serves the site."""
    with Fusion(store=site.database) as fusion:
        node, loop = node_of(fusion, concurrency=4)
        me = WorkerRow(secrets.token_hex(4), "here", "host", 1, "0.8.0", 4, 0.0)
        service = Service(fusion.store, node, me, lambda news: None)
        work = loop.submit(service.serve())
        yield fusion
        loop.submit(service.drain(0)).done.result()
        work.done.result()


@pytest.fixture(params=["here", "workers"])
def mapped(request: pytest.FixtureRequest, site: Site) -> Iterator[Map]:
    """Runs a map, and gives its rows in their order by key, and its report."""

    def run(*texts: str, **more: Any) -> tuple[dict[str, RowResult], MapReport]:
        on = None if request.param == "here" else "workers"
        return site.map(*texts, **{"on": on, "concurrency": 2 if on is None else None, **more})

    if request.param == "here":
        yield run
        return
    with served(site):
        yield run


def test_rows_have_their_answers(site: Site, mapped: Map) -> None:
    rows, report = mapped(*TEXTS)
    assert (report.status, report.exit_code, report.ok) == ("ok", 0, 8)
    assert (
        {key: row.text for key, row in rows.items()} == site.written == {one: f"answer read {one}" for one in TEXTS}
    )
    assert report.cost.usd == sum(row.cost.usd for row in rows.values())
    assert all(row.seconds > 0 for row in rows.values())


def test_done_rows_are_kept_and_changed_ones_run(site: Site, mapped: Map) -> None:
    mapped(*TEXTS[:4])
    site.provider.requests.clear()
    rows, report = mapped(*TEXTS[:5])
    assert (report.ok, report.kept) == (5, 4)
    assert [key for key, row in rows.items() if not row.kept] == ["row 5"]
    assert site.asked == {"READ row 5": 1, "ANSWER read row 5": 1}


def test_rows_come_in_the_order_of_the_inputs(site: Site, mapped: Map) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), delay=0.3 if text == "READ row 1" else 0)
    rows, _ = mapped(*TEXTS, ordered=True)
    assert list(rows) == list(site.written) == TEXTS


def _failing(*texts: str) -> Callable[[str, str], Answer]:
    return lambda text, key: Answer("no", status=400) if text in texts else Answer(text.lower())


def test_failed_rows_fail_the_map_at_its_end_and_are_asked_again(site: Site, mapped: Map) -> None:
    site.on_call = _failing("ANSWER read row 2")
    rows, report = mapped(*TEXTS)
    assert (report.status, report.exit_code, report.ok, report.failed) == ("partial", 3, 7, 1)
    assert rows["row 2"].failure is not None
    assert rows["row 2"].failure.reason == "BadRequestError"
    site.on_call = _failing()
    assert mapped(*TEXTS)[1].failed == 1
    _, report = mapped(*TEXTS, retry_failed=True)
    assert (report.status, report.ok) == ("ok", 8)
    assert site.asked["READ row 2"] == 1
    assert site.asked["ANSWER read row 2"] == 2


def test_the_first_failed_row_ends_a_map_that_fails_fast(site: Site, mapped: Map) -> None:
    site.on_call = lambda text, key: (
        Answer("no", status=400) if text == "READ row 1" else Answer(text.lower(), delay=0.5)
    )
    _, report = mapped(*TEXTS, fail_fast=True)
    assert (report.status, report.exit_code) == ("failed", 3)
    assert report.failure is not None
    assert "--fail-fast" in report.failure.message
    assert report.waiting > 0
    site.on_call = _failing()
    assert mapped(*TEXTS, retry_failed=True)[1].ok == 8


@pytest.mark.parametrize(("most", "status", "code"), [(2, "partial", 0), (1, "failed", 3), ("50%", "partial", 0)])
def test_so_many_rows_may_fail(site: Site, mapped: Map, most: Any, status: str, code: int) -> None:
    site.on_call = _failing("READ row 1", "READ row 2")
    _, report = mapped(*TEXTS, max_failed=most)
    assert (report.status, report.exit_code) == (status, code)


def test_a_budget_of_the_map_stops_it_and_a_higher_one_goes_on(site: Site, mapped: Map) -> None:
    _, report = mapped(*TEXTS, budget={"calls": 5})
    assert (report.status, report.exit_code) == ("failed", 4)
    assert report.failure is not None
    assert "'the map'" in report.failure.message
    assert sum(site.asked.values()) == 5
    assert mapped(*TEXTS, budget={"calls": 16})[1].ok == 8
    assert max(site.asked.values()) == 1


@pytest.mark.parametrize("calls", [1, 4, 7])
def test_several_workers_never_pass_the_budget_of_a_map(site: Site, calls: int) -> None:
    with served(site), served(site):
        _, report = site.map(*TEXTS, budget={"calls": calls})
        assert (report.status, report.exit_code) == ("failed", 4)
        assert sum(site.asked.values()) == calls
        assert site.map(*TEXTS, budget={"calls": 16})[1].ok == 8
    assert max(site.asked.values()) == 1


def test_workers_spend_from_a_budget_of_all_processes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    own_settings(site.folder, monkeypatch)('[budgets.team]\ncalls = 6\nper = "day"\n')
    with served(site):
        _, report = site.map(*TEXTS, within="team")
        assert (report.status, report.exit_code) == ("failed", 4)
        assert sum(site.asked.values()) == 6
        (team,) = report.budgets
        assert (team.name, team.limits["calls"].limit, team.limits["calls"].left) == ("team", 6, 0)
        assert site.map(*TEXTS, within="team")[1].exit_code == 4
    assert sum(site.asked.values()) == 6


def test_a_limit_in_seconds_ends_the_map(site: Site, mapped: Map) -> None:
    site.on_call = lambda text, key: Answer(text.lower(), hang=text.startswith("ANSWER"))
    _, report = mapped(*TEXTS[:2], budget={"seconds": 1.5})
    assert (report.status, report.exit_code) == ("failed", 4)
    assert report.failure is not None
    assert "1.5 s" in report.failure.message


def test_rows_wait_for_people_and_go_on_in_the_next_pass(site: Site, mapped: Map) -> None:
    gated = Pipeline.from_yaml(GATED)
    _, report = mapped(*TEXTS[:2], pipeline=gated)
    assert (report.status, report.exit_code, report.ok, report.held) == ("waiting", 6, 0, 2)
    with site.fusion() as fusion:
        fusion.answer("m-2", yes=True, by="me")
    rows, report = mapped(*TEXTS[:2], pipeline=gated)
    assert (report.status, report.ok, report.held) == ("waiting", 1, 1)
    assert rows["row 2"].text == "answer read row 2"
    assert max(site.asked.values()) == 1


def test_a_row_that_cannot_be_read_fails_alone(site: Site, mapped: Map) -> None:
    site.rows("row 1")
    path = site.folder / "odd.jsonl"
    path.write_text('{"text": "row 1"}\n{"text": 5, "other": 1}\n{"other": "no text"}\n')
    with site.fusion() as fusion:
        on = "workers" if len(fusion.store.slices.workers()) else None
        report = fusion.start_map(path, **site.options(key=None, on=on)).wait()
    assert report.ok + report.failed == 3
    assert report.failed >= 1


def test_the_spending_of_all_passes_is_in_the_report(site: Site, mapped: Map) -> None:
    first = mapped(*TEXTS[:2])[1].cost.usd
    assert mapped(*TEXTS[:4])[1].cost.usd == 2 * first > Decimal(0)


def test_a_worker_is_woken_by_the_notice_of_a_map(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks into the queue by itself when it begins and when it begins to listen, and then only when told."""
    monkeypatch.setattr(service, "_POLL", 3600.0)
    with served(site), site.fusion() as fusion:
        for number in range(4):
            options = site.options(id=f"m{number}", output=None)
            report = fusion.start_map([{"text": f"row {number}"}], **options).wait(PATIENCE)
            assert report.status == "ok"
    assert set(site.asked.values()) == {1}
