"""Chromium for the tests of the page: one for a module, whose pages watch what they ask for and say.

Playwright leaves its loop running in the thread until it is closed, so that no other test may come between.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HARMLESS = ("status of 401", "status of 404", "status of 400", "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED")
"""Words of the console about answers that a test asks for."""


class Watched:
    """A page, with what it asked for, said and opened."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.said: list[str] = []
        self.dialogs: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", self._dialog)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def is_quiet(self, address: str) -> None:
        """Assert that the page asked its own server alone, opened no dialog, and had no error."""
        assert [url for url in self.asked if not url.startswith((address, "data:"))] == []
        assert self.dialogs == []
        errors = [text for text in self.said if not any(word in text for word in HARMLESS)]
        assert not errors, errors


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Any]:
    """Opens pages of 1280 by 900 by default, and closes them."""
    opened: list[Any] = []

    def make(**options: Any) -> Watched:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(20_000)
        opened.append(context)
        return Watched(context.new_page())

    yield make
    for context in opened:
        context.close()
