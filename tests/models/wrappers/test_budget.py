"""Metered: the worst case is reserved before an attempt, and what it cost is settled after it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from fusion.core import budget, events
from fusion.core.budget import Amount, Budget
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    BudgetError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from fusion.core.events import AttemptCharged, EventBase, Span
from fusion.core.types import Limits, Message, Request, Usage
from fusion.models.base import Model, ModelInfo, Price, input_bound
from fusion.models.providers.scripted import Say, Script, ScriptedModel
from fusion.models.wrappers.budget import Metered
from fusion.models.wrappers.limit import Limited

PRICE = Price(input=Decimal("0.001"), output=Decimal("0.01"))
ASKED = Request(messages=(Message(role="user", content="hello"),), max_tokens=50, timeout=60)
BOUND = input_bound(ASKED)
WORST = Amount(PRICE.input * BOUND + PRICE.output * 50, BOUND + 50)
NOTHING = Amount(Decimal(0), 0, 0)


class Deaf:
    committed = False

    def add(self, text: str) -> None:
        pass

    def restart(self) -> None:
        pass


def metered(script: Script, *, price: Price | None = PRICE, concurrency: int = 8) -> Metered:
    info = ModelInfo(id="paid/model", provider="paid", price=price)
    return Metered(Limited(ScriptedModel(script, info=info, respect_limit=False), concurrency=concurrency))


@contextmanager
def paying(run: Budget) -> Iterator[list[EventBase]]:
    """Whatever is called inside is paid by `run`; yields the events."""
    seen: list[EventBase] = []
    money = budget.current.set(run)
    place = events.span.set(Span(sink=seen.append, run_id="r", stage="work"))
    try:
        yield seen
    finally:
        events.span.reset(place)
        budget.current.reset(money)


def test_the_worst_case_is_reserved_and_the_cost_settled() -> None:
    async def main() -> None:
        run = Budget()
        reserved: list[Amount] = []

        def script(asked: Request) -> Say:
            reserved.append(run.reserved)
            assert budget.attempt.get() is not None
            return Say("fine", usage=Usage(input=10, output=5))

        with paying(run):
            reply = await metered(script).complete(ASKED)
        assert reserved == [WORST]
        assert run.reserved == NOTHING
        assert run.spent == Amount(reply.cost, 15) == Amount(Decimal("0.060"), 15)
        assert budget.attempt.get() is None

    asyncio.run(main())


def test_without_a_budget_nothing_is_counted() -> None:
    async def main() -> None:
        model = metered(lambda asked: "fine" if budget.attempt.get() is None else "counted")
        assert (await model.complete(ASKED)).text == "fine"

    asyncio.run(main())


def test_a_call_that_does_not_fit_is_never_made() -> None:
    async def main() -> None:
        scripted = ScriptedModel("fine", info=ModelInfo(id="paid/model", provider="paid", price=PRICE))
        model: Model = Metered(Limited(scripted, concurrency=1))
        with paying(Budget(Limits(usd=Decimal("0.01")))), pytest.raises(BudgetError, match="a call to 'paid/model'"):
            await model.complete(ASKED)
        assert scripted.requests == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("x"),
        AuthenticationError("x"),
        BadRequestError("x"),
        ContextWindowError("x"),
        ModelConnectionError("x"),
    ],
)
def test_a_refusal_counts_as_a_call_and_costs_nothing(error: ModelError) -> None:
    async def main() -> None:
        run = Budget()
        with paying(run) as seen, pytest.raises(type(error)):
            await metered(error).complete(ASKED)
        assert run.spent == Amount(Decimal(0), 0, 1)
        assert run.reserved == NOTHING
        assert seen == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "spent"),
    [
        (ModelConnectionError("never connected", sent=False), NOTHING),
        (ModelConnectionError("refused by a server error"), Amount(Decimal(0), 0, 1)),
        (ModelConnectionError("lost after it was sent", answered=True), WORST),
        (ModelConnectionError("lost in the midst of a body", answered=True, sent=False), WORST),
    ],
)
def test_a_lost_connection_is_settled_by_what_was_sent(error: ModelError, spent: Amount) -> None:
    async def main() -> None:
        run = Budget()
        with paying(run), pytest.raises(ModelConnectionError):
            await metered(error).complete(ASKED)
        assert run.spent == spent
        assert run.reserved == NOTHING

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        Say("half", finish_reason=None),
        BadResponseError("x"),
        ModelTimeoutError("x"),
        ContentFilterError("x"),
        RuntimeError("a mistake in the door"),
    ],
)
def test_an_attempt_that_may_have_been_billed_is_charged_in_full(answer: Say | Exception) -> None:
    async def main() -> None:
        run = Budget()
        with paying(run) as seen, pytest.raises((ModelError, RuntimeError)):
            await metered(answer).complete(ASKED)
        assert run.spent == WORST
        assert run.reserved == NOTHING
        [event] = seen
        assert isinstance(event, AttemptCharged)
        assert event.model == "paid/model"
        assert event.usage == Usage(input=BOUND, output=50, source="estimated")
        assert event.cost == WORST.usd
        assert event.stage == "work"

    asyncio.run(main())


def test_a_connection_lost_in_the_midst_of_a_stream_is_charged() -> None:
    async def main() -> None:
        run = Budget()
        with paying(run), pytest.raises(ModelConnectionError):
            await metered(Say(pieces=["half"], error=ModelConnectionError("gone"))).complete(ASKED, Deaf())
        assert run.spent == WORST

    asyncio.run(main())


def test_a_timeout_is_charged() -> None:
    async def main() -> None:
        run = Budget()
        with paying(run) as seen, pytest.raises(ModelTimeoutError):
            await metered(Say("late", delay=30)).complete(ASKED.model_copy(update={"timeout": 0.01}))
        assert run.spent == WORST
        assert len(seen) == 1

    asyncio.run(main())


def test_cancelled_after_it_was_sent_is_charged_and_before_is_refunded() -> None:
    async def main() -> None:
        run = Budget()
        model = metered(Say("late", delay=30), concurrency=1)
        with paying(run) as seen:
            sent, waiting = (asyncio.ensure_future(model.complete(ASKED)) for _ in range(2))
            for _ in range(4):
                await asyncio.sleep(0)
            assert run.reserved.calls == 2
            waiting.cancel()
            await asyncio.sleep(0)
            assert (run.spent.calls, run.reserved.calls) == (0, 1)
            sent.cancel()
            await asyncio.gather(sent, waiting, return_exceptions=True)
        assert run.spent == WORST
        assert run.reserved == NOTHING
        assert len(seen) == 1

    asyncio.run(main())


def test_over_delivery_is_settled_and_seen() -> None:
    async def main() -> None:
        run = Budget(Limits(tokens=BOUND + 60))
        with paying(run):
            await metered(Say("long", usage=Usage(input=10, output=5000))).complete(ASKED)
            assert run.spent.tokens == 5010
            with pytest.raises(BudgetError):
                await metered("fine").complete(ASKED)

    asyncio.run(main())


def test_an_unknown_price_is_bounded_by_tokens_and_said() -> None:
    async def main() -> None:
        run = Budget(Limits(usd=Decimal(1), tokens=10_000))
        with paying(run):
            await metered(Say("fine", usage=Usage(input=10, output=5)), price=None).complete(ASKED)
        assert run.unknown_calls == 1
        assert run.spent == Amount(Decimal(0), 15)
        with (
            paying(Budget(Limits(usd=Decimal(1)), strict_usd=True)),
            pytest.raises(BudgetError, match="'paid/model'"),
        ):
            await metered("fine", price=None).complete(ASKED)

    asyncio.run(main())
