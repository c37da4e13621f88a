"""Headers of rate limits: read in each of their forms, and heeded before anything is refused."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from fusion import Fusion, Settings
from fusion.core.config import Endpoint
from fusion.core.events import AttemptFailed, Paused
from fusion.models.pace.headers import Allowance, Told, seconds_until, told
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

WIDE = pipeline(
    """
stages: {a: {kind: map, over: "range(ITEMS) | list", role: bulk, concurrency: 8, prompt: "{{ item.source }}"}}
output: a
""".replace("ITEMS", "60")
)
LIMIT = 20
Say = Callable[[int, float], Mapping[str, str]]


def _openai(left: int, reset: float) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(LIMIT),
        "x-ratelimit-remaining-requests": str(left),
        "x-ratelimit-reset-requests": f"{1000 * reset:.0f}ms",
    }


def _anthropic(left: int, reset: float) -> dict[str, str]:
    then = datetime.now(UTC) + timedelta(seconds=reset)
    return {
        "anthropic-ratelimit-requests-limit": str(LIMIT),
        "anthropic-ratelimit-requests-remaining": str(left),
        "anthropic-ratelimit-requests-reset": then.isoformat().replace("+00:00", "Z"),
    }


def _tokens(left: int, reset: float) -> dict[str, str]:
    return {
        "X-RateLimit-Limit-Tokens": str(13 * LIMIT),
        "X-RateLimit-Remaining-Tokens": str(13 * left),
        "X-RateLimit-Reset-Tokens": f"{reset:.3f}s",
    }


def _input(left: int, reset: float) -> dict[str, str]:
    then = datetime.now(UTC) + timedelta(seconds=reset)
    return {
        "anthropic-ratelimit-input-tokens-limit": str(10 * LIMIT),
        "anthropic-ratelimit-input-tokens-remaining": str(10 * left),
        "anthropic-ratelimit-input-tokens-reset": then.isoformat(),
    }


def _older(left: int, reset: float) -> dict[str, str]:
    return {"RateLimit-Limit": str(LIMIT), "RateLimit-Remaining": str(left), "RateLimit-Reset": f"{reset:.3f}"}


def _draft(left: int, reset: float) -> dict[str, str]:
    policy = f'"default";q={LIMIT};w=1'
    return {"RateLimit": f'"default";r={left};t={max(1, round(reset))}', "RateLimit-Policy": policy}


class Window:
    """Admits so many requests in each window of time, tells what is left, and refuses the rest."""

    def __init__(self, say: Say, *, refill: bool = False, seconds: float = 1.0) -> None:
        self.refused = 0
        self._say = say
        self._refill = refill
        self._seconds = seconds
        self._left = float(LIMIT)
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, _: Seen) -> Answer:
        with self._lock:
            now = time.monotonic()
            if self._refill:
                self._left = min(LIMIT, self._left + (now - self._since) * LIMIT / self._seconds)
                self._since = now
                reset = (LIMIT - self._left) * self._seconds / LIMIT
            else:
                if now >= self._since + self._seconds:
                    self._left, self._since = float(LIMIT), now
                reset = self._since + self._seconds - now
            if self._left < 1:
                self.refused += 1
                return Answer("slow down", status=429, headers=self._say(0, reset))
            self._left -= 1
            headers = self._say(int(self._left), reset)
        return Answer("fine", delay=0.01, headers=headers, usage={"prompt_tokens": 10, "completion_tokens": 3})


@pytest.mark.parametrize("refill", [False, True], ids=["window", "bucket"])
@pytest.mark.parametrize("say", [_openai, _anthropic, _older, _draft, _tokens, _input])
def test_a_limit_that_is_told_is_not_hit(say: Say, refill: bool) -> None:
    window = Window(say, refill=refill, seconds=1.0 if say is _draft else 0.5)  # a draft tells whole seconds
    with Provider(window) as provider:
        endpoints = {"told": Endpoint(model="x", api_base=provider.url)}
        settings = Settings.from_environment().model_copy(update={"endpoints": endpoints})
        with Fusion(settings=settings, model="told") as fusion:
            began = time.monotonic()
            result, events = run(fusion, None, pipeline=WIDE)
    assert sum(item.ok for item in result.items) == 60
    most = 8 if refill and say in (_tokens, _input) else 3  # a bucket of tokens may show itself by one refused burst
    assert window.refused <= most, [event for event in events if isinstance(event, AttemptFailed)]
    assert time.monotonic() - began < 6
    if not refill:
        assert any(isinstance(event, Paused) for event in events)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("1d", 86_400.0),
        ("0s", 0.0),
        ("45", 45.0),
        ("0.25", 0.25),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
    ],
)
def test_the_forms_of_a_reset(given: str, seconds: float | None) -> None:
    assert seconds_until(given, {}) == seconds


@pytest.mark.parametrize("form", ["{:.0f}", "{:.3f}"])
def test_a_reset_may_be_a_time(form: str) -> None:
    then = time.time() + 30
    for given in (form.format(then), f"{1000 * then:.0f}", datetime.fromtimestamp(then, UTC).isoformat()):
        seconds = seconds_until(given, {})
        assert seconds is not None
        assert 28 < seconds < 31


def test_a_time_is_taken_by_the_clock_of_the_server() -> None:
    headers = {"date": "Sun, 06 Nov 1994 08:49:37 GMT"}
    assert seconds_until("1994-11-06T08:49:50Z", headers) == 13


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-remaining-requests": "5"},
        {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "later"},
        {"ratelimit": "nonsense"},
    ],
)
def test_headers_that_tell_no_limit_are_left_out(headers: dict[str, str]) -> None:
    assert list(told(headers)) == []


def test_a_wrong_reset_is_not_waited_for_without_a_refusal() -> None:
    allowance = Allowance()
    allowance.see(Told("requests", 100, 0, 86_400), 1, 0.0, 0)
    assert allowance.delay(0.0) == 60
    assert allowance.delay(61.0) == 0


def test_an_older_response_does_not_count() -> None:
    allowance = Allowance()
    allowance.see(Told("requests", 10, 0, 5), 9, 0.0, 0)
    allowance.see(Told("requests", 10, 8, 5), 2, 0.1, 0)
    assert allowance.delay(0.1) > 4


def test_requests_under_way_are_taken_off() -> None:
    allowance = Allowance()
    allowance.see(Told("requests", 10, 3, 5), 4, 0.0, 3)
    assert allowance.delay(0.0) == 5
