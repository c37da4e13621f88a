"""The page in chromium: what a person sees and does, live and with hostile texts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.perf import page as many
from fusion import Say
from fusion.server.page.bundle import page_of
from fusion.server.page.run import RunView
from fusion.server.page.runs import Runs
from fusion.server.page.stream import RunStream
from tests.conftest import Write
from tests.server.conftest import Served
from tests.server.page.browser import Watched
from tests.server.page.browser import chromium as chromium
from tests.server.page.browser import watched as watched
from tests.server.page.conftest import PIPELINES, Gate, mapped, models, ran, started, stream
from tests.server.page.test_stream import gate as gate
from tests.server.page.test_stream import waiting

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.xdist_group("browser")]
HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b>",
    "link": '"><a href="javascript:alert(3)">x</a><iframe src="https://evil.example/">',
    "address": "https://evil.example/?leak=1 ![x](https://evil.example/x.png)",
    "terminal": "\x1b[31mred\x1b[0m\x07\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "direction": "\u202eabc\u202c \u2066x\u2069 \u200f\u061c",
    "template": "{{constructor.constructor('alert(4)')()}} ${alert(5)} </textarea></pre>",
}


def opened(watched: Any, served: Served, place: str, **options: Any) -> Watched:
    one: Watched = watched(**options)
    one.page.goto(f"{served.url}/#{place}")
    return one


def stage(page: Page, name: str) -> Any:
    return page.locator(f"#stage-{name} > button")


# Lists and runs that have ended.


def test_the_list_and_the_receipt_show_budgets(paged: Any, watched: Any, write: Write) -> None:
    write("[budgets.team]\ncalls = 9\nper = 'month'\ntags = {}\n")
    served = paged()
    run_id = ran(served)
    one = opened(watched, served, "/runs")
    budgets = one.page.get_by_role("region", name="Budgets")
    expect(budgets).to_contain_text("team this month, anew 1 ")
    meter = budgets.get_by_role("meter", name="Spent of team")
    expect(meter).to_have_attribute("aria-valuetext", re.compile(r"\d of 9 calls"))
    one.page.goto(f"{served.url}/#/run/{run_id}")
    receipt = one.page.get_by_role("region", name="Receipt", exact=True)
    expect(receipt).to_contain_text(re.compile(r"budget team \d{4}-\d\d 4 calls spent; 5 calls left"))
    one.is_quiet(served.url)


def test_the_list_is_searched_and_filtered_by_keys_and_clicks(paged: Any, watched: Any) -> None:
    served = paged()
    ran(served, tags={"team": "search"})
    ran(served, ["bad"], tags={"team": "sales"})
    one = opened(watched, served, "/runs")
    rows = one.page.locator("a.row-link")
    expect(rows).to_have_count(2)
    one.page.keyboard.press("/")
    one.page.keyboard.type("team=sales")
    expect(rows).to_have_count(1)
    expect(one.page.locator(".list")).to_contain_text("no such thing")
    one.page.keyboard.press("Escape")
    one.page.get_by_role("searchbox").fill("")
    expect(rows).to_have_count(2)
    one.page.get_by_role("button", name="ok", exact=True).click()
    expect(rows).to_have_count(1)
    one.page.get_by_role("button", name="ok", exact=True).click()
    one.page.get_by_role("link", name="team=search").click()
    expect(rows).to_have_count(1)
    one.page.locator("a.tag.on").click()
    expect(rows).to_have_count(2)
    rows.first.focus()
    one.page.keyboard.press("ArrowDown")
    one.page.keyboard.press("Enter")
    expect(one.page.locator("h1")).to_contain_text("ok work")
    one.page.keyboard.press("Escape")
    expect(rows).to_have_count(2)
    one.is_quiet(served.url)


def test_a_waterfall_is_opened_down_to_a_call(paged: Any, watched: Any) -> None:
    served = paged()
    run_id = ran(served, [f"row {n}" for n in range(60)])
    one = opened(watched, served, f"/run/{run_id}")
    expect(one.page.locator("svg .node")).to_have_count(2)
    stage(one.page, "work").focus()
    one.page.keyboard.press("ArrowRight")
    items = one.page.locator("button[data-row=item]")
    expect(items).to_have_count(50)
    one.page.get_by_role("button", name="Next ›").click()
    expect(items).to_have_count(10)
    items.first.focus()
    one.page.keyboard.press("ArrowRight")
    call = one.page.locator("a[data-row=call]")
    expect(call).to_have_count(1)
    one.page.keyboard.press("ArrowDown")
    one.page.keyboard.press("Enter")
    expect(one.page.get_by_role("region", name="Reply")).to_contain_text("did do row")
    expect(one.page.locator("main")).to_contain_text("price from")
    number = int(re.findall(r"/call/(\d+)", one.page.url)[0])
    one.page.keyboard.press("ArrowRight")
    expect(one.page).to_have_url(re.compile(f"/call/{number + 1}$"))
    one.page.keyboard.press("Escape")
    expect(items.first).to_be_visible()
    one.is_quiet(served.url)


def test_two_runs_are_picked_and_compared(paged: Any, watched: Any) -> None:
    served = paged()
    ran(served, ["a", "b"])
    ran(served, ["a", "c"])
    one = opened(watched, served, "/runs")
    for box in (0, 1):
        one.page.get_by_role("checkbox").nth(box).check()
    one.page.get_by_role("link", name="Compare the two runs").click()
    expect(one.page.locator("main")).to_contain_text("1 different")
    expect(one.page.locator(".diff .added").last).to_contain_text("c")
    one.is_quiet(served.url)


def test_maps_and_reports_are_shown(paged: Any, watched: Any, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "first"
    folder.mkdir(parents=True)
    outcomes = [{"arm": "fast", "score": 1, "cost": "0.25"}]
    results = {
        "name": "<i>first</i>",
        "items": [{}],
        "arms": [{"name": "fast", "kind": "model"}],
        "outcomes": outcomes,
    }
    (folder / "results.json").write_text(json.dumps(results))
    served = paged(table={"reports": tmp_path / "reports"})
    mapped(served, [{"task": f"task {n}"} for n in range(3)], tmp_path / "out.jsonl")
    one = opened(watched, served, "/maps")
    one.page.locator("a.row-link").click()
    expect(one.page.get_by_role("img", name="3 of 3 done")).to_be_visible()
    expect(one.page.locator("a.row-link")).to_have_count(3)
    one.page.get_by_role("link", name="Benchmarks").click()
    one.page.get_by_role("link", name="<i>first</i>").click()
    expect(one.page.locator("main")).to_contain_text("$0.2500")
    one.is_quiet(served.url)


# Live runs.


def test_a_form_is_quoted_before_it_starts_a_run(paged: Any, watched: Any) -> None:
    served = paged(models(joined=Say(pieces=["the ", "whole"])))
    one = opened(watched, served, "/new")
    one.page.get_by_label("Pipeline").select_option("one")
    one.page.get_by_label("task").fill("do <b>it</b>")
    expect(one.page.get_by_role("button", name="Start")).to_be_disabled()
    one.page.get_by_role("button", name="Quote").click()
    expect(one.page.get_by_role("region", name="Quote")).to_contain_text("never more than")
    one.page.get_by_label("Budget in dollars").fill("-1")
    expect(one.page.get_by_role("button", name="Start")).to_be_disabled()
    one.page.get_by_role("button", name="Quote").click()
    expect(one.page.get_by_role("alert")).to_contain_text("above 0")
    one.page.get_by_label("Budget in dollars").fill("")
    one.page.get_by_role("button", name="Start").click()
    expect(one.page.get_by_role("status")).to_have_text(re.compile("ok"))
    expect(one.page.get_by_role("region", name="Answer")).to_contain_text("the whole")
    one.is_quiet(served.url)


def test_a_run_is_seen_as_it_happens(paged: Any, watched: Any, gate: Gate) -> None:
    served = paged(models(waiting(gate), joined=Say(pieces=["the ", "whole"])))
    run_id = started(served)
    one = opened(watched, served, f"/run/{run_id}")
    expect(one.page.locator(".plan li")).to_have_text(["part 1", "part 2", "part 3"])
    expect(stage(one.page, "work")).to_have_accessible_name(re.compile("running, 1 of 3, 2 in flight"))
    expect(one.page.get_by_role("button", name="work, map, running, 1 of 3", exact=True)).to_be_visible()
    expect(one.page.get_by_role("meter")).to_have_attribute("aria-valuemax", "5")
    stage(one.page, "work").click()
    expect(one.page.locator("button[data-row=item]")).to_have_count(3)
    one.page.get_by_role("button", name="Pause updates").click()
    expect(one.page.locator(".link")).to_have_text("paused")
    gate.open()
    with served.client() as client, client.stream("GET", f"/api/runs/{run_id}/events") as response:
        assert list(stream(response))[-1].data == {"status": "ok"}
    expect(one.page.get_by_role("status")).to_have_text(re.compile("running"))
    one.page.keyboard.press("p")
    expect(one.page.get_by_role("status")).to_have_text(re.compile("ok"))
    expect(one.page.get_by_role("region", name="Answer")).to_contain_text("the whole")
    expect(one.page.get_by_role("region", name="Receipt", exact=True)).to_contain_text("scripted")
    one.is_quiet(served.url)


def test_a_page_connects_again_where_it_was(
    paged: Any, watched: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Recorded(RunStream):
        def __init__(self, view: RunView, after: int, *more: Any) -> None:
            seen.append(after)
            super().__init__(view, after, *more)

    monkeypatch.setattr("fusion.server.page.routes.RunStream", Recorded)
    served = paged(models(waiting(gate)))
    run_id = started(served)
    one = watched()
    cut: list[str] = []

    def route(route: Any) -> None:
        """Cut the first stream after its events; pass on the others."""
        if not cut:
            cut.append(route.request.url)
            body = 'retry: 50\n\nid: 2\nevent: event\ndata: {"type":"noted","message":"once"}\n\n'
            route.fulfill(status=200, content_type="text/event-stream", body=body)
        else:
            route.continue_()

    one.page.route("**/events*", route)
    one.page.goto(f"{served.url}/#/run/{run_id}")
    expect(one.page.locator(".link")).to_have_text("live")
    expect(stage(one.page, "work")).to_have_accessible_name(re.compile("1 of 3, 2 in flight"))
    gate.open()
    expect(one.page.get_by_role("status")).to_have_text(re.compile("ok"))
    assert (seen, len(cut)) == ([2], 1)
    one.is_quiet(served.url)


# Hostile texts.


@pytest.fixture
def hostile(paged: Any) -> tuple[Served, str]:
    """A run whose rows, replies, tags and pipeline are hostile, and whose answer is a line of 1 MB."""
    everything = " ".join(HOSTILE.values())
    served = paged(models(lambda request: everything, joined=everything + "x" * 1_000_000))
    pipeline = PIPELINES["work"].model_copy(update={"name": HOSTILE["markup"]})
    tags = {name: text for name, text in HOSTILE.items() if "=" not in name}
    return served, ran(served, list(HOSTILE.values()), pipeline=pipeline, tags={HOSTILE["direction"]: "x", **tags})


@pytest.mark.parametrize(
    "place", ["/runs", "/run/{id}", "/run/{id}/call/1", "/diff?a={id}&b={id}", "/run/%3Cimg%20src%3Dx%3E"]
)
def test_hostile_texts_are_shown_as_texts(hostile: tuple[Served, str], watched: Any, place: str) -> None:
    served, run_id = hostile
    one = opened(watched, served, place.format(id=run_id))
    expect(one.page.locator("main")).to_contain_text("<img src=x" if "%3C" not in place else "no run")
    for button in one.page.locator("button[data-row=stage]:not([disabled])").all():
        button.click()
    for button in one.page.locator("button[data-row=item]").all()[:3]:
        button.click()
    assert one.page.locator("main img, main iframe, main b, main script, main a[href^=javascript]").count() == 0
    shown = one.page.locator("main").inner_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", shown)
    assert len(shown) < 200_000
    one.is_quiet(served.url)


def test_a_long_text_is_shown_a_page_at_a_time(hostile: tuple[Served, str], watched: Any) -> None:
    served, run_id = hostile
    one = opened(watched, served, f"/run/{run_id}")
    answer = one.page.locator("section[aria-label=Answer]")
    expect(answer).to_contain_text(re.compile(r"characters 1 to 20,000 of 1,000,\d+"))
    answer.get_by_role("button", name="Next").click()
    expect(answer).to_contain_text("characters 20,001 to 40,000")
    expect(answer.locator("pre")).to_have_text("x" * 20_000)
    one.is_quiet(served.url)


def test_the_file_of_a_run_shows_it_without_a_server(
    hostile: tuple[Served, str], watched: Any, tmp_path: Path
) -> None:
    served, run_id = hostile
    place = tmp_path / "run.html"
    place.write_text(page_of(Runs(served.fusion.store).view(run_id)), "utf-8")
    one = watched()
    one.page.goto(place.as_uri())
    expect(one.page.locator("h1")).to_contain_text("<img src=x")
    stage(one.page, "work").click()
    one.page.locator("button[data-row=item]").first.click()
    one.page.locator("a[data-row=call]").first.click()
    expect(one.page.locator("main")).to_contain_text("do <script>")
    one.page.keyboard.press("Escape")
    expect(one.page.locator("svg .node")).to_have_count(2)
    one.is_quiet(place.as_uri())


# Looks.


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1280)])
def test_the_page_fits_and_follows_the_scheme(paged: Any, watched: Any, scheme: str, width: int) -> None:
    served = paged()
    run_id = ran(served, pipeline=PIPELINES["planned"], inputs={"task": "do it"}, tags={"team": "search" * 20})
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "reduced_motion": "reduce"}
    one = watched(**options)
    for place in ("/runs", f"/run/{run_id}", f"/run/{run_id}/call/1", "/maps", "/new"):
        one.page.goto(f"{served.url}/#{place}")
        expect(one.page.locator("main h1").first).to_be_attached()
        assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
    ground = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 380) == (scheme == "dark")
    one.is_quiet(served.url)


def test_a_token_is_asked_for_once(paged: Any, watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_SERVER_TOKEN", "a secret")
    served = paged()
    ran(served)
    one = opened(watched, served, "/runs")
    expect(one.page.get_by_label("Token of this server")).to_be_focused()
    one.page.get_by_label("Token of this server").fill("other")
    one.page.get_by_role("button", name="Log in").click()
    expect(one.page.get_by_role("alert")).to_have_text("This token is not known here.")
    one.page.get_by_label("Token of this server").fill("a secret")
    one.page.get_by_role("button", name="Log in").click()
    expect(one.page.locator("a.row-link")).to_have_count(1)
    assert one.page.evaluate("document.cookie") == ""
    one.is_quiet(served.url)


# Load.


def test_a_live_run_of_many_items_takes_no_long_task_and_no_more_memory(chromium: Browser) -> None:
    with many.served(400, 2.0) as address:
        watch = many.measured(chromium, address, 400, 0.5)
    assert watch.longest < 50, "milliseconds of CPU"
    assert watch.growth() < 1, "megabytes"
    assert max(watch.nodes) < 4000
