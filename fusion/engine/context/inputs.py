"""Inputs of a stage, read from the fields of earlier ones, and its messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

from fusion.core.bounded import clock
from fusion.core.types import Attached, Item, JsonSchema, Message, as_text
from fusion.engine.context.parts import Scope
from fusion.engine.fields import read
from fusion.pipeline.dataflow import MATERIAL
from fusion.pipeline.material import given_sections, listed
from fusion.prompts.template import Fixed
from fusion.stages.base import Stage
from fusion.stages.context import (
    Producer,
    StageInputs,
    Variables,
)
from fusion.stages.text.reading import Reading
from fusion.stages.text.sections import Sections

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext

_AT_ONCE = 50
"""Items handed out in one callback of the event loop."""


class RunInputs(StageInputs):
    """Inputs read from the fields of earlier stages."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx
        self._run = ctx.run
        self._fixed: Fixed | None = None

    async def values(self) -> dict[str, Any]:
        scope = self._ctx.scope
        if scope is not None:
            self._fixed = self._fixed or self._run.fixed.get(self._ctx.path)
            self._ctx.begin()
        if self._fixed is None:
            wiring = self._ctx.wiring
            values = await read(wiring.waits, self._run.fields)
            if not wiring.flows:  # a stage that follows others begins with their first item
                self._ctx.begin()
            own = {**self._run.variables, MATERIAL: self._material()}
            whole = (self._run.material.whole,) if wiring.shows_material else ()
            marks = self._ctx.stage.follows or scope is not None
            self._fixed = Fixed({**own, **values}, whole, marks=marks)
        if scope is None:
            return dict(self._fixed.variables)
        self._run.fixed[self._ctx.path] = self._fixed
        return {**self._fixed.variables, **self._of_item(scope)}

    def _of_item(self, scope: Scope) -> dict[str, Any]:
        """Return the variables of the item at work; its own material unless the stage says what it reads."""
        given = dict(scope.variables)
        if getattr(self._ctx.stage, "reads", None) is not None:
            given.pop(MATERIAL, None)
        return given

    async def follow(self, expression: str) -> AsyncIterator[Item]:
        flow = self._ctx.wiring.flows.get(expression)
        grow = self._ctx.outputs.grow
        if flow is not None:
            known = 0
            async for item in self._run.fields[flow.stage].feed(flow.field):
                self._ctx.begin()
                known += 1
                grow(known)
                yield item
            self._ctx.begin()
            grow(known, final=True)
            return
        value = await self.value_of(expression, await self.values())
        elements = listed(f"over: {expression}", value, "name a list or a stage's items")
        grow(len(elements), final=True)
        for index, element in enumerate(elements):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)  # let others work between the items of a long list
            yield element if isinstance(element, Item) else Item(index=index, source=element, value=element)

    def evaluate(self, expression: str, values: Variables) -> Any:
        return self._run.spec.prompts.expression(expression).evaluate(values)

    async def value_of(self, expression: str, values: Variables) -> Any:
        return await clock.run(partial(self.evaluate, expression, values))

    def render(self, template: str, values: Variables) -> tuple[Message, ...]:
        work = partial(self._run.spec.prompts.template(template).render, values, self._fixed)
        if clock.current() is not None:
            return work()
        try:
            return clock.lightly(work)
        except clock.OverrunError:
            return LateMessages(work)

    async def text(self, template: str, values: Variables) -> str:
        return await clock.run(partial(self._run.spec.prompts.template(template).render_text, values))

    def schema(self, key: str) -> JsonSchema | None:
        return self._ctx.wiring.schemas.get(key)

    def _material(self) -> Attached:
        """Return the material of the whole stage: that from around its body, all, the outline, or nothing."""
        if MATERIAL in self._run.around and getattr(self._ctx.stage, "reads", None) is None:
            return self._run.around[MATERIAL]  # type: ignore[no-any-return]  # that of an item
        reading = getattr(self._ctx.stage, "reading", "none")
        if reading in ("item", "none") or not self._ctx.wiring.shows_material:
            return Attached()
        return self._run.material.outline if reading == "outline" else self._run.material.whole

    def material(self, item: Item, needed: Sequence[Item] = ()) -> Attached:
        if not self._ctx.wiring.shows_material or self._plan is None:
            return Attached()
        reading = self.reading(item, needed)
        return self._run.material.whole if reading is None else reading.material()

    def reading(self, item: Item, needed: Sequence[Item] = ()) -> Reading | None:
        sections = self._planned_sections() if self._ctx.wiring.shows_material else None
        if sections is None or not isinstance(item.source, Mapping):
            return None
        if self._run.material.widest:
            return Reading(sections, sections.largest)
        numbers = [number for number in item.source.get("sections", ()) if 1 <= number <= len(sections)]
        return Reading(sections, tuple(numbers or sections.named_in(as_text(one.value) for one in needed)))

    def sections(self, parts: Sequence[Any] | None = None) -> tuple[Sections, bool]:
        source = getattr(self._ctx.stage, "sections", "") or ""
        found = self._run.material.sections if parts is None else given_sections(source, parts)
        used = found.pay if parts is None and not _always(self._ctx.stage) else len(found) > 0
        self._run.material.plans[self._ctx.path] = found if used else None
        return found, used

    @cached_property
    def _plan(self) -> str | None:
        """The plan from which the items of this stage come."""
        origin = self._run.spec.loaded.dataflow.origin(self._ctx.path)
        return origin if origin is not None and self._run.spec.pipeline.stages[origin].plans else None

    def _planned_sections(self) -> Sections | None:
        """Return the sections of the plan; of one whose items were given to a preview, those that it would use."""
        if self._plan is None:
            return None
        plans, stage = self._run.material.plans, self._run.spec.pipeline.stages[self._plan]
        if self._plan not in plans:
            cut = getattr(stage, "reading", "") == "outline" and getattr(stage, "sections", None) is None
            found = self._run.material.sections
            plans[self._plan] = found if cut and (found.pay or (_always(stage) and len(found))) else None
        return plans[self._plan]

    @property
    def combines(self) -> bool:
        return self._run.spec.loaded.dataflow.combines(self._ctx.path)

    def planned(self, field: str) -> Any:
        return None if self._plan is None else self._run.fields[self._plan].peek(field)

    def producer(self, expression: str) -> Producer:
        flow = self._ctx.wiring.flows.get(expression)
        while flow is not None:
            wiring = self._run.wirings[flow.stage]
            if not wiring.passes_on:
                limit = self._run.spec.max_tokens(self._run.spec.pipeline.stages[flow.stage], None)
                return Producer(wiring.schemas.get("schema"), limit)
            flow = next(iter(wiring.flows.values()), None)
        return Producer()

    def author(self, expression: str) -> str:
        conclusion = self._run.conclusions.get(self._run.prefix + expression.strip().partition(".")[0])
        return "" if conclusion is None else conclusion.by


def _always(stage: Stage) -> bool:
    """Return True for a plan whose subtasks are sections, however short the material is."""
    return getattr(stage, "each", "") == "section"


class LateMessages(tuple[Message, ...]):
    """Messages that take long to render: in a thread before they are sent, or at once where they are looked at."""

    _work: Callable[[], tuple[Message, ...]]

    def __new__(cls, work: Callable[[], tuple[Message, ...]]) -> "LateMessages":
        made = super().__new__(cls)
        made._work = lru_cache(maxsize=1)(work)
        return made

    async def rendered(self) -> tuple[Message, ...]:
        return await clock.run(self._work, size=clock.LIGHT_SIZE + 1)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._work())

    def __len__(self) -> int:
        return len(self._work())

    def __getitem__(self, at: Any) -> Any:
        return self._work()[at]
