"""The output fields of a stage in a run: feeds that fill and values that come."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusion.core.errors import FusionError
from fusion.core.types import Item
from fusion.pipeline.dataflow import Part
from fusion.stages.base import OutputField
from fusion.stages.feed import Feed


class Skipped(FusionError):  # noqa: N818 - nothing went wrong here
    """A stage has no values, because it was skipped; its readers are skipped too."""

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        self.reason = reason
        super().__init__(f"{stage} was skipped: {reason}")


class _Slot:
    """A value that will come, or the error instead of it."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.working_directory = asyncio.Event()

    @property
    def filled(self) -> bool:
        return self.working_directory.is_set()

    def fill(self, value: Any) -> None:
        if not self.filled:
            self.value = value
            self.working_directory.set()

    def fail(self, error: BaseException) -> None:
        if not self.filled:
            self.error = error
            self.working_directory.set()

    async def get(self) -> Any:
        await self.working_directory.wait()
        if self.error is not None:
            raise self.error
        return self.value


class Fields:
    """All output fields of one stage. Every one has a value, an end or an error once the stage is over."""

    def __init__(self, declared: Sequence[OutputField]) -> None:
        self.first = declared[0].name
        self._slots = {field.name: _Slot() for field in declared if not field.feed}
        self._feeds: dict[str, Feed[Item]] = {field.name: Feed() for field in declared if field.feed}

    def feed(self, name: str) -> Feed[Item]:
        return self._feeds[name]

    def give(self, name: str, value: Any) -> None:
        self._slots[name].fill(value)

    async def value(self, name: str) -> Any:
        """The field's value once it has come; of a feed its items in their order, once it has ended."""
        if name in self._feeds:
            return in_order(await self._feeds[name].whole())
        return await self._slots[name].get()

    def peek(self, name: str) -> Any:
        """The field's value as it is now, None where it has none."""
        slot = self._slots.get(name)
        return None if slot is None else slot.value

    async def over(self) -> None:
        """Wait until every field has its value or its end."""
        for name in (*self._slots, *self._feeds):
            await self.value(name)

    def items(self) -> tuple[Item, ...]:
        """The items of the first feed so far, in their order."""
        feed = next(iter(self._feeds.values()), None)
        return tuple(in_order(feed.so_far)) if feed is not None else ()

    def finish(self) -> None:
        """The stage is over: what it did not fill is None, what it fed has its end."""
        for slot in self._slots.values():
            slot.fill(None)
        for feed in self._feeds.values():
            feed.close()

    def skip(self, error: Skipped, default: Any) -> None:
        """The stage gives nothing: its first field takes the declared default, the rest is skipped with it."""
        if default is not None:
            self._take_default(default)
        for slot in self._slots.values():
            slot.fail(error)
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
    """The items in the order of their indexes, whatever order they were finished in."""
    return sorted(items, key=lambda item: item.index)


async def read(parts: Mapping[str, Part], fields: Mapping[str, Fields]) -> dict[str, Any]:
    """The values of other stages that an expression or a template names, once they have come."""
    values: dict[str, Any] = {}
    for name, part in parts.items():
        if part.bare:
            values[name] = await fields[name].value(fields[name].first)
        else:
            values[name] = {field: await fields[name].value(field) for field in part.fields}
    return values
