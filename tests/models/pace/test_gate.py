"""Gate: runs take turns, small calls pass large ones, none starves, and a cancelled call leaves."""

import asyncio
from collections.abc import Sequence

import pytest

from fusion.core.errors import RateLimitError
from fusion.core.events import EventBase, Paused, Span, span
from fusion.core.types import Message, Request
from fusion.models.pace import Gate, Pace, patience


def request(size: int = 4) -> Request:
    return Request(messages=(Message(role="user", content="x" * size),), max_tokens=1)


async def turns(number: int = 8) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def order(calls: Sequence[tuple[str, int]]) -> list[str]:
    """The names of the runs of calls, in the order in which a gate with one slot lets them pass."""

    async def main() -> list[str]:
        gate, passed = Gate(concurrency=1), list[str]()
        first = await gate.enter(request())

        async def call(run: str, size: int) -> None:
            span.set(Span(sink=lambda _: None, run_id=run.rstrip("0123456789")))
            ticket = await gate.enter(request(size))
            passed.append(run)
            gate.leave(ticket)

        async with asyncio.TaskGroup() as group:
            for run, size in calls:
                group.create_task(call(run, size))
                await turns(2)
            gate.leave(first)
        return passed

    return asyncio.run(main())


def test_calls_of_a_run_keep_their_order() -> None:
    assert order([(f"a{n}", 100) for n in range(5)]) == [f"a{n}" for n in range(5)]


@pytest.mark.parametrize("wide", [2, 10, 100, 1000])
def test_a_wide_run_delays_another_by_one_call_at_a_time(wide: int) -> None:
    passed = order([*((f"a{n}", 400) for n in range(wide)), ("b1", 400), ("b2", 400)])
    assert passed.index("b1") <= 2
    assert passed.index("b2") <= 4


@pytest.mark.parametrize("rpm", [3e5, 6e5, 1e6, 3e6, 1e7])
def test_calls_of_a_fast_rate_pass_on_every_event_loop(rpm: float) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> int:
        gate = Gate(rpm=rpm)
        tickets = await asyncio.gather(*(gate.enter(request()) for _ in range(200)))
        for ticket in tickets:
            gate.leave(ticket)
        return len(tickets)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == 200


def test_two_hundred_runs_share() -> None:
    passed = order([(f"{chr(945 + run)}{n}", 100) for run in range(200) for n in range(3)])
    assert len({name.rstrip("0123456789") for name in passed[:200]}) == 200


def test_a_run_with_large_calls_gets_fewer_turns() -> None:
    passed = order([(f"{name}{n}", size) for n in range(30) for name, size in (("a", 4000), ("b", 400))])
    assert sum(name.startswith("b") for name in passed[:11]) >= 8


def test_a_small_call_passes_large_ones_of_its_run() -> None:
    passed = order([*((f"a{n}", 40_000) for n in range(6)), ("a-small", 40)])
    assert passed.index("a-small") <= 1


def test_a_large_call_does_not_starve() -> None:
    async def main() -> int:
        gate = Gate(concurrency=1)
        held = await gate.enter(request())
        large = asyncio.ensure_future(gate.enter(request(4_000)))
        await turns(2)
        passed = 0
        while not large.done():
            small = asyncio.ensure_future(gate.enter(request(400)))
            await turns(2)
            gate.leave(held)
            await turns(2)
            if small.done():
                held, passed = small.result(), passed + 1
            else:
                small.cancel()
            assert passed < 50
        return passed

    assert 3 <= asyncio.run(main()) <= 20


def test_a_cancelled_call_leaves_the_queue() -> None:
    async def main() -> None:
        gate = Gate(concurrency=1)
        held = await gate.enter(request())
        waiting, last = (asyncio.ensure_future(gate.enter(request())) for _ in range(2))
        await turns()
        waiting.cancel()
        gate.leave(held)
        await turns()
        assert last.done()
        gate.leave(last.result())
        assert gate.open == 0

    asyncio.run(main())


def test_a_call_cancelled_at_its_turn_gives_its_slot_back() -> None:
    async def main() -> None:
        gate = Gate(concurrency=1)
        held = await gate.enter(request())
        waiting = asyncio.ensure_future(gate.enter(request()))
        await turns()
        gate.leave(held)
        waiting.cancel()
        await turns()
        assert waiting.cancelled()
        assert gate.open == 0
        gate.leave(await gate.enter(request()))

    asyncio.run(main())


def refused(pace: Pace, retry_after: float | None = None) -> asyncio.Future[None]:
    async def call() -> None:
        ticket = await pace.enter(request())
        pace.fail(ticket, {}, RateLimitError("slow", retry_after=retry_after))
        pace.leave(ticket)

    return asyncio.ensure_future(call())


@pytest.mark.parametrize(
    ("seconds", "waits"), [(1.0, False), (10.0, False), (59.0, False), (61.0, True), (300.0, True)]
)
def test_a_call_waits_for_a_rest_as_long_as_it_has_patience(seconds: float, waits: bool) -> None:
    async def main() -> None:
        pace = Pace("a/model")
        await refused(pace, 60)
        patience.set(seconds)
        call = asyncio.ensure_future(pace.enter(request()))
        await turns()
        assert call.done() is not waits
        if waits:
            call.cancel()
        else:
            with pytest.raises(RateLimitError, match=r"'a/model'.* takes the next request in 6\d"):
                call.result()

    asyncio.run(main())


def test_calls_that_wait_already_are_sent_away_too() -> None:
    async def main() -> None:
        pace = Pace("a/model", concurrency=1)
        held = await pace.enter(request())
        patience.set(10.0)
        call = asyncio.ensure_future(pace.enter(request()))
        await turns()
        assert not call.done()
        pace.fail(held, {}, RateLimitError("slow", retry_after=60))
        pace.leave(held)
        await turns()
        with pytest.raises(RateLimitError):
            call.result()

    asyncio.run(main())


def test_a_pause_is_told_once_to_each_run() -> None:
    async def main() -> None:
        pace, told = Pace("a/model", rpm=600), list[EventBase]()

        async def call(run: str) -> None:
            span.set(Span(sink=told.append, run_id=run, stage="work"))
            pace.leave(await pace.enter(request()))

        async with asyncio.TaskGroup() as group:
            for n in range(6):
                group.create_task(call("ab"[n % 2]))
        assert [(event.run_id, type(event)) for event in told] == [("b", Paused), ("a", Paused)]
        first = told[0]
        assert isinstance(first, Paused)
        assert (first.model, first.rate, first.stage) == ("a/model", 10.0, "work")
        assert 0 < first.wait <= 0.1

    asyncio.run(main())
