"""`fusion runs open` and `fusion runs show --html`: the page by a server, and as one file."""

import base64
import hashlib
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest

from fusion import Fusion
from tests.cli.conftest import Command, start
from tests.server.page.conftest import PIPELINES, models


@pytest.fixture
def run_id(tmp_path: Path) -> str:
    with Fusion(profile="local", roles=models(), store=tmp_path / "runs.db") as fusion:
        result = fusion.complete("do <script>alert(1)</script> it", pipeline=PIPELINES["planned"])
    return result.run_id


# One file.


@pytest.fixture
def page(run_id: str, tmp_path: Path, command: Command) -> str:
    done = command(
        "runs", "show", run_id[:-2], "--html", str(tmp_path / "run.html"), "--store", str(tmp_path / "runs.db")
    )
    assert (done.code, done.out) == (0, "")
    return (tmp_path / "run.html").read_text()


def test_the_file_names_no_address_and_holds_no_markup_of_its_texts(page: str) -> None:
    without_names = page.replace("http://www.w3.org/", "")
    assert not re.search(r"https?://", without_names)
    assert not re.search(r"\b(?:src|href)=\"", without_names.split("<body>")[0])
    assert page.count("<script") == 2
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_the_policy_of_the_file_allows_its_own_script_and_style_alone(page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--json"], "--json has no effect with --html"),
        (["--all"], "--all has no effect with --html"),
        (["1"], "CALL has no effect with --html"),
    ],
)
def test_options_that_a_file_cannot_follow_are_refused(
    run_id: str, tmp_path: Path, command: Command, more: list[str], says: str
) -> None:
    place = tmp_path / "run.html"
    done = command("runs", "show", run_id, *more, "--html", str(place), "--store", str(tmp_path / "runs.db"))
    assert (done.code, says in done.err, place.exists()) == (2, True, False)


def test_a_file_that_cannot_be_written_is_named(run_id: str, tmp_path: Path, command: Command) -> None:
    done = command(
        "runs", "show", run_id, "--html", str(tmp_path / "no" / "x.html"), "--store", str(tmp_path / "runs.db")
    )
    assert (done.code, "--html" in done.err, "there is no folder" in done.err) == (2, True, True)


# A server.


def test_a_server_is_started_or_found_and_its_address_is_opened(
    run_id: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    place = ("--store", str(tmp_path / "runs.db"))
    process = start("runs", "open", run_id[:-2], "--port", "0", *place, env={"BROWSER": f"{browser} %s"})
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/#/run/{run_id}", address)
        base = address.split("/#")[0]
        assert httpx.get(f"{base}/api/runs/{run_id}", trust_env=False).json()["state"]["status"] == "ok"
        port = base.rpartition(":")[2]
        found = command("runs", "open", "latest", "--port", port, "--no-browser", *place)
        assert (found.code, found.out.strip()) == (0, address)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    assert seen.read_text().strip() == address


@pytest.mark.parametrize("given", ["none", "2026x", "9"])
def test_an_id_that_means_nothing_is_refused(run_id: str, tmp_path: Path, command: Command, given: str) -> None:
    done = command("runs", "open", given, "--no-browser", "--store", str(tmp_path / "runs.db"))
    assert (done.code, "no run" in done.err) == (2, True)


def test_without_the_extra_the_message_names_it(
    run_id: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "fusion.server.listener.serve", raising=False)
    done = command("runs", "open", run_id, "--no-browser", "--port", "0", "--store", str(tmp_path / "runs.db"))
    assert (done.code, "pip install 'compound-fusion[server]'" in done.err) == (2, True)
