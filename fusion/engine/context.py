"""A stage's way to the world, as the engine makes it: fields, expressions, prompts and calls."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, Protocol

from fusion.core.bounded import clock
from fusion.core.errors import BudgetError, FusionError
from fusion.core.events import (
    AttemptCharged,
    Decided,
    Delta,
    EventBase,
    ItemFinished,
    Noted,
    Restarted,
    Sink,
    StageFinished,
    StageGrew,
    StageStarted,
    to_both,
)
from fusion.core.params import merged
from fusion.core.types import Asked, Attached, CallKey, Deltas, Item, JsonSchema, Message, as_text
from fusion.engine.calls import Caller, Terms
from fusion.engine.fields import Fields, read
from fusion.engine.receipt import ItemCosts, spending, spent
from fusion.engine.run_spec import RunSpec
from fusion.models.base import Model, ModelInfo
from fusion.models.batches.window.clock import Limit, RunClock
from fusion.models.gateway import CallRecorder
from fusion.pipeline.dataflow import MATERIAL, Wiring
from fusion.pipeline.material import RunMaterial, given_sections, listed
from fusion.prompts.template import Fixed
from fusion.stages.base import ModelStage, Stage
from fusion.stages.context import (
    Answer,
    Ask,
    Outcome,
    Producer,
    Room,
    StageContext,
    StageEvents,
    StageInputs,
    StageJournal,
    StageModels,
    StageOutputs,
    Variables,
)
from fusion.stages.feed import Feed
from fusion.stages.fields import enough
from fusion.stages.text.reading import Reading
from fusion.stages.text.sections import Sections

OF_STAGES = (StageStarted, StageGrew, StageFinished, ItemFinished)
"""Events of stages that are not sent for each item that an inner stage works on."""
OF_ITEM = ("item", "needed", MATERIAL)
"""Variables of an item that its inner stages read."""
_DEADLINE = "deadline of batches"
_AT_ONCE = 50
"""Items handed out in one callback of the event loop."""


class Inner(Protocol):
    """Runs the inner stages of a stage, and the pipelines nested in it."""

    async def stage(self, path: str, scope: "Scope | None" = None) -> Outcome: ...

    async def pipeline(self, path: str, inputs: Mapping[str, Any], scope: "Scope | None" = None) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """The item that an inner stage works on: its index, and its variables for templates and expressions."""

    index: int
    variables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunParts:
    """Parts that the contexts of one run share."""

    run_id: str
    spec: RunSpec
    sink: Sink
    fields: Mapping[str, Fields]
    streamed: frozenset[str]
    prefix: str = ""
    """Prefix of the paths of a nested pipeline's stages: the path of the stage that runs it, and "/"."""
    recorder: CallRecorder = field(default_factory=CallRecorder)
    seed: str = ""
    """Seed of every shuffle."""
    clock: RunClock = field(default_factory=RunClock)
    material: RunMaterial = field(default_factory=lambda: RunMaterial(()))
    budget_stops: list[BudgetError] = field(default_factory=list)
    unusable: list[CallKey] = field(default_factory=list)
    """Calls whose replies no stage could use."""
    charged: Sequence[AttemptCharged] = ()
    """Charges for attempts of earlier processes of the run."""
    step_prefix: str = ""
    """Prefix of the steps of a pipeline that runs for one item: its number, and "."."""
    fixed: dict[str, Fixed] = field(default_factory=dict)
    """Variables of inner stages, by path, that are the same for all items."""

    @property
    def wirings(self) -> Mapping[str, Wiring]:
        return self.spec.loaded.dataflow.wirings


class RunContext(StageContext):
    """Context of one stage in one run: the place, clock and event sink that its services share.

    `inner` runs inner stages and nested pipelines; None in a preview.
    """

    models: "RunModels"

    def __init__(
        self,
        path: str,
        stage: Stage,
        run: RunParts,
        fields: Fields | None = None,
        inner: Inner | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.path = path
        self.scope = scope
        self.place = run.prefix + path
        self.stage = stage
        self.run = run
        self.inner = inner
        self.wiring = run.wirings[path]
        self.fields = run.fields[path] if fields is None else fields
        self.finishing = run.spec.pipeline.on_budget == "finish"
        self.seed = f"{run.seed} {self.place}" if scope is None else f"{run.seed} {self.place} {scope.index}"
        self.inputs = RunInputs(self)
        self.outputs = RunOutputs(self)
        self.models = RunModels(self)
        self.journal = RunJournal(self)
        self.events = RunEvents(self)
        self.single = False
        """True once the stage is known to have one item at most."""
        self.costs = self._item_costs() if stage.states_costs and stage.follows else None
        """Costs of the calls for each item, if the items state them."""
        self._begun: float | None = None
        self._since = 0.0
        self._limit: Limit | None = None

    def _item_costs(self) -> ItemCosts:
        costs = ItemCosts()
        for event in self.run.charged:
            if event.stage == self.place:
                costs(event)
        return costs

    def end(self) -> None:
        """Let go of the services, which refer to this context: then nothing of it waits for a garbage collector."""
        del self.inputs, self.outputs, self.models, self.journal, self.events

    def emit(self, event: EventBase) -> None:
        if self.scope is None or not isinstance(event, OF_STAGES):
            self.run.sink(event)

    def recurs(self) -> bool:
        """Return True if further calls of the stage begin as those before: it works on items one by one."""
        return (self.stage.follows or self.scope is not None) and not self.single

    def placed(self, item: int | None, step: str) -> tuple[int | None, str]:
        """Return item and step under which a call is kept: those of a stage within an item name that item too."""
        if self.scope is not None:
            step = step if item is None else f"{self.scope.index + 1}.{step}"
            item = self.scope.index if item is None else item
        return item, self.run.step_prefix + step

    def begin(self) -> None:
        """Start the clock of the stage at its first input; later calls have no effect."""
        if self._begun is not None:
            return
        self._begun = time.monotonic()
        self._since = time.time()
        self.emit(StageStarted(run_id=self.run.run_id, stage=self.place, kind=self.stage.kind))
        if self._limit is not None and self.stage.timeout is not None:
            self._limit.set(self.stage.timeout)

    def wanted(self, items: int) -> int:
        after, most = {self.path}, 1
        for name in self.run.spec.loaded.dataflow.order:
            if name != self.path and self.run.wirings[name].before & after:
                after.add(name)
                most = max(most, enough(getattr(self.run.spec.pipeline.stages[name], "min_ok", None) or 1, items))
        return most

    @property
    def seconds(self) -> float:
        """Seconds since the first input; 0 before it."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def now(self) -> float:
        return self.run.clock()

    def deadline(self, seconds: float) -> float:
        """Return the time, in seconds since 1970, at which calls in batches are late: the same in every session."""
        kept = self.journal.kept(_DEADLINE)
        if kept is None:
            kept = (self._since or time.time()) + seconds
            self.journal.keep(_DEADLINE, kept)
        return float(kept)

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        async with self.run.clock.limit() as self._limit:
            yield


class RunInputs(StageInputs):
    """Inputs read from the fields of earlier stages."""

    def __init__(self, ctx: RunContext) -> None:
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
            own = {"inputs": self._run.spec.inputs, "request": self._run.spec.request, MATERIAL: self._material()}
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
        """Return the material of the whole stage: all, the outline, or nothing."""
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
        used = found.pay if parts is None else len(found) > 0
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
            plans[self._plan] = self._run.material.sections if cut and self._run.material.sections.pay else None
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


class RunOutputs(StageOutputs):
    """Output fields that later stages read."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx

    @cached_property
    def keeps_shown(self) -> bool:
        return self._ctx.run.spec.loaded.dataflow.keeps_shown(self._ctx.path)

    def feed(self, name: str) -> Feed[Item]:
        return self._ctx.fields.feed(name)

    def give(self, name: str, value: Any) -> None:
        self._ctx.fields.give(name, value)

    def settle(self, item: Item) -> None:
        ctx = self._ctx
        if item.shown is not None and not self.keeps_shown:
            item = item.model_copy(update={"shown": None})
        if ctx.costs is not None:
            item = item.model_copy(update={"cost": ctx.costs.of(item.index)})
        ctx.fields.feed(ctx.fields.first).append(item)
        decided = _decision(item) if ctx.costs is not None else {}
        ctx.emit(
            ItemFinished(run_id=ctx.run.run_id, stage=ctx.place, item=item.index, failure=item.failure, **decided)
        )

    def grow(self, known: int, *, final: bool = False, title: str = "") -> None:
        ctx = self._ctx
        ctx.single = final and known <= 1
        ctx.emit(StageGrew(run_id=ctx.run.run_id, stage=ctx.place, known=known, final=final, title=title))


class RunModels(StageModels):
    """Models behind the roles of the run."""

    def __init__(self, ctx: RunContext) -> None:
        self.speed = ctx.run.spec.roles.latencies
        self._ctx = ctx
        self._run = ctx.run
        self._callers: dict[tuple[object, ...], Caller] = {}

    async def call(self, ask: Ask) -> Answer:
        if isinstance(ask.messages, LateMessages):
            ask = ask._replace(messages=await ask.messages.rendered())
        try:
            return await self.caller(ask).call(self._placed(ask))
        except BudgetError as error:
            self._run.budget_stops.append(error)
            raise

    def afforded(self, refusal: BudgetError) -> None:
        self._run.budget_stops[:] = [stop for stop in self._run.budget_stops if stop is not refusal]

    def info(self, role: str) -> ModelInfo:
        return self._run.spec.roles[role].models[0]

    def room(self, role: str, max_tokens: int | None = None) -> Room:
        return self._run.spec.room(self._ctx.stage, role, max_tokens)

    def readable(self) -> int | None:
        stages = self._run.spec.pipeline.stages
        readers = [
            stages[name]
            for name, wiring in self._run.wirings.items()
            if any(flow.stage == self._ctx.path for flow in wiring.flows.values())
        ]
        one_by_one = [stage for stage in readers if stage.output_fields[0].feed]
        rooms = [self._run.spec.room(stage, role).input for stage in one_by_one for _, role in stage.roles()]
        return min([room for room in rooms if room is not None], default=None)

    def stream(self, step: str) -> Deltas | None:
        streams = self._ctx.scope is None and self._ctx.path in self._run.streamed
        return _EventDeltas(self._ctx, step) if streams else None

    async def run_stage(self, name: str, variables: Variables | None = None) -> Outcome:
        assert self._ctx.inner is not None
        path, scope = f"{self._ctx.path}/{name}", self._ctx.scope
        if variables is None:
            return await self._ctx.inner.stage(path, scope)
        item: Item = variables["item"]
        assert self._ctx.costs is not None
        given = {"material": Attached(), **{key: variables[key] for key in OF_ITEM if key in variables}}
        token = spending.set(self._ctx.costs.sink_of(item.index))
        try:
            return await self._ctx.inner.stage(path, Scope(item.index, given))
        finally:
            spending.reset(token)

    async def run_pipeline(self, inputs: Mapping[str, Any]) -> Outcome:
        assert self._ctx.inner is not None
        return await self._ctx.inner.pipeline(self._ctx.path, inputs, self._ctx.scope)

    def key(self, ask: Ask) -> CallKey:
        return self.caller(ask).key(self._placed(ask))

    def _placed(self, ask: Ask) -> Ask:
        ask = self.under_system(ask)
        if self._ctx.scope is None and not self._run.step_prefix:
            return ask
        item, step = self._ctx.placed(ask.item, ask.step)
        return ask._replace(item=item, step=step)

    def under_system(self, ask: Ask) -> Ask:
        """Return the call with the user's own system prompt above the pipeline's."""
        system = self._run.spec.request.system if isinstance(self._run.spec.request, Asked) else ""
        if not system:
            return ask
        first, *others = ask.messages
        if first.role == "system":
            return ask._replace(messages=(_below(system, first), *others))
        stable = len(system) if first.stable else 0
        return ask._replace(messages=(Message(role="system", content=system, stable=stable), first, *others))

    def caller(self, ask: Ask) -> Caller:
        """Return the caller for the role, model, schema and limits of a call."""
        key = (ask.role, ask.model, ask.max_tokens, ask.temperature, ask.avoid)
        caller = self._callers.get(key)
        if caller is None or caller.schema is not ask.schema:
            terms = self._run.spec.roles.terms((self._ctx.place, *key), ask.schema, partial(self._terms, ask))
            mode = getattr(self._ctx.stage, "cache", None) or self._run.spec.pipeline.defaults.cache
            caller = self._callers[key] = Caller(
                terms,
                sink=to_both(self._run.sink, self._counted()),
                run_id=self._run.run_id,
                latencies=self.speed,
                wrap=partial(self._run.recorder.around, mode=mode),
                recurs=self._ctx.recurs,
                batched=partial(self._batched, deadline=terms.deadline) if self._may_batch(terms.batch) else None,
            )
        return caller

    def _counted(self) -> Sink | None:
        """Return the sink that adds the costs of calls to items, if any states them."""
        within = self._ctx.scope is not None or self._run.step_prefix
        return self._ctx.costs or (spent if within else None)

    def _terms(self, ask: Ask) -> Terms:
        role, stage = self._run.spec.roles[ask.role], self._ctx.stage
        defaults = self._run.spec.pipeline.defaults
        chain = self._run.spec.roles.chain_of(ask.model) if ask.model else role.chain
        if ask.avoid:
            chain = tuple(sorted(chain, key=lambda member: _last_place(member.info.id, ask.avoid)))
        own = stage.params() if isinstance(stage, ModelStage) else {}
        if ask.temperature is not None:
            own = {**own, "temperature": ask.temperature}
        firm, soft = merged(own, role.params), defaults.params()
        if ask.model:  # a certain model, and not the one that these parameters were chosen for
            firm, soft = {}, merged(firm, soft)
        resilience = merged(
            stage.resilience() if isinstance(stage, ModelStage) else {}, role.resilience, defaults.resilience()
        )
        hedge, deadline = resilience.pop("hedge", "off"), resilience.pop("deadline", None)
        batch = resilience.pop("batch", "auto")
        return Terms(
            chain,
            pipeline=self._run.spec.pipeline.name,
            stage=self._ctx.place,
            role=ask.role,
            max_tokens=self._run.spec.output_limit(stage, chain[0].info, ask.max_tokens),
            unsent={"timeout": role.timeout or defaults.timeout, **resilience},
            firm=firm,
            soft=soft,
            schema=ask.schema,
            hedging=self._run.spec.roles.hedging if hedge == "auto" else None,
            batch=batch,
            deadline=deadline,
        )

    def _may_batch(self, mode: str) -> bool:
        return mode == "always" or (mode == "auto" and self._run.spec.batch)

    def _batched(self, chain: Model, first: ModelInfo, *, deadline: float | None) -> Model:
        """Return a chain whose calls go through the batch API of its first model, if that has one."""
        window = self._run.spec.roles.window(first.id)
        if window is None:
            return chain
        late = (lambda: None) if deadline is None else partial(self._ctx.deadline, deadline)
        journal, clock = self._run.recorder.journal, self._run.clock
        return self._run.spec.roles.batched(chain, window, journal=journal, clock=clock, deadline=late)


def _decision(item: Item) -> dict[str, Any]:
    """Return the fields of an item that tell the decision on it."""
    return {name: getattr(item, name) for name in ("tier", "route", "reason", "confidence", "agreement", "cost")}


def _last_place(model_id: str, avoid: tuple[str, ...]) -> int:
    """Return the last place of a model among those to avoid, from 1; 0 for another."""
    return max((at for at, one in enumerate(avoid, start=1) if one == model_id), default=0)


class RunJournal(StageJournal):
    """Decisions and replies of a stage in the journal of its run; without a store, nothing is kept."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._journal = ctx.run.recorder.journal

    def keep(self, name: str, value: Any, *, item: int | None = None, of: Ask | None = None) -> None:
        self._journal.keep(self._ctx.place, *self._ctx.placed(item, self._name(name, of)), value)

    def kept(self, name: str, *, item: int | None = None, of: Ask | None = None) -> Any:
        return self._journal.kept(self._ctx.place, *self._ctx.placed(item, self._name(name, of)))

    def has_reply(self, ask: Ask) -> bool:
        return self._journal.is_finished(self._ctx.models.key(ask))

    def set_aside(self, error: FusionError) -> None:
        self._ctx.run.unusable.extend(error.calls)

    def _name(self, name: str, of: Ask | None) -> str:
        return name if of is None else f"{name}@{self._ctx.models.key(of).digest}"


class RunEvents(StageEvents):
    """Events sent to the sink of the run."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx

    def note(self, message: str, *, item: int | None = None) -> None:
        item, _ = self._ctx.placed(item, "")
        self._ctx.emit(Noted(run_id=self._ctx.run.run_id, stage=self._ctx.place, item=item, message=message))

    def decided(
        self, decision: str, reason: str, *, confidence: float | None = None, escalated: bool | None = None
    ) -> None:
        self._ctx.emit(
            Decided(
                run_id=self._ctx.run.run_id,
                stage=self._ctx.place,
                item=None if self._ctx.scope is None else self._ctx.scope.index,
                decision=decision,
                reason=reason,
                confidence=confidence,
                escalated=escalated,
            )
        )


class _EventDeltas:
    """Tells the pieces of a reply as events."""

    committed = False

    def __init__(self, ctx: RunContext, step: str) -> None:
        self._ctx = ctx
        self._step = step

    def add(self, text: str) -> None:
        self._ctx.emit(Delta(run_id=self._ctx.run.run_id, stage=self._ctx.place, step=self._step, text=text))

    def restart(self) -> None:
        self._ctx.emit(Restarted(run_id=self._ctx.run.run_id, stage=self._ctx.place, step=self._step))


@lru_cache(maxsize=256)
def _below(system: str, message: Message) -> Message:
    stable = message.stable and message.stable + len(system) + 2
    return Message(role="system", content=f"{system}\n\n{message.content}", stable=stable)
