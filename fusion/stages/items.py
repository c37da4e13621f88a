"""Item stages: n items in, n items out, each processed as soon as its needs are met."""

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

from pydantic import Field, model_validator

from fusion.core.budget import essential, optional
from fusion.core.errors import BudgetError, FusionError, ModelError, StageError, Waits, first_error
from fusion.core.types import Failure, Item
from fusion.stages.base import ExpressionUse, Following, ModelStage, OutputField, Prompted, Reads, Stage
from fusion.stages.context import StageContext
from fusion.stages.fields import Enough, enough
from fusion.stages.simulation import Estimate

if TYPE_CHECKING:
    from asyncio import Future, TaskGroup


_OUT_OF_TIME: Final = "out of time"
_GRACE: Final = 2.0
"""Seconds in which calls in flight may end after a fault that every further call would meet."""
T = TypeVar("T")


class Itemwise(Stage):
    """A stage that can process the items of a feed, many at once, in the order in which they become ready."""

    concurrency: int = Field(default=16, ge=1, le=10_000, description="Items that are processed at once.")
    min_ok: Enough | None = Field(
        default=None, description="Items that must be usable at the end, as a count or share; by default one, if any."
    )

    @property
    def ends_at_failure(self) -> bool:
        """True if a failed item ends the run."""
        return self.on_error == "fail"

    @abstractmethod
    def hand(self, ctx: StageContext) -> "Hand":
        """Return the object that processes the items of one run."""

    def unaffordable(self, ctx: StageContext, item: Item, error: BudgetError) -> Item:
        """Return the item as it ends if the budget is exhausted and the run finishes."""
        return item.failed(error.as_failure())

    async def each(self, ctx: StageContext, over: str) -> None:
        """Process the items of an expression, and fill `items`."""
        work = _Work(self, ctx, over)
        try:
            async with ctx.time_limit():
                await work.all()
        except TimeoutError:
            await work.out_of_time()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        done = ctx.outputs.feed("items").so_far
        check_enough(done, min(1, len(done)) if self.min_ok is None else self.min_ok)


class OneByOne(Itemwise, Prompted):
    """A stage that processes items one by one, with a prompt."""


class ItemStage(OneByOne, ModelStage, Following):
    """A stage that processes items one by one."""

    on_error: Literal["fail", "skip", "escalate"] = Field(  # type: ignore[assignment]
        default="skip",
        description="Effect of a failed item: end the run, stay as a failed item, or call `escalate_to`.",
    )

    keeps_time: ClassVar[bool] = True
    estimate: ClassVar[Estimate] = Estimate(items=lambda stage, items: items)
    own_reads: ClassVar[Reads] = "item"
    choice_offers: ClassVar[frozenset[str]] = frozenset({"item"})

    @abstractmethod
    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        """Return the item with its result."""

    def hand(self, ctx: StageContext) -> "Hand":
        return _OwnHand(self, ctx)

    async def run(self, ctx: StageContext) -> None:
        await self.each(ctx, self.over)


class OnceOrEach(Itemwise):
    """A stage that works once or, with `over`, once for each item. Its field is then `items`."""

    on_error: Literal["fail", "skip"] | None = Field(  # type: ignore[assignment]
        default=None,
        description="Failure: end the run, or skip the stage; with `over` that of an item, skipped by default.",
    )
    over: str | None = Field(
        default=None, description="Items to answer one by one: a bare path such as `plan` flows item by item."
    )

    item_outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True),)

    @model_validator(mode="after")
    def _options_of_items(self) -> "OnceOrEach":
        given = [key for key in ("concurrency", "min_ok") if key in self.model_fields_set]
        if self.over is None and (getattr(self, "reads", None) == "item" or given):
            raise ValueError(f"`{given[0] if given else 'reads: item'}` has an effect with `over` only")
        return self

    @property
    def output_fields(self) -> tuple[OutputField, ...]:
        return self.outputs if self.over is None else self.item_outputs

    @property
    def follows(self) -> bool:
        return self.over is not None

    @property
    def ends_itself(self) -> bool:
        return self.over is not None

    @property
    def item_offers(self) -> frozenset[str]:
        return frozenset() if self.over is None else frozenset({"item", "needed"})

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self.over is not None:
            yield ExpressionUse("over", self.over, flows=True, worked_on=True)

    @abstractmethod
    async def once(self, ctx: StageContext) -> None:
        """Work once, and fill the output fields."""

    async def run(self, ctx: StageContext) -> None:
        if self.over is None:
            await self.once(ctx)
            return
        await self.each(ctx, self.over)
        if ways := Counter(item.way for item in ctx.outputs.feed("items").so_far if item.way is not None):
            ctx.events.decided(", ".join(f"{way}: {ways[way]:,}" for way in sorted(ways)), "items by their way")


class OneOrMany(OnceOrEach, OneByOne):
    """A stage that answers once or, with `over`, once for each item, and states the cost of each."""

    states_costs: ClassVar[bool] = True
    item_prompt: ClassVar[str]
    """The shipped template for one item, used if `prompt` is not set."""

    @property
    def template(self) -> str:
        return super().template if self.over is None else self.prompt or self.item_prompt

    @property
    def usual_reads(self) -> Reads:
        return self.own_reads if self.over is None else "item"


class Hand:
    """Hand: processes the items of one run of a stage, each by itself. It learns of each when it arrives."""

    def came(self, item: Item, variables: dict[str, Any], tasks: "TaskGroup") -> None:
        """Note an item that has arrived; it is processed once its needs are done."""

    def all_came(self) -> None:
        """Note that no more items will arrive."""

    def hold(self, signal: Waits) -> None:
        """Note that the items that are missing wait for a person: what needs them waits, too."""

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        """Return the item with its result."""
        raise NotImplementedError


class _OwnHand(Hand):
    """Processes items as their stage does."""

    def __init__(self, stage: ItemStage, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        return self._stage.work(self._ctx, item, needed, variables)


class _Work:
    """One run of an item stage: its open, ready and finished items.

    An item is ready once its needs are done. At most `concurrency` workers take ready items in their order. A worker
    is a task that ends when no item is ready; the next item to become ready starts another.
    """

    def __init__(self, stage: Itemwise, ctx: StageContext, over: str) -> None:
        from asyncio import Event, Lock, TaskGroup  # here: checking and drawing stages needs no event loop

        self._stage = stage
        self._over = over
        self._ctx = ctx
        self._hand = stage.hand(ctx)
        self._reads_parts = isinstance(stage, Prompted) and stage.reading == "item"
        self._group = TaskGroup()
        self._last_resort = Lock()  # items beyond the budget, without which the stage has too few
        self._workers = 0
        self._away = 0  # workers whose call is in a batch: others work meanwhile
        self._returning: deque[Future[None]] = deque()
        self._variables: dict[str, Any] = {}
        self._open: dict[int, Item] = {}
        self._ready: deque[Item] = deque()
        self._done: dict[int, Item] = {}
        self._missing: dict[int, int] = {}  # of an item: its needs that are not done yet
        self._waiting: dict[int, list[Item]] = {}  # of an item: those that need it
        self._roots: dict[int, Item] = {}  # of an item that failed with another one: the first of them to fail
        self._broken = False  # an item failed in a way that ends the stage: no other one begins
        self._fault: ModelError | None = None  # every further call would meet it too
        self._idle = Event()
        self._waits: Waits | None = None  # an item waits for a person; the others are worked

    async def all(self) -> None:
        self._variables = await self._ctx.inputs.values()
        async with self._group:
            try:
                await self._take_all()
            except Waits as signal:
                self._waits = signal
                self._hand.hold(signal)
        if self._waits is not None:
            raise self._waits
        self._fail_open(StageError("it needs itself, by way of what it needs").as_failure())

    async def _take_all(self) -> None:
        async for item in self._ctx.inputs.follow(self._over):
            self._open[item.index] = item
            self._hand.came(item, self._variables, self._group)
            self._take(item)
        self._hand.all_came()
        self._nothing_more_comes()

    async def out_of_time(self) -> None:
        """Fail every unfinished item, also those that arrive later; finished ones are kept."""
        message = f"not done within the stage's timeout of {self._stage.timeout:g} s"
        for index in self._open:
            self._ctx.journal.keep(_OUT_OF_TIME, message, item=index)
        self._fail_open(StageError(message).as_failure())
        async for item in self._ctx.inputs.follow(self._over):
            if item.index not in self._done:
                self._ctx.journal.keep(_OUT_OF_TIME, message, item=item.index)
                self._settle(item if item.failure is not None else item.failed(StageError(message).as_failure()))

    def _take(self, item: Item) -> None:
        """Make an item that has arrived ready, or let it wait for its needs."""
        missing = {index for index in item.needs if index not in self._done}
        out_of_time = self._ctx.journal.kept(_OUT_OF_TIME, item=item.index)
        if item.failure is not None:
            self._settle(item)
        elif self._idle.is_set() and self._fault is not None:
            self._settle(item.failed(self._fault.as_failure()))
        elif out_of_time is not None:
            self._settle(item.failed(StageError(out_of_time).as_failure()))
        elif not missing:
            self._begin(item)
        else:
            self._missing[item.index] = len(missing)
            for index in missing:
                self._waiting.setdefault(index, []).append(item)

    def _begin(self, item: Item) -> None:
        self._ready.append(item)
        self._start_worker()

    def _start_worker(self) -> None:
        if self._ready and not self._broken and self._workers < self._stage.concurrency:
            self._workers += 1
            self._group.create_task(self._worker())

    def leave(self) -> None:
        """Leave the place of an item whose call is in a batch to the next one."""
        self._workers -= 1
        self._away += 1
        self._start_worker()

    def enter(self) -> None:
        """Take a place again at once."""
        self._workers += 1
        self._away -= 1

    async def back(self) -> None:
        """Take a place again once one is free; those that come back go before new items."""
        from asyncio import get_running_loop

        while self._workers >= self._stage.concurrency:
            turn = get_running_loop().create_future()
            self._returning.append(turn)
            await turn
        self.enter()

    async def _worker(self) -> None:
        from asyncio import sleep

        from fusion.models.attempt import place

        while self._ready and not self._broken and not self._returning:
            place.set(_Place(self))
            worked = await self._worked(self._ready.popleft())
            if worked is not None:
                self._settle(worked)
            await sleep(0)  # lets other tasks run, also if a model answers at once
        self._workers -= 1
        if self._returning:
            turn = self._returning.popleft()
            if not turn.done():
                turn.set_result(None)
        else:
            self._start_worker()
        if self._broken and not (self._workers or self._away):
            self._idle.set()

    async def _worked(self, item: Item) -> Item | None:
        """Return the item with its result, or failed; None if it waits, or met a fault that ends the stage."""
        needed = [self._done[index] for index in item.needs]
        for need in needed:
            if need.failure is not None:
                return self._failed_with(item, need)
        try:
            return await self._done_by_hand(item, needed)
        except Waits as signal:
            self._waits = signal
            return None
        except BudgetError:
            self._broken = True
            raise
        except FusionError as error:
            self._ctx.journal.set_aside(error)
            if self._stage.ends_at_failure:
                self._broken = True
                raise
            if isinstance(error, ModelError) and error.stops:
                self._halt(error)
                return None
            return item.failed(error.as_failure())

    def _halt(self, fault: ModelError) -> None:
        """Begin no other item, and end the stage once the calls in flight are back."""
        self._broken = True
        if self._fault is None:
            self._fault = fault
            self._group.create_task(self._end())

    async def _end(self) -> None:
        from asyncio import timeout

        assert self._fault is not None
        if self._stage.min_ok is not None and self._enough():
            await self._idle.wait()
        else:
            with suppress(TimeoutError):
                async with timeout(_GRACE):
                    await self._idle.wait()
        if self._stage.min_ok is None or not self._enough():
            raise self._fault
        self._idle.set()
        self._fail_open(self._fault.as_failure())

    def _of_item(self, item: Item, needed: list[Item]) -> dict[str, Any]:
        """Return the variables of one item."""
        own = {"item": item, "needed": needed}
        material = self._ctx.inputs.material(item, needed) if self._reads_parts else None
        return {**own, "material": material} if material else own

    async def _done_by_hand(self, item: Item, needed: list[Item]) -> Item:
        """Return the worked item. In a run that finishes, one beyond the budget ends as the stage says."""
        variables = {**self._variables, **self._of_item(item, needed)}
        if not self._ctx.finishing:
            return await self._hand.work(item, needed, variables)
        try:
            with optional():
                return await self._hand.work(item, needed, variables)
        except BudgetError as error:
            refusal, ended = error, self._stage.unaffordable(self._ctx, item, error)
        async with self._last_resort:
            if ended.ok or not essential.get() or self._enough():
                return ended
            try:
                worked = await self._hand.work(item, needed, variables)
            except BudgetError:
                return ended
        self._ctx.models.afforded(refusal)
        return worked

    def _enough(self) -> bool:
        """Return True once so many items are usable as the stage needs."""
        usable = sum(item.ok for item in self._done.values())
        known = len(self._done) + len(self._open)
        return usable >= max(self._ctx.wanted(known), enough(self._stage.min_ok or 0, known))

    def _failed_with(self, item: Item, need: Item) -> Item:
        """Return the item, failed for the first failure behind that of `need`."""
        root = self._roots[item.index] = self._roots.get(need.index, need)
        assert root.failure is not None
        message = f"item {root.index + 1}, which this one needs, failed: {root.failure.message}"
        return item.failed(Failure(reason=root.failure.reason, message=message))

    def _settle(self, item: Item) -> None:
        """Hand a finished item on."""
        self._open.pop(item.index, None)
        self._ctx.outputs.settle(item)
        self._release(item)

    def _release(self, item: Item) -> None:
        """Make those items ready that waited for this one only."""
        self._done.setdefault(item.index, item)
        for waiting in self._waiting.pop(item.index, ()):
            self._missing[waiting.index] -= 1
            if not self._missing[waiting.index]:
                self._begin(waiting)

    def _nothing_more_comes(self) -> None:
        """Fail the needs that are not among the items of this stage."""
        failure = StageError("it is not among the items of this stage").as_failure()
        for index in [index for index in self._waiting if index not in self._open]:
            self._release(Item(index=index, failure=failure))

    def _fail_open(self, failure: Failure) -> None:
        self._waiting.clear()
        for item in list(self._open.values()):
            self._settle(item.failed(failure))


class _Place:
    """The place of one item, which it leaves while all that it waits for is in batches."""

    __slots__ = ("_away", "_work")

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._away = 0

    def leave(self) -> None:
        self._away += 1
        if self._away == 1:
            self._work.leave()

    def enter(self) -> None:
        self._away -= 1
        if not self._away:
            self._work.enter()

    async def back(self) -> None:
        self._away -= 1
        if not self._away:
            await self._work.back()


def check_enough(items: Sequence[Item], wanted: int | str, *, noun: str = "items") -> None:
    """Raise StageError unless so many items are usable, or such a share of them."""
    usable = sum(item.ok for item in items)
    if usable < enough(wanted, len(items)):
        first = next((item.failure for item in items if item.failure is not None), None)
        why = f"; the first: {first.message}" if first else ""
        raise StageError(f"{usable} of {len(items)} {noun} are usable, {wanted} are needed{why}")


async def gathered(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of coroutines that run at once; the first error cancels the others and is raised.

    One that waits for a person cancels none: Waits is raised once the others have ended.
    """
    from asyncio import TaskGroup

    try:
        async with TaskGroup() as group:
            tasks = [group.create_task(_or_signal(one)) for one in work]
    except BaseExceptionGroup as error:
        raise first_error(error) from error
    results: list[T] = []
    for task in tasks:
        if isinstance(found := task.result(), Waits):
            raise found
        results.append(found)
    return results


async def _or_signal(work: Coroutine[Any, Any, T]) -> T | Waits:
    try:
        return await work
    except Waits as signal:
        return signal
