"""A double for each test, and the door of a model to it."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from fusion import Settings
from fusion.core.types import Message, Request
from fusion.models.batches.base import BatchDoor, Ended, Entry
from fusion.models.gateway import Gateway
from tests.models.batches.double import Double

Open = Callable[[str], BatchDoor]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with Double() as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
async def opened(double: Double) -> AsyncIterator[Open]:
    """Opens the batch API of a model, at the double."""
    gateway = Gateway(Settings.from_environment())

    def door(model_id: str) -> BatchDoor:
        found = gateway.batch_door(model_id)
        assert found is not None, gateway.no_batches(model_id)
        return found

    yield door
    await gateway.close()


def request(text: str, **more: object) -> Request:
    return Request(messages=(Message(role="user", content=text),), **{"max_tokens": 200, **more})


def entries(count: int, text: str = "row {}") -> list[Entry]:
    return [Entry(f"c{number}", request(text.format(number))) for number in range(count)]


async def read(door: BatchDoor, batch_id: str, rows: Sequence[Entry]) -> dict[str, Ended]:
    """Return the results of a batch by custom id, each of which came once."""
    found: dict[str, Ended] = {}
    async for end in door.results(batch_id, {row.custom_id: row.request for row in rows}):
        assert end.custom_id not in found
        assert (end.reply is None) != (end.error is None)
        found[end.custom_id] = end
    return found
