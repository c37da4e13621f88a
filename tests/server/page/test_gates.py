"""Gates on the page: a person reads, edits, fills in or rejects, and the run goes on live."""

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import pipeline, said
from tests.server.conftest import Served
from tests.server.page.browser import Watched
from tests.server.page.browser import chromium as chromium
from tests.server.page.browser import watched as watched
from tests.server.test_gates import LETTER, waiting_run

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.xdist_group("browser")]
FORM = ", ask: {tone: [warm, cold], pages: integer, sure: boolean, note: string?}"
PIPELINES = {
    "letter": pipeline(LETTER % ""),
    "form": pipeline((LETTER % "").replace(", ask: edit", FORM).replace("name: letter", "name: form")),
    "yes": pipeline((LETTER % "").replace(", ask: edit", "").replace("name: letter", "name: yes")),
}


@pytest.fixture
def letters(serve: Any) -> Served:
    served: Served = serve(lambda request: said(request).splitlines()[-1], pipelines=PIPELINES)
    return served


def opened(watched: Any, served: Served, name: str, **options: Any) -> tuple[Watched, str]:
    run_id = waiting_run(served, name)
    one: Watched = watched(**options)
    one.page.goto(f"{served.url}/#/run/{run_id}")
    return one, run_id


def test_a_person_edits_the_text_and_the_run_goes_on_live(letters: Served, watched: Any) -> None:
    one, _ = opened(watched, letters, "letter")
    page = one.page
    form = page.get_by_role("form", name="Answer to approval")
    expect(form.get_by_role("textbox", name="Text, to be approved")).to_have_value("Write: a letter")
    form.get_by_role("textbox", name="Text, to be approved").fill("My words.")
    form.get_by_role("textbox", name="Your name").fill("maria")
    form.get_by_role("button", name="Approve the edited text").click()
    expect(page.get_by_role("group", name="Answer")).to_have_text("Send: My words. (maria)")
    expect(page.locator("main")).to_contain_text("edited and approved by maria")
    expect(page.locator(".head .status")).to_contain_text("ok")
    one.is_quiet(letters.url)


def test_a_form_of_a_schema_is_filled_in_by_keys_alone(letters: Served, watched: Any) -> None:
    one, _ = opened(watched, letters, "form")
    page = one.page
    tone = page.get_by_role("combobox", name=re.compile("^tone"))
    expect(tone).to_be_visible()
    tone.focus()
    page.keyboard.press("w")
    page.keyboard.press("Tab")
    page.keyboard.type("2")
    page.keyboard.press("Tab")
    page.keyboard.press("t")
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Answer")).to_contain_text('"tone": "warm", "pages": 2, "sure": true')
    one.is_quiet(letters.url)


def test_a_person_rejects_with_a_reason(letters: Served, watched: Any) -> None:
    one, _ = opened(watched, letters, "yes")
    page = one.page
    page.get_by_role("textbox", name="Reason, if you reject").fill("too long")
    page.get_by_role("button", name="Reject").click()
    expect(page.locator(".failure").first).to_contain_text("rejected by page: too long")
    one.is_quiet(letters.url)


def test_an_answer_from_elsewhere_shows_and_a_second_one_is_told(letters: Served, watched: Any) -> None:
    one, run_id = opened(watched, letters, "yes")
    page = one.page
    expect(page.get_by_role("button", name="Approve")).to_be_visible()
    letters.fusion.answer(run_id, by="ole")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("main")).to_contain_text(re.compile("approved by ole"))


def test_the_list_has_the_runs_that_wait(letters: Served, watched: Any) -> None:
    run_id = waiting_run(letters, "yes")
    one: Watched = watched()
    one.page.goto(f"{letters.url}/#/runs")
    one.page.get_by_role("button", name="waiting").click()
    expect(one.page.locator("a.row-link")).to_have_count(1)
    expect(one.page.locator(".list")).to_contain_text(run_id)


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_gate_fits_the_screen_with_hostile_texts(serve: Any, watched: Any, width: int, scheme: str) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202eabc\u202c " + "long" * 200
    served = serve(lambda request: hostile, pipelines=PIPELINES)
    one, _ = opened(watched, served, "yes", viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = one.page
    expect(page.get_by_role("group", name="Text to be approved")).to_contain_text("<img src=x")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('.gate').scrollWidth") <= width
    one.is_quiet(served.url)
