"""The shape that all item stages share: n items in, n items out, each worked on as soon as it can be."""

import asyncio
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusion.errors import BudgetError, FusionError, ModelError, StageError
from fusion.feed import Feed
from fusion.stages.base import ExpressionUse, ModelStage, StageContext
from fusion.types import Failure, Item

__all__ = ["ItemStage"]


class ItemStage(ModelStage):
    """A stage that works on the items of a feed, many at once, in whatever order they can be done."""

    on_error: Literal["fail", "skip", "escalate"] = Field(
        default="skip", description="What a failed item does: end the run, stay as a failed item, ask `escalate_to`."
    )
    over: str = Field(description="The items: a bare path such as `plan` flows item by item.")
    concurrency: int = Field(default=16, ge=1, le=10_000, description="How many items are worked on at once.")
    min_ok: int | None = Field(
        default=None, ge=0, description="How many items must be usable at the end; by default one, if there are any."
    )

    keeps_time: ClassVar[bool] = True
    choice_offers: ClassVar[frozenset[str]] = frozenset({"item"})

    @abstractmethod
    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        """What this stage makes of one item."""

    def survives(self, error: FusionError, *, finishing: bool) -> bool:
        """What `on_error` says is said of items; a stage with too few usable ones has failed."""
        return False

    def unaffordable(self, ctx: StageContext, item: Item, error: BudgetError) -> Item:
        """What becomes of an item when the budget is used up and the run is to finish."""
        return item.failed(error.as_failure())

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("over", self.over, flows=True)

    async def run(self, ctx: StageContext) -> None:
        work = _Work(self, ctx)
        try:
            async with ctx.time_limit():
                await work.all()
        except TimeoutError:
            work.out_of_time()
        except BaseExceptionGroup as group:
            raise _first(group) from group
        self._check_enough(ctx.feed("items"))

    def _check_enough(self, items: Feed[Item]) -> None:
        done = items.so_far
        usable = sum(item.ok for item in done)
        wanted = min(1, len(done)) if self.min_ok is None else self.min_ok
        if usable < wanted:
            failed = [item for item in done if item.failure is not None]
            first = failed[0].failure if failed else None
            why = f"; the first: {first.message}" if first else ""
            raise StageError(f"{usable} of {len(done)} items are usable, {wanted} are needed{why}")


class _Work:
    """One run of an item stage: who waits for whom, and what is done."""

    def __init__(self, stage: ItemStage, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx
        self._slots = asyncio.Semaphore(stage.concurrency)
        self._results: dict[int, asyncio.Future[Item]] = {}
        self._open: dict[int, Item] = {}
        self._broken = False  # an item failed in a way that ends the stage: no other one is begun

    async def all(self) -> None:
        variables = await self._ctx.variables()
        async with asyncio.TaskGroup() as group:
            async for item in self._ctx.follow(self._stage.over):
                self._open[item.index] = item
                group.create_task(self._one(item, variables))
            self._nothing_more_comes()

    def out_of_time(self) -> None:
        """Every item that is not done fails; what is done stays."""
        failure = Failure(
            reason="StageError", message=f"not done within the stage's timeout of {self._stage.timeout:g} s"
        )
        for item in list(self._open.values()):
            self._done(item.failed(failure))

    async def _one(self, item: Item, variables: dict[str, Any]) -> None:
        if item.failure is not None:
            self._done(item)
            return
        needed = [await self._result(index) for index in item.needs]
        broken = next((n for n in needed if n.failure is not None), None)
        if broken is not None and broken.failure is not None:
            message = f"item {broken.index + 1}, which this one needs, failed: {broken.failure.message}"
            self._done(item.failed(Failure(reason=broken.failure.reason, message=message)))
            return
        async with self._slots:
            if not self._broken:
                self._done(await self._attempt(item, needed, variables))

    async def _attempt(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        try:
            return await self._stage.work(self._ctx, item, needed, {**variables, "item": item, "needed": needed})
        except BudgetError as error:
            if not self._ctx.finishing:
                self._broken = True
                raise
            return self._stage.unaffordable(self._ctx, item, error)
        except FusionError as error:
            if self._stage.on_error == "fail" or (isinstance(error, ModelError) and error.stops):
                self._broken = True
                raise
            return item.failed(error.as_failure())

    def _result(self, index: int) -> asyncio.Future[Item]:
        if index not in self._results:
            self._results[index] = asyncio.get_running_loop().create_future()
        return self._results[index]

    def _done(self, item: Item) -> None:
        self._open.pop(item.index, None)
        self._ctx.feed("items").append(item)
        result = self._result(item.index)
        if not result.done():
            result.set_result(item)
        self._ctx.finished(item)

    def _nothing_more_comes(self) -> None:
        """Whoever waits for an item that is not among these waits no longer."""
        for index, result in self._results.items():
            if index not in self._open and not result.done():
                failure = Failure(reason="StageError", message="it is not among the items of this stage")
                result.set_result(Item(index=index, failure=failure))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of errors began with."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
