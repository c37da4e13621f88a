"""Fields: the output fields of a stage in a run, values and feeds."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusion.core.errors import FusionError, Waits
from fusion.core.result import Judged
from fusion.core.types import Failure, Item
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

    __slots__ = ("_error", "_filled", "_over", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self._error: BaseException | None = None
        self._filled = False
        self._over: asyncio.Event | None = None  # made for the first reader that has to wait

    def fill(self, value: Any, error: BaseException | None = None) -> None:
        if not self._filled:
            self.value, self._error, self._filled = value, error, True
            if self._over is not None:
                self._over.set()

    async def get(self) -> Any:
        if not self._filled:
            self._over = self._over or asyncio.Event()
            await self._over.wait()
        if self._error is not None:
            raise self._error
        return self.value


class Fields:
    """All output fields of one stage. Once the stage has ended, each has a value or an error."""

    __slots__ = ("_feeds", "_slots", "first", "verdicts")

    def __init__(self, declared: Sequence[OutputField]) -> None:
        self.first = declared[0].name
        self.verdicts: list[Judged] = []
        """Verdicts on results, in the order of their arrival."""
        self._slots: dict[str, _Slot] = {}
        self._feeds: dict[str, Feed[Item]] = {}
        for field in declared:
            if field.feed:
                self._feeds[field.name] = Feed()
            else:
                self._slots[field.name] = _Slot()

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
        for feed in self._feeds.values():
            return tuple(in_order(feed.so_far))
        return ()

    def judged(self) -> tuple[Judged, ...]:
        """Return one verdict on each result, in the order of the items: the first given, else the last."""
        found: dict[tuple[int, int], Judged] = {}
        for one in self.verdicts:
            place = -1 if one.item is None else one.item, one.tier or 0
            if place not in found or not found[place].given:
                found[place] = one
        return tuple(found[place] for place in sorted(found))

    def failures(self) -> list[tuple[int, Failure]]:
        """Return the failures in the first feed so far, each with the index of its item."""
        return [(item.index, item.failure) for item in self.items() if item.failure is not None]

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

    def hold(self, signal: Waits) -> None:
        """Let every reader of what the stage has not filled wait, as the stage does."""
        for slot in self._slots.values():
            slot.fill(None, signal)
        for feed in self._feeds.values():
            feed.fail(signal)

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
