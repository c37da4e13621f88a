"""What every Model does, whatever is behind it: a suite to inherit from, with a `subject` fixture that makes one.

class TestMine(ModelConformance):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(lambda ask: MyModel(...))
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fusion.core.errors import BadResponseError
from fusion.core.types import Message, Request
from fusion.models.base import Model, check_usable

__all__ = ["Ask", "Collected", "ModelConformance", "SpokenModelConformance", "Subject", "request"]


@dataclass(frozen=True)
class Ask:
    """How the model under test is to behave: what it says, and how long it takes for it."""

    text: str = "one two three four five six"
    delay: float = 0.0


@dataclass(frozen=True)
class Subject:
    """Makes models under test.

    `finish` gives back what the models share, once they are closed.
    """

    make: Callable[[Ask], Model]
    finish: Callable[[], object] = field(default=lambda: None)


class Collected:
    """Deltas that are kept."""

    committed = False

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def add(self, text: str) -> None:
        self.pieces.append(text)

    def restart(self) -> None:
        self.pieces.clear()


def request(text: str = "Count from one to six.", **more: object) -> Request:
    return Request(messages=(Message(role="user", content=text),), **{"max_tokens": 200, "timeout": 60.0, **more})


class ModelConformance:
    """The suite. Needs a fixture `subject`, and closes what it has made."""

    @asynccontextmanager
    async def model(self, subject: Subject, ask: Ask = Ask()) -> AsyncIterator[Model]:
        model = subject.make(ask)
        try:
            yield model
        finally:
            await model.close()
            closing = subject.finish()
            if asyncio.iscoroutine(closing):
                await closing

    @pytest.mark.anyio
    async def test_a_reply_is_whole(self, subject: Subject) -> None:
        async with self.model(subject) as model:
            reply = await model.complete(request())
        assert reply.text
        assert reply.finish_reason in ("stop", "length")
        assert reply.asked == model.info.id
        assert reply.served
        assert reply.latency >= 0
        assert reply.cost is None or reply.cost >= 0

    @pytest.mark.anyio
    async def test_usage_says_where_it_comes_from(self, subject: Subject) -> None:
        async with self.model(subject) as model:
            usage = (await model.complete(request())).usage
        assert usage.source in ("measured", "estimated")
        assert min(usage.input, usage.output) > 0
        assert min(usage.cached_read, usage.cache_write, usage.reasoning) >= 0
        assert usage.cached_read + usage.cache_write <= usage.input

    @pytest.mark.anyio
    async def test_pieces_are_the_text(self, subject: Subject) -> None:
        pieces = Collected()
        async with self.model(subject) as model:
            reply = await model.complete(request(), pieces)
        assert pieces.pieces
        assert "".join(pieces.pieces) == reply.text
        assert reply.first_token is not None
        assert 0 <= reply.first_token <= reply.latency

    @pytest.mark.anyio
    async def test_a_limit_is_told(self, subject: Subject) -> None:
        async with self.model(subject, Ask(text="word " * 200)) as model:
            reply = await model.complete(request("Count from one to a hundred, in words.", max_tokens=8))
        assert reply.finish_reason == "length"
        assert reply.text

    @pytest.mark.anyio
    async def test_calls_at_once_do_not_mix(self, subject: Subject) -> None:
        async with self.model(subject) as model:
            replies = await asyncio.gather(*(model.complete(request(max_tokens=24)) for _ in range(8)))
        assert all(reply.text and reply.asked == model.info.id for reply in replies)

    @pytest.mark.anyio
    async def test_it_can_be_cancelled(self, subject: Subject) -> None:
        async with self.model(subject, Ask(delay=30.0)) as model:
            before = asyncio.all_tasks()
            call = asyncio.create_task(model.complete(request(max_tokens=2000)))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert asyncio.all_tasks() <= before
        async with self.model(subject) as model:
            assert (await model.complete(request(max_tokens=24))).text

    @pytest.mark.anyio
    async def test_closing_twice_is_closing(self, subject: Subject) -> None:
        async with self.model(subject) as model:
            await model.close()


class SpokenModelConformance(ModelConformance):
    """What holds of models, besides, that say exactly what they are asked to."""

    @pytest.mark.anyio
    async def test_a_reply_is_what_was_said(self, subject: Subject) -> None:
        async with self.model(subject) as model:
            assert (await model.complete(request())).text == Ask().text

    @pytest.mark.anyio
    async def test_an_empty_answer_is_found_out(self, subject: Subject) -> None:
        async with self.model(subject, Ask(text="")) as model:
            with pytest.raises(BadResponseError, match="empty"):
                check_usable(await model.complete(request()))
