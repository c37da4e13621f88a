"""Retrying: what is tried again, how long it waits, and when it gives up."""

import asyncio
from random import Random
from typing import Any

import pytest

from fusion.core import budget, events
from fusion.core.budget import Budget
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
    UsageError,
)
from fusion.core.events import AttemptFailed, EventBase, Span
from fusion.core.types import Limits, Message, Reply, Request
from fusion.models import attempt
from fusion.models.providers.scripted import Say, ScriptedModel
from fusion.models.wrappers.retry import Retrying

pytestmark = pytest.mark.usefixtures("patient")
ASKED = Request(messages=(Message(role="user", content="hello"),), max_tokens=50, timeout=60)


class Rig:
    """A Retrying around a script, with a clock that only its pauses move."""

    def __init__(self, *script: str | Say | Exception, **options: Any) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.events: list[AttemptFailed] = []
        self.scripted = ScriptedModel(list(script))
        options = {"random": Random(1), "sleep": self.sleep, "now": lambda: self.now, **options}
        self.model = Retrying(self.scripted, **options)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def sink(self, event: EventBase) -> None:
        assert isinstance(event, AttemptFailed)
        self.events.append(event)

    def ask(self, on_delta: "Pieces | None" = None, asked: Request = ASKED) -> Reply:
        async def main() -> Reply:
            events.span.set(Span(sink=self.sink, run_id="r"))
            return await self.model.complete(asked, on_delta)

        return asyncio.run(main())

    @property
    def calls(self) -> int:
        return len(self.scripted.requests)


class Pieces:
    def __init__(self, commits: bool = False) -> None:
        self.commits = commits
        self.committed = False
        self.log: list[str] = []

    def add(self, text: str) -> None:
        self.log.append(text)
        self.committed = self.commits

    def restart(self) -> None:
        self.log.append("<restart>")


@pytest.mark.parametrize(
    "error", [RateLimitError("x"), ModelTimeoutError("x"), ModelConnectionError("x"), BadResponseError("x")]
)
def test_passing_faults_are_tried_again(error: ModelError) -> None:
    rig = Rig(error, error, "fine")
    assert rig.ask().text == "fine"
    assert rig.calls == 3
    assert [event.wait for event in rig.events] == rig.waits
    assert [event.attempt for event in rig.events] == [1, 2]
    assert rig.events[0].failure.reason == type(error).__name__


@pytest.mark.parametrize(
    "error", [AuthenticationError("x"), BadRequestError("x"), ContextWindowError("x"), ContentFilterError("x")]
)
def test_lasting_faults_are_not(error: ModelError) -> None:
    rig = Rig(error, "fine")
    with pytest.raises(type(error), match=r"^x$"):
        rig.ask()
    assert rig.calls == 1
    assert [event.wait for event in rig.events] == [None]


def test_the_last_error_says_how_often_it_was_tried() -> None:
    rig = Rig(BadResponseError("a"), ModelTimeoutError("b"), BadResponseError("gone", model="m", text="half"))
    with pytest.raises(BadResponseError, match=r"^gone \(after 3 attempts\)$") as caught:
        rig.ask()
    assert (caught.value.text, caught.value.model) == ("half", "m")
    assert isinstance(caught.value.__cause__, BadResponseError)
    assert [event.wait is None for event in rig.events] == [False, False, True]


def test_a_lasting_fault_after_a_passing_one() -> None:
    rig = Rig(ModelConnectionError("a"), BadRequestError("no such model"))
    with pytest.raises(BadRequestError, match=r"no such model \(after 2 attempts\)"):
        rig.ask()


def test_one_error_told_often_does_not_grow() -> None:
    error = BadResponseError("gone")
    rig = Rig(*[error] * 6)
    for _ in range(2):
        with pytest.raises(BadResponseError, match=r"^gone \(after 3 attempts\)$"):
            rig.ask()
    assert str(error) == "gone"


@pytest.mark.parametrize(
    "error",
    [
        BadResponseError("x"),
        ModelTimeoutError("x"),
        ModelConnectionError("x", answered=True),
        Say(" "),
        Say(pieces=["half"], error=ModelConnectionError("x")),
    ],
)
def test_attempts_that_may_be_billed_are_few(error: ModelError | Say) -> None:
    with pytest.raises(ModelError, match="after 3 attempts"):
        Rig(*[error] * 9).ask(Pieces())
    rig = Rig(*[error] * 9, attempts=5)
    with pytest.raises(ModelError, match="after 5 attempts"):
        rig.ask(Pieces())
    assert rig.calls == 5
    with pytest.raises(UsageError):
        Rig("fine", attempts=0)


@pytest.mark.parametrize(
    "error",
    [
        ModelConnectionError("x"),
        ModelConnectionError("x", sent=False),
        ModelConnectionError("x", retry_after=2),
        RateLimitError("x"),
        RateLimitError("x", retry_after=0.1),
    ],
)
@pytest.mark.parametrize("seconds", [0.0, 5.0, 60.0, 300.0])
def test_an_outage_is_repeated_while_there_is_patience(error: ModelError, seconds: float) -> None:
    rig = Rig(*[error] * 9_999)
    with pytest.raises(type(error), match=r"(after|only) "):
        rig.ask(asked=ASKED.model_copy(update={"patience": seconds}))
    assert rig.now <= seconds
    assert rig.now >= 0.8 * seconds - 22
    assert rig.calls == len(rig.waits) + 1


def test_the_probes_of_an_outage_are_repeated_while_there_is_patience() -> None:
    late = [ModelTimeoutError("late") for _ in range(8)]
    for error in late:
        error.probe = True
    rig = Rig(*late, "hello")
    assert rig.ask().text == "hello"


def test_few_billed_attempts_are_left_after_an_outage() -> None:
    rig = Rig(*[ModelConnectionError("down")] * 9, BadResponseError("bad"), ModelTimeoutError("late"), "fine")
    assert rig.ask().text == "fine"
    assert rig.calls == 12


def test_the_time_of_the_run_bounds_patience() -> None:
    rig = Rig(*[ModelConnectionError("x")] * 9_999)
    token = budget.current.set(Budget(Limits(seconds=30)))
    try:
        with pytest.raises(ModelConnectionError, match="only"):
            rig.ask()
    finally:
        budget.current.reset(token)
    assert 5 < rig.now <= 30


def test_waiting_for_a_turn_takes_no_patience() -> None:
    class Queue(ScriptedModel):
        async def complete(self, request: Request, on_delta: Any = None) -> Reply:
            rig.now += 200
            here = attempt.clock.get()
            assert here is not None
            here.pause += 200
            return await super().complete(request, on_delta)

    rig = Rig()
    queue = Queue([RateLimitError("x")] * 2 + ["fine"])
    rig.model = Retrying(queue, sleep=rig.sleep, now=lambda: rig.now)
    token = attempt.clock.set(attempt.CallClock())
    try:
        assert rig.ask().text == "fine"
    finally:
        attempt.clock.reset(token)


def test_full_jitter_up_to_the_cap() -> None:
    waits: list[list[float]] = [[], [], [], []]
    for seed in range(300):
        rig = Rig(*[ModelConnectionError("x")] * 4, "fine", base=1.0, cap=3.0, random=Random(seed))
        rig.ask()
        for column, wait in zip(waits, rig.waits, strict=True):
            column.append(wait)
    for column, most in zip(waits, [1, 2, 3, 3], strict=True):
        assert 0 <= min(column) < 0.1 * most
        assert 0.9 * most < max(column) <= most


def test_retry_after_is_obeyed() -> None:
    rig = Rig(RateLimitError("x", retry_after=30), "fine", base=0.5)
    rig.ask()
    assert 30 <= rig.waits[0] <= 30.5


def test_after_a_rate_limit_the_backoff_does_not_grow() -> None:
    rig = Rig(*[RateLimitError("x")] * 50, "fine", base=0.5)
    rig.ask()
    assert max(rig.waits) <= 0.5


def test_a_retry_after_beyond_patience_ends_it_at_once() -> None:
    rig = Rig(RateLimitError("slow down", retry_after=3600), "fine")
    with pytest.raises(RateLimitError, match=r"slow down \(after 1 attempt; .* in 3600\.\d s, .* 300\.0 s are left"):
        rig.ask()
    assert (rig.calls, rig.waits) == (1, [])
    assert [event.wait for event in rig.events] == [None]


def test_patience_is_for_all_attempts_together() -> None:
    late = RateLimitError("x", retry_after=6)
    rig = Rig(late, late, "fine")
    with pytest.raises(RateLimitError, match="after 2 attempts"):
        rig.ask(asked=ASKED.model_copy(update={"patience": 10}))


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (RateLimitError("x", retry_after=9), 2),
        (RateLimitError("x", retry_after=11), 1),
        (RateLimitError("x"), 1),
        (ModelConnectionError("x", retry_after=3), 2),
        (ModelConnectionError("x"), 1),
        (ModelTimeoutError("x"), 1),
    ],
)
def test_with_a_fallback_only_a_short_retry_after_is_waited_for(error: ModelError, calls: int) -> None:
    rig = Rig(error, "fine", hasty=10.0)
    if calls == 1:
        with pytest.raises(type(error)):
            rig.ask()
    else:
        assert rig.ask().text == "fine"
    assert rig.calls == calls


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_answer_is_tried_again(empty: str) -> None:
    assert Rig(empty, "fine").ask().text == "fine"
    with pytest.raises(BadResponseError, match=r"empty answer.*after 3 attempts"):
        Rig(empty, empty, empty).ask()


def test_a_filtered_answer_is_not() -> None:
    rig = Rig(Say("some", finish_reason="content_filter"), "fine")
    with pytest.raises(ContentFilterError):
        rig.ask()
    assert rig.calls == 1


def test_an_answer_cut_off_at_its_limit_is_an_answer() -> None:
    assert Rig(Say("half", finish_reason="length")).ask().finish_reason == "length"


def test_pieces_are_taken_back_before_another_attempt() -> None:
    rig, heard = Rig(Say(pieces=["ha", "lf"], finish_reason=None), ModelConnectionError("x"), "whole"), Pieces()
    assert rig.ask(heard).text == "whole"
    assert heard.log == ["ha", "lf", "<restart>", "whole"]


def test_what_is_in_use_is_never_tried_again() -> None:
    rig, heard = Rig(Say(pieces=["half"], finish_reason=None), "whole"), Pieces(commits=True)
    with pytest.raises(BadResponseError, match="already in use") as caught:
        rig.ask(heard)
    assert caught.value.text == "half"
    assert (rig.calls, heard.log) == (1, ["half"])


def test_other_errors_and_cancellation_pass_through() -> None:
    rig = Rig(ValueError("a mistake"))
    with pytest.raises(ValueError, match="a mistake"):
        rig.ask()
    assert rig.events == []

    async def main() -> None:
        model = ScriptedModel("late", delay=30)
        task = asyncio.ensure_future(Retrying(model).complete(ASKED))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(model.requests) == model.cancelled == 1

    asyncio.run(main())
