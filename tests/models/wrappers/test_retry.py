"""Retrying: what is tried again, how long it waits, and when it gives up."""

import asyncio
from random import Random
from typing import Any

import pytest

from fusion.core import events
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
from fusion.core.types import Message, Reply, Request
from fusion.models.providers.scripted import Say, ScriptedModel
from fusion.models.wrappers.retry import Retrying

ASKED = Request(messages=(Message(role="user", content="hello"),), max_tokens=50, timeout=60)


class Rig:
    """A Retrying around a script, with a clock that only its pauses move."""

    def __init__(self, *script: str | Say | Exception, **options: Any) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.events: list[AttemptFailed] = []
        self.scripted = ScriptedModel(list(script))
        options = {"random": Random(1), "sleep": self.sleep, "clock": lambda: self.now, **options}
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
    rig = Rig(ModelConnectionError("a"), ModelConnectionError("b"), BadResponseError("gone", model="m", text="half"))
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
    error = ModelConnectionError("gone")
    rig = Rig(*[error] * 6)
    for _ in range(2):
        with pytest.raises(ModelConnectionError, match=r"^gone \(after 3 attempts\)$"):
            rig.ask()
    assert str(error) == "gone"


def test_the_number_of_attempts() -> None:
    rig = Rig(*[ModelConnectionError("gone")] * 5, attempts=5)
    with pytest.raises(ModelConnectionError, match="after 5 attempts"):
        rig.ask()
    assert rig.calls == 5
    with pytest.raises(UsageError):
        Rig("fine", attempts=0)


def test_full_jitter_up_to_the_cap() -> None:
    waits: list[list[float]] = [[], [], [], []]
    for seed in range(300):
        rig = Rig(*[ModelConnectionError("x")] * 4, "fine", attempts=5, base=1.0, cap=3.0, random=Random(seed))
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


def test_a_retry_after_beyond_the_deadline_ends_it_at_once() -> None:
    rig = Rig(RateLimitError("slow down", retry_after=3600), "fine")
    with pytest.raises(RateLimitError, match=r"slow down \(after 1 attempt; .* in 3600\.\d s, .* 180\.0 s are left"):
        rig.ask()
    assert (rig.calls, rig.waits) == (1, [])
    assert [event.wait for event in rig.events] == [None]


def test_the_deadline_is_three_timeouts_unless_it_is_given() -> None:
    assert Rig(RateLimitError("x", retry_after=179), "fine").ask().text == "fine"
    with pytest.raises(RateLimitError):
        Rig(RateLimitError("x", retry_after=181), "fine").ask()
    with pytest.raises(RateLimitError, match=r"only 10\.0 s are left"):
        Rig(RateLimitError("x", retry_after=11), "fine", deadline=10).ask()


def test_the_deadline_is_for_all_attempts_together() -> None:
    late = RateLimitError("x", retry_after=6)
    rig = Rig(late, late, "fine", deadline=10)
    with pytest.raises(RateLimitError, match="after 2 attempts"):
        rig.ask()


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
