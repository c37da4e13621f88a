"""The logger `fusion`: retries at DEBUG, no keys in its lines, and nothing printed unless an application asks."""

import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from fusion import Fusion, ScriptedModel
from fusion.core.errors import ModelConnectionError
from fusion.core.types import Request

KEY = "sk-1234567890abcdef"
FAILS_ONCE = f"""
from fusion import Fusion, ScriptedModel
from fusion.core.errors import ModelConnectionError

answers = iter([ModelConnectionError("no route with {KEY}"), "hello"])
with Fusion(profile="local", model=ScriptedModel(lambda request: next(answers), name="scripted/all")) as fusion:
    print(fusion.complete("hi", pipeline="single").text)
"""


def fails_once() -> Callable[[Request], object]:
    answers = iter([ModelConnectionError(f"no route with {KEY}"), "hello"])
    return lambda request: next(answers)


@pytest.mark.usefixtures("without_pauses")
def test_a_failed_attempt_is_logged_without_its_key(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG, logger="fusion")
    with Fusion(profile="local", model=ScriptedModel(fails_once(), name="scripted/all")) as fusion:
        assert fusion.complete("hi", pipeline="single").text == "hello"
    assert caplog.record_tuples == [
        ("fusion", logging.DEBUG, "scripted/all: attempt 1 failed: no route with [OPENAI_API_KEY]")
    ]


def test_a_key_in_an_argument_is_masked_and_a_placeholder_is_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusion.core.log import LOG

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GROQ_API_KEY", "none")
    LOG.warning("%s: none here", {"authorization": f"Bearer {KEY}"})
    assert caplog.messages == ["{'authorization': 'Bearer [OPENAI_API_KEY]'}: none here"]


def test_nothing_is_printed_by_default() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS_ONCE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("hello\n", "")
