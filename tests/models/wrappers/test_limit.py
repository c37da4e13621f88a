"""Limited: slots are kept and given in order, and time counts from the slot."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

from fusion import Fusion, Settings
from fusion.core import budget
from fusion.core.budget import Amount, Budget
from fusion.core.config import Endpoint
from fusion.core.errors import ModelConnectionError, ModelTimeoutError, UsageError
from fusion.core.events import AttemptFailed, EventBase, FallbackTaken
from fusion.core.types import Deltas, Message, Reply, Request
from fusion.models.base import Model, ModelInfo
from fusion.models.providers.litellm import warm
from fusion.models.providers.scripted import Say, ScriptedModel
from fusion.models.wrappers.limit import Limited
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider


def request(text: str = "x", timeout: float = 60.0) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=10, timeout=timeout)


class Gate:
    """A script whose answers come when they are let through, one at a time."""

    def __init__(self) -> None:
        self.doors: list[asyncio.Event] = []

    async def __call__(self, asked: Request) -> str:
        door = asyncio.Event()
        self.doors.append(door)
        await door.wait()
        return asked.messages[0].content


async def turns(number: int = 6) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_no_more_than_so_many_at_once_in_order() -> None:
    async def main() -> None:
        gate = Gate()
        model = ScriptedModel(gate)
        limited = Limited(model, concurrency=2)
        tasks = [asyncio.ensure_future(limited.complete(request(str(n)))) for n in range(6)]
        for done in range(6):
            await turns()
            assert model.in_flight == min(2, 6 - done)
            gate.doors[done].set()
        assert [(await task).text for task in tasks] == list("012345")
        assert [asked.messages[0].content for asked in model.requests] == list("012345")
        assert model.peak == 2

    asyncio.run(main())


def test_shared_slots_bound_all_models_together() -> None:
    async def main() -> None:
        shared = asyncio.Semaphore(2)
        gates = [Gate(), Gate()]
        models = [ScriptedModel(gate) for gate in gates]
        wrapped = [Limited(model, concurrency=2, slots=shared) for model in models]
        tasks = [asyncio.ensure_future(model.complete(request())) for model in wrapped for _ in range(3)]
        for _ in range(6):
            await turns()
            assert sum(model.in_flight for model in models) <= 2
            next(door for gate in gates for door in gate.doors if not door.is_set()).set()
        await asyncio.gather(*tasks)
        assert sum(len(model.requests) for model in models) == 6

    asyncio.run(main())


def test_a_cancelled_attempt_gives_its_slot_back() -> None:
    async def main() -> None:
        gate = Gate()
        model = ScriptedModel(gate)
        limited = Limited(model, concurrency=1)
        running, waiting, last = (asyncio.ensure_future(limited.complete(request(text))) for text in "abc")
        await turns()
        waiting.cancel()
        running.cancel()
        await turns()
        assert [asked.messages[0].content for asked in model.requests] == ["a", "c"]
        gate.doors[1].set()
        assert (await last).text == "c"

    asyncio.run(main())


def test_an_attempt_is_sent_once_it_has_its_slot() -> None:
    async def main() -> None:
        gate = Gate()
        limited = Limited(ScriptedModel(gate), concurrency=1)
        run = Budget()

        async def call(reservation: budget.Reservation) -> None:
            budget.attempt.set(reservation)
            await limited.complete(request())

        first, second = [await run.reserve(Amount(Decimal(1), 1)) for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            group.create_task(call(first))
            group.create_task(call(second))
            await turns()
            assert (first.sent, second.sent) == (True, False)
            gate.doors[0].set()
            await turns()
            assert second.sent
            gate.doors[1].set()

    asyncio.run(main())


def test_no_answer_in_time() -> None:
    limited = Limited(ScriptedModel("late", name="slow/model", delay=30), concurrency=1)
    with pytest.raises(ModelTimeoutError, match=r"'slow/model'.*within 0\.01 s.*`defaults\.timeout`") as caught:
        asyncio.run(limited.complete(request(timeout=0.01)))
    assert caught.value.model == "slow/model"
    assert caught.value.retryable


def test_time_counts_from_the_slot() -> None:
    async def main() -> None:
        door = asyncio.Event()

        async def script(asked: Request) -> str:
            if asked.messages[0].content == "first":
                await door.wait()
            return "in time"

        limited = Limited(ScriptedModel(script), concurrency=1)
        first = asyncio.ensure_future(limited.complete(request("first")))
        second = asyncio.ensure_future(limited.complete(request("second", timeout=0.01)))
        asyncio.get_running_loop().call_later(0.03, door.set)  # the second waits longer than its timeout
        assert [reply.text for reply in await asyncio.gather(first, second)] == ["in time", "in time"]

    asyncio.run(main())


def test_each_attempt_has_its_own_time_whoever_came_before() -> None:
    async def timed(limited: Limited, text: str, timeout: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(ModelTimeoutError):
            await limited.complete(request(text, timeout=timeout))
        return loop.time() - began

    async def main() -> None:
        def answer(asked: Request) -> Say:
            return Say("x", delay=0.01 if asked.messages[0].content == "ends" else 60)

        limited = Limited(ScriptedModel(answer), concurrency=9)
        await timed(limited, "ends", 0.1)
        hung, other, late = await asyncio.gather(
            timed(limited, "hangs", 0.1), timed(limited, "hangs", 0.2), _late(limited, timed)
        )
        assert 0.1 <= hung < 10
        assert 0.2 <= other < 10
        assert 0.1 <= late < 10

    async def _late(limited: Limited, timed: Callable[[Limited, str, float], Awaitable[float]]) -> float:
        await asyncio.sleep(0.05)
        return await timed(limited, "hangs", 0.1)

    asyncio.run(main())


def test_time_is_kept_on_a_new_loop_too() -> None:
    limited = Limited(ScriptedModel([Say("quick"), Say("late", delay=60)]), concurrency=1)
    asyncio.run(limited.complete(request(timeout=0.05)))
    with pytest.raises(ModelTimeoutError):
        asyncio.run(limited.complete(request(timeout=0.05)))


def test_cancellation_from_outside_stays_a_cancellation() -> None:
    async def main() -> None:
        model = ScriptedModel("late", delay=30)
        task = asyncio.ensure_future(Limited(model, concurrency=1).complete(request()))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.cancelled == 1

    asyncio.run(main())


def test_a_timeout_from_outside_is_not_taken_for_its_own() -> None:
    async def main() -> None:
        limited = Limited(ScriptedModel("late", delay=30), concurrency=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await limited.complete(request())

    asyncio.run(main())


HANGS = pipeline("""
roles: {slow: {chain: [hangs, scripted/up], timeout: 0.5}}
stages: {answer: {kind: generate, role: slow, prompt: Say it.}}
output: answer
""")


def timeouts(events: list[EventBase]) -> list[str]:
    failures = [event.failure for event in events if isinstance(event, (AttemptFailed, FallbackTaken))]
    assert {failure.reason for failure in failures} == {"ModelTimeoutError"}
    return [failure.message for failure in failures]


def test_a_model_that_hangs_times_out_once() -> None:
    hangs = ScriptedModel("late", name="hangs", delay=60)
    models = {"hangs": hangs, "scripted/up": ScriptedModel("in time", name="scripted/up")}
    with Fusion(models=models) as fusion:
        result, events = run(fusion, None, pipeline=HANGS)
    attempt, fallback = timeouts(events)
    assert (result.text, attempt, hangs.cancelled) == ("in time", fallback, 1)
    assert "'hangs' gave no complete reply within 0.5 s" in attempt


def test_a_provider_that_hangs_times_out_once() -> None:
    asyncio.run(warm())  # loading litellm takes longer than the timeout
    models = {"scripted/up": ScriptedModel("in time", name="scripted/up")}
    with Provider(Answer(hang=True)) as provider:
        endpoints = {"hangs": Endpoint(model="x", api_base=provider.url)}
        settings = Settings.from_environment().model_copy(update={"endpoints": endpoints})
        with Fusion(models=models, settings=settings) as fusion:
            result, events = run(fusion, None, pipeline=HANGS)
        assert provider.wait_until(lambda p: p.disconnects == 1)
        assert len(provider.requests) == 1
    attempt, fallback = timeouts(events)
    assert (result.text, attempt) == ("in time", fallback)
    assert "'hangs' gave no complete reply within 0.5 s" in attempt


class Masking(Model):
    """A door that turns the cancellation of its call into an error of its own."""

    info = ModelInfo(id="masking/model", provider="masking")

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ModelConnectionError("connection lost") from None
        raise AssertionError


def test_its_own_timeout_is_seen_through_the_error_of_a_door() -> None:
    with pytest.raises(ModelTimeoutError):
        asyncio.run(Limited(Masking(), concurrency=1).complete(request(timeout=0.01)))


def test_errors_pass_through() -> None:
    limited = Limited(ScriptedModel(Say(error=ModelConnectionError("gone"))), concurrency=1)
    with pytest.raises(ModelConnectionError, match="gone"):
        asyncio.run(limited.complete(request()))


def test_a_concurrency_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="give 1 or more"):
        Limited(ScriptedModel("x"), concurrency=0)


class Clock:
    """The time of an event loop, which can be put forward: the process was stopped meanwhile."""

    def __init__(self) -> None:
        self.stopped = 0.0
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._loop.time = lambda: self._time() + self.stopped  # type: ignore[method-assign]


@pytest.mark.parametrize("seconds", [4.9, 5.3, 10.0, 60.0, 86_400.0])
def test_a_process_that_was_stopped_reads_what_has_arrived(seconds: float) -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()
        limited = Limited(ScriptedModel(gate), concurrency=8)
        tasks = [asyncio.ensure_future(limited.complete(request(str(n), timeout=5.0))) for n in range(8)]
        await turns()
        clock.stopped += seconds
        await turns()
        for door in gate.doors:
            door.set()
        assert [(await task).text for task in tasks] == list("01234567")

    asyncio.run(main())


def test_a_process_that_was_stopped_still_gives_up_in_time() -> None:
    async def main() -> None:
        clock = Clock()
        limited = Limited(ScriptedModel(Gate()), concurrency=1)
        task = asyncio.ensure_future(limited.complete(request(timeout=5.0)))
        await turns()
        for _ in range(3):
            clock.stopped += 60
            await turns()
        with pytest.raises(ModelTimeoutError, match="within 5 s"):
            await task

    asyncio.run(main())


def test_the_time_of_an_attempt_begins_once_its_model_is_ready() -> None:
    class Loading(ScriptedModel):
        async def ready(self) -> None:
            await asyncio.sleep(0.2)

    async def main() -> None:
        limited = Limited(Loading("fine"), concurrency=1)
        assert (await limited.complete(request(timeout=0.1))).text == "fine"

    asyncio.run(main())
