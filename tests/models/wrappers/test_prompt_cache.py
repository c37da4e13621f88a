"""Primed: of calls with one beginning, one fills the provider's cache, and the others are sent after it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from fusion import ModelInfo, ScriptedModel
from fusion.core.errors import ModelConnectionError, ModelError
from fusion.core.types import Message, Request
from fusion.models.wrappers.prompt_cache import Primed, is_marked, least_tokens, marked_once

pytestmark = pytest.mark.anyio


def request(key: str | None = "k") -> Request:
    return Request(messages=(Message(role="user", content="x"),), max_tokens=10, cache_key=key)


class Door:
    """A script whose first answer comes when it is let through."""

    def __init__(self, first: str | Exception = "yes") -> None:
        self.open = asyncio.Event()
        self._first: str | Exception | None = first

    async def __call__(self, asked: Request) -> str | Exception:
        first, self._first = self._first, None
        if first is None:
            return "yes"
        await self.open.wait()
        return first


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def begun(primed: Primed, count: int = 4, key: str | None = "k") -> list[asyncio.Task[object]]:
    tasks: list[asyncio.Task[object]] = [asyncio.ensure_future(primed.complete(request(key))) for _ in range(count)]
    await turns()
    return tasks


async def test_the_others_are_sent_once_the_first_has_its_answer() -> None:
    door = Door()
    model = ScriptedModel(door)
    tasks = await begun(Primed(model))
    assert len(model.requests) == 1
    door.open.set()
    await asyncio.gather(*tasks)
    assert len(model.requests) == 4


@pytest.mark.parametrize("end", ["a failure", "a cancellation", "a long answer"])
async def test_nothing_that_the_first_meets_holds_the_others_for_long(end: str) -> None:
    door = Door(ModelConnectionError("gone") if end == "a failure" else "yes")
    model = ScriptedModel(door)
    first, *others = await begun(Primed(model, patience=0.02 if end == "a long answer" else 60))
    if end == "a failure":
        door.open.set()
    elif end == "a cancellation":
        first.cancel()
    await asyncio.gather(*others)
    assert len(model.requests) == 4
    door.open.set()
    with suppress(ModelError, asyncio.CancelledError):
        await first


@pytest.mark.parametrize(("after", "sent"), [(1.0, 4), (269.0, 4), (271.0, 1), (10_000.0, 1)])
async def test_a_cache_is_filled_again_once_it_has_expired(after: float, sent: int) -> None:
    now = [0.0]
    script: list[Callable[[Request], object]] = [lambda asked: "yes"]
    model = ScriptedModel(lambda asked: script[0](asked))  # type: ignore[arg-type,return-value]
    primed = Primed(model, clock=lambda: now[0])
    await primed.complete(request())
    now[0], door = after, Door()
    script[0] = door
    tasks = await begun(primed)
    assert len(model.requests) == 1 + sent
    door.open.set()
    await asyncio.gather(*tasks)


async def test_calls_without_a_key_and_those_of_other_beginnings_do_not_wait() -> None:
    model = ScriptedModel(Door())
    primed = Primed(model)
    tasks = [*await begun(primed, 1), *await begun(primed, 3, None), *await begun(primed, 1, "other")]
    assert len(model.requests) == 5
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(
    ("model", "least", "marked"),
    [
        ("anthropic/claude-opus-5", 512, True),
        ("openrouter/anthropic/claude-opus-4.5", 4096, True),
        ("bedrock/anthropic.claude-haiku-4-5-v1:0", 4096, True),
        ("vertex_ai/claude-3-5-haiku@20241022", 2048, True),
        ("anthropic/claude-sonnet-5", 1024, True),
        ("openai/gpt-5.6", 1024, False),
    ],
)
async def test_the_minimum_is_that_of_the_model(model: str, least: int, marked: bool) -> None:
    from fusion.models.profiles import family_of

    info = ModelInfo(id=model, provider=model.partition("/")[0], family=family_of(model))
    assert least_tokens(info) == least
    assert is_marked(info) == marked


@pytest.mark.parametrize(
    ("stable", "kept"),
    [
        ([(9000, 9000), (0, 10)], [9000, 0]),
        ([(9000, 9000), (50, 100)], [9000, 0]),
        ([(40, 40), (9000, 9500)], [0, 9000]),
        ([(40, 40), (9000, 9000), (300, 400)], [0, 0, 300]),
        ([(9000, 9500), (9000, 9000)], [9000, 0]),
    ],
)
async def test_one_mark_is_set_where_the_beginning_ends(stable: list[tuple[int, int]], kept: list[int]) -> None:
    messages = [Message(role="user", content="x" * size, stable=same) for same, size in stable]
    assert [message.stable for message in marked_once(messages)] == kept
