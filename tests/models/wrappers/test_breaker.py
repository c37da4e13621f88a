"""Circuit breakers: a model that is down costs little, is found again, and says so."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, RoleSpec
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContentFilterError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from fusion.core.events import AttemptCharged, CallStarted, EventBase, ItemFinished, OutageChanged
from fusion.core.result import Result
from fusion.models.base import ModelInfo
from fusion.models.providers.direct import direct
from fusion.models.wrappers.breaker import Breaker
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

WIDE = """
defaults: {timeout: %s}
stages:
  work: {kind: map, over: "range(%d) | list", role: asked, concurrency: 16, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, strategy: concat, separator: ","}
output: answer
"""
HTML = "<html><body><h1>Bad Gateway</h1></body></html>"
FAULTS = {
    "500": Answer("broken", status=500),
    "502 html": Answer(status=502, body=HTML),
    "503 html": Answer(status=503, body=HTML),
    "504": Answer("late", status=504),
    "reset": Answer(drop="reset"),
    "closed": Answer(drop="before"),
    "cut body": Answer(drop="body"),
    "hang": Answer(hang=True),
}
"""Outages by name: answers of a provider that is down."""
WELL = Answer("done")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(breaker: Breaker, error: ModelError, *, times: int = 1, seconds: float = 0.0) -> None:
    for _ in range(times):
        entry = breaker.enter()
        assert entry is not None
        breaker.fail(entry, error, seconds)


DOWN = ModelConnectionError("gone")


def test_five_outages_in_a_row_open_it(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    fail(breaker, DOWN, times=4)
    assert breaker.admits
    breaker.succeed(0.1)
    fail(breaker, DOWN, times=4)
    assert breaker.admits
    fail(breaker, DOWN)
    assert not breaker.admits
    assert breaker.enter() is None


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down"),
        AuthenticationError("wrong key"),
        BadRequestError("no such model"),
        ContentFilterError("no"),
        BadResponseError("empty"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_proper_response_is_no_outage(clock: Clock, error: ModelError) -> None:
    breaker = Breaker("m", clock=clock)
    fail(breaker, error, times=30)
    fail(breaker, DOWN, times=4)
    fail(breaker, error)
    fail(breaker, DOWN, times=4)
    assert breaker.admits


def test_most_of_the_last_attempts_open_it_too(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    for _ in range(4):
        assert breaker.admits
        breaker.succeed(0.1)
        fail(breaker, DOWN, times=4)
    assert not breaker.admits


@pytest.mark.parametrize(("latency", "seconds", "opens"), [(0.2, 5.0, True), (3.0, 5.0, False), (None, 5.0, True)])
def test_one_long_silence_is_enough(clock: Clock, latency: float | None, seconds: float, opens: bool) -> None:
    breaker = Breaker("m", clock=clock)
    if latency is not None:
        breaker.succeed(latency)
    fail(breaker, ModelTimeoutError("late"), seconds=seconds)
    assert breaker.admits is not opens


def test_a_slow_attempt_among_good_ones_does_not_open_it(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    entry = breaker.enter()
    assert entry is not None
    breaker.succeed(0.2)
    breaker.fail(entry, ModelTimeoutError("late"), 5.0)
    assert breaker.admits


def test_one_probe_at_a_time_after_growing_rests(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    fail(breaker, DOWN, times=5)
    for rest in (1, 2, 4, 8, 16, 30, 30):
        clock.now += rest - 0.1
        assert breaker.enter() is None
        clock.now += 0.1
        probe = breaker.enter()
        assert probe is not None
        assert breaker.enter() is None
        breaker.fail(probe, DOWN, 0.0)
    clock.now += 30
    probe = breaker.enter()
    assert probe is not None
    breaker.succeed(0.1)
    assert breaker.admits


def test_a_cancelled_probe_leaves_its_place_to_the_next(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    fail(breaker, DOWN, times=5)
    clock.now += 1
    probe = breaker.enter()
    assert probe is not None
    breaker.leave(probe)
    assert breaker.enter() is not None


def test_retry_after_of_an_outage_is_heeded(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    fail(breaker, ModelConnectionError("overloaded", retry_after=20), times=5)
    clock.now = 19.9
    assert not breaker.admits
    clock.now = 20
    assert breaker.admits


def test_late_failures_of_an_earlier_outage_count_no_more(clock: Clock) -> None:
    breaker = Breaker("m", clock=clock)
    late = [breaker.enter() for _ in range(10)]
    fail(breaker, DOWN, times=5)
    breaker.succeed(0.1)
    for entry in late:
        assert entry is not None
        breaker.fail(entry, DOWN, 60.0)
    assert breaker.admits


# Over HTTP.


def served(name: str, url: str) -> Model:
    info = ModelInfo(id=name, provider=name.partition("/")[0])
    return direct("openai/mock", info=info, api_base=url, api_key="sk-test")


Chain = Callable[..., Fusion]


@pytest.fixture
def chain() -> Iterator[Chain]:
    """Makes a Fusion whose role `asked` is a chain of these models."""
    made: list[Fusion] = []

    def make(*models: Model, **role: Any) -> Fusion:
        own = {one.info.id: one for one in models}
        made.append(Fusion(profile="local", models=own, roles={"asked": RoleSpec(chain=tuple(own), **role)}))
        return made[-1]

    yield make
    for fusion in made:
        fusion.close()


def wide(items: int, timeout: float = 5.0) -> Any:
    return pipeline(WIDE % (timeout, items))


def seconds(fault: str) -> float:
    """A timeout that a fault lets pass, short enough to wait for, or one that nothing else here needs."""
    return 1.0 if fault == "hang" else 20.0


def changes(events: list[EventBase]) -> list[str]:
    return [event.state for event in events if isinstance(event, OutageChanged)]


def finished_before_it_is_known(events: list[EventBase]) -> int:
    """The items whose place another one took before the outage showed."""
    known = next(at for at, event in enumerate(events) if isinstance(event, OutageChanged))
    return sum(isinstance(event, ItemFinished) for event in events[:known])


def answers(result: Result) -> int:
    return sum(item.ok for item in result.stages["work"].items)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chain_goes_on_at_once_with_the_next_model(chain: Chain, fault: str) -> None:
    with Provider(FAULTS[fault]) as dead, Provider(WELL) as alive:
        result, events = run(
            chain(served("a/one", dead.url), served("b/two", alive.url)), None, pipeline=wide(60, seconds(fault))
        )
    assert (result.status, answers(result), len(alive.requests)) == ("ok", 60, 60)
    assert len(dead.requests) <= 16 + changes(events).count("probing") + finished_before_it_is_known(events)
    assert changes(events)[0] == "open"
    assert "closed" not in changes(events)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_calls_of_a_single_model_wait_until_it_is_back(chain: Chain, fault: str) -> None:
    down = FAULTS[fault]
    with Provider([*[down] * 16, WELL]) as provider:
        result, events = run(chain(served("a/one", provider.url)), None, pipeline=wide(40, seconds(fault)))
    assert (result.status, answers(result)) == ("ok", 40)
    assert len(provider.requests) == 56
    assert [state for state in changes(events) if state != "probing"] == ["open", "closed"]


def free_port() -> int:
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return int(here.getsockname()[1])


def test_refused_connections_of_a_chain_of_three_go_to_the_third(chain: Chain) -> None:
    gone, too = f"http://127.0.0.1:{free_port()}/v1", f"http://127.0.0.1:{free_port()}/v1"
    with Provider(WELL) as alive:
        models = served("a/one", gone), served("b/two", too), served("c/three", alive.url)
        result, events = run(chain(*models), None, pipeline=wide(60))
    assert (result.status, answers(result), len(alive.requests)) == ("ok", 60, 60)
    opened = {event.model for event in events if isinstance(event, OutageChanged) and event.state == "open"}
    assert opened == {"a/one", "b/two"}


@contextmanager
def dead(fault: str) -> Iterator[str]:
    """Give the address of a provider that is down."""
    if fault == "refused":
        yield f"http://127.0.0.1:{free_port()}/v1"
        return
    with Provider(FAULTS[fault]) as provider:
        yield provider.url


@pytest.mark.parametrize("fault", ["refused", "500", "503 html", "reset", "hang"])
def test_an_outage_that_outlasts_all_patience_ends_a_wide_stage_with_one_error(chain: Chain, fault: str) -> None:
    with dead(fault) as url:
        fusion = chain(served("a/one", url), patience=2.0)
        result, events = run(fusion, None, pipeline=wide(200, seconds(fault)))
    assert (result.status, result.error and result.error.reason) == ("failed", "OutageError")
    assert result.error is not None
    assert "'a/one' is down, and still was after 2 s" in result.error.message
    assert not [event for event in events if isinstance(event, ItemFinished)]
    assert len([event for event in events if isinstance(event, CallStarted)]) == 16
    assert result.seconds < 15


@pytest.mark.parametrize("place", ["role", "stage", "defaults"])
@pytest.mark.parametrize("fault", ["refused", "500", "503 html", "closed", "504"])
def test_on_outage_fail_gives_up_at_once(chain: Chain, fault: str, place: str) -> None:
    own = ", on_outage: fail" if place == "stage" else ""
    text = WIDE.replace("concurrency: 16", f"concurrency: 16{own}") % (20, 200)
    if place == "defaults":
        text = text.replace("timeout: 20", "timeout: 20, on_outage: fail")
    with dead(fault) as url:
        fusion = chain(served("a/one", url), **({"on_outage": "fail"} if place == "role" else {}))
        result, events = run(fusion, None, pipeline=pipeline(text))
    assert result.status == "failed"
    reasons = {event.failure.reason for event in events if isinstance(event, ItemFinished) and event.failure}
    assert "OutageError" in reasons
    assert changes(events)[0] == "open"
    assert result.seconds < 15


def test_what_was_finished_before_an_outage_is_kept_and_resumed(chain: Chain, tmp_path: Path) -> None:
    state = {"down": False}

    def answer(seen: Seen) -> Answer:
        state["down"] = state["down"] or len(provider.requests) > 30
        return Answer("broken", status=500) if state["down"] else WELL

    with Provider(answer) as provider:
        own = {"a/one": served("a/one", provider.url)}
        role = RoleSpec(chain=("a/one",), patience=1.5)
        with Fusion(profile="local", models=own, roles={"asked": role}, store=tmp_path / "runs.db") as fusion:
            result, _ = run(fusion, None, pipeline=wide(60))
            assert result.error is not None
            assert result.error.reason == "OutageError"
            assert answers(result) == 30
            provider.script = WELL
            before = len(provider.requests)
            resumed = fusion.resume(result.run_id)
            assert (resumed.status, answers(resumed)) == ("ok", 60)
            assert len(provider.requests) - before == 30


class Recovering:
    """A provider that is back once the breaker of a model probes it, however many calls were in flight before."""

    def __init__(self, model: str) -> None:
        self.events: list[EventBase] = []
        self._model = model
        self._back = threading.Event()

    def __call__(self, seen: Seen) -> Answer:
        return WELL if self._back.is_set() else Answer("broken", status=503)

    def hear(self, event: EventBase) -> None:
        self.events.append(event)
        if isinstance(event, OutageChanged) and (event.model, event.state) == (self._model, "probing"):
            self._back.set()


def test_a_chain_of_two_that_are_both_down_waits_for_the_first_that_is_back(chain: Chain) -> None:
    second = Recovering("b/two")
    with Provider(Answer("broken", status=500)) as gone, Provider(second) as back:
        fusion = chain(served("a/one", gone.url), served("b/two", back.url))
        result = fusion.complete(pipeline=wide(40, 20), on_event=second.hear)
    assert (result.status, answers(result)) == ("ok", 40)
    closed = [one.model for one in second.events if isinstance(one, OutageChanged) and one.state == "closed"]
    assert closed == ["b/two"]


def test_a_model_that_comes_back_is_the_first_again(chain: Chain) -> None:
    with Provider([*[Answer("broken", status=500)] * 16, WELL]) as first, Provider(WELL) as second:
        fusion = chain(served("a/one", first.url), served("b/two", second.url))
        run(fusion, None, pipeline=wide(20, 20))
        time.sleep(1.1)  # the breaker's rest
        result, _ = run(fusion, None, pipeline=wide(20, 20))
    assert result.status == "ok"
    assert ("a/one", None) in [(used.asked, used.by) for used in result.models]


def test_the_probe_of_a_model_that_hangs_goes_on_without_its_call(chain: Chain) -> None:
    answers_again = threading.Event()

    def answer(seen: Seen) -> Answer:
        return Answer("late", delay=0.6) if answers_again.is_set() else Answer(hang=True)

    with Provider(answer) as hung, Provider(WELL) as alive:
        fusion = chain(served("a/one", hung.url), served("b/two", alive.url))
        run(fusion, None, pipeline=wide(20, 2.0))
        answers_again.set()
        time.sleep(1.1)  # the breaker's rest
        asked = len(hung.requests)
        result, events = run(fusion, None, pipeline=wide(10, 2.0), budget={"tokens": 10_000_000})
        assert (result.status, result.seconds < 0.6, changes(events)) == ("ok", True, ["open", "probing"])
        assert [event.model for event in events if isinstance(event, AttemptCharged)] == ["a/one"]
        time.sleep(0.8)  # its answer
        later, events = run(fusion, None, pipeline=wide(10, 2.0))
    assert changes(events) == []
    assert [(used.asked, used.by) for used in later.models] == [("a/one", None)]
    assert len(hung.requests) == asked + 11


def test_a_second_run_is_told_and_asks_the_dead_model_no_more(chain: Chain) -> None:
    with Provider(Answer("broken", status=500)) as dead, Provider(WELL) as alive:
        fusion = chain(served("a/one", dead.url), served("b/two", alive.url))
        run(fusion, None, pipeline=wide(20))
        before = len(dead.requests)
        result, events = run(fusion, None, pipeline=wide(20))
    assert result.status == "ok"
    assert len(dead.requests) - before == changes(events).count("probing")
    assert changes(events)[0] in ("open", "probing")


def test_two_runs_at_once_share_the_breaker_and_both_go_on(chain: Chain) -> None:
    only = Recovering("a/one")
    with Provider(only) as provider, ThreadPoolExecutor(2) as pool:
        fusion = chain(served("a/one", provider.url))
        runs = [pool.submit(fusion.complete, pipeline=wide(10), on_event=only.hear) for _ in range(2)]
        assert [answers(one.result()) for one in runs] == [10, 10]
    assert len(provider.requests) <= 16 + 20 + 10


def test_a_long_pause_that_a_model_asked_for_is_remembered(chain: Chain) -> None:
    full = Answer("busy", status=429, headers={"retry-after": "60"})
    with Provider(full) as busy, Provider(WELL) as alive:
        result, _ = run(chain(served("a/one", busy.url), served("b/two", alive.url)), None, pipeline=wide(60))
    assert (result.status, answers(result), len(alive.requests)) == ("ok", 60, 60)
    assert len(busy.requests) <= 16
