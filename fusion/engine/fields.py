"""Fields: the output fields of a stage in a run, values and feeds."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusion.core.errors import FusionError
from fusion.core.types import Item
from fusion.pipeline.dataflow import Part
from fusion.stages.base import OutputField
from fusion.stages.feed import Feed


class Skipped(FusionError):  # noqa: N818 - a signal, not a fault
    """A stage was skipped, so it has no values; its readers are skipped too."""

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        self.reason = reason
        super().__init__(f"{stage} was skipped: {reason}")


class _Slot:
    """One value of a stage, or the error in its place. Only the first of several counts."""

    def __init__(self) -> None:
        self.value: Any = None
        self._error: BaseException | None = None
        self._filled = asyncio.Event()

    def fill(self, value: Any, error: BaseException | None = None) -> None:
        if not self._filled.is_set():
            self.value, self._error = value, error
            self._filled.set()

    async def get(self) -> Any:
        await self._filled.wait()
        if self._error is not None:
            raise self._error
        return self.value


class Fields:
    """All output fields of one stage. Once the stage has ended, each has a value or an error."""

    def __init__(self, declared: Sequence[OutputField]) -> None:
        self.first = declared[0].name
        self._slots = {field.name: _Slot() for field in declared if not field.feed}
        self._feeds: dict[str, Feed[Item]] = {field.name: Feed() for field in declared if field.feed}

    def feed(self, name: str) -> Feed[Item]:
        return self._feeds[name]

    def give(self, name: str, value: Any) -> None:
        self._slots[name].fill(value)

    async def value(self, name: str) -> Any:
        """Return the value of a field, once it is filled; of a feed its ordered items, once it has ended."""
        if name in self._feeds:
            return in_order(await self._feeds[name].whole())
        return await self._slots[name].get()

    def peek(self, name: str) -> Any:
        """Return the current value of a field; None if it has none."""
        slot = self._slots.get(name)
        return None if slot is None else slot.value

    async def over(self) -> None:
        """Wait until every field is complete."""
        for name in (*self._slots, *self._feeds):
            await self.value(name)

    def items(self) -> tuple[Item, ...]:
        """Return the ordered items of the first feed so far."""
        feed = next(iter(self._feeds.values()), None)
        return tuple(in_order(feed.so_far)) if feed is not None else ()

    def finish(self) -> None:
        """End the stage: fill its other values with None and close its feeds."""
        for slot in self._slots.values():
            slot.fill(None)
        for feed in self._feeds.values():
            feed.close()

    def skip(self, error: Skipped, default: Any) -> None:
        """Skip the stage: its first field takes the default, if there is one; every other field raises `error`."""
        if default is not None:
            self._take_default(default)
        for slot in self._slots.values():
            slot.fill(None, error)
        for feed in self._feeds.values():
            feed.fail(error)

    def _take_default(self, default: Any) -> None:
        if self.first in self._slots:
            self._slots[self.first].fill(default)
            return
        feed = self._feeds[self.first]
        if not len(feed):
            for index, element in enumerate(default):
                feed.append(Item(index=index, source=element, value=element))
        feed.close()


def in_order(items: Iterable[Item]) -> list[Item]:
    """Return the items in the order of their indexes."""
    return sorted(items, key=lambda item: item.index)


async def read(parts: Mapping[str, Part], fields: Mapping[str, Fields]) -> dict[str, Any]:
    """Return the values of other stages that an expression or a template names, once they are complete."""
    values: dict[str, Any] = {}
    for name, part in parts.items():
        if part.bare:
            values[name] = await fields[name].value(fields[name].first)
        else:
            values[name] = {field: await fields[name].value(field) for field in part.fields}
    return values
