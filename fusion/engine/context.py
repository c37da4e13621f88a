"""A stage's way to the world, as the engine makes it: fields, expressions, prompts and calls."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

from fusion.core.errors import BudgetError, FusionError, InputError
from fusion.core.events import (
    Decided,
    Delta,
    EventBase,
    ItemFinished,
    Noted,
    Restarted,
    Sink,
    StageGrew,
    StageStarted,
)
from fusion.core.params import merged
from fusion.core.types import Asked, CallKey, Deltas, Item, JsonSchema, Message
from fusion.engine.calls import Caller
from fusion.engine.fields import Fields, read
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo
from fusion.models.gateway import Keeping
from fusion.pipeline.dataflow import Wiring
from fusion.prompts.template import Fixed
from fusion.stages.base import ModelStage, Stage
from fusion.stages.context import Answer, Ask, Outcome, Room, StageContext, Variables
from fusion.stages.feed import Feed


class Inner(Protocol):
    """Runs what stands within a stage."""

    async def stage(self, path: str) -> Outcome: ...

    async def pipeline(self, path: str, inputs: Mapping[str, Any]) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class RunParts:
    """What the contexts of one run share."""

    run_id: str
    spec: RunSpec
    sink: Sink
    fields: Mapping[str, Fields]
    streamed: frozenset[str]
    inner: "Inner | None" = None
    """What runs within the stages; None where nothing is run."""
    prefix: str = ""
    """What stands before the paths of a nested pipeline's stages: the path of the stage that runs it, and "/"."""
    keeping: Keeping = field(default_factory=Keeping)
    seed: str = ""
    """What orders that are to look random are made of."""
    budget_stops: list[BudgetError] = field(default_factory=list)
    unusable: list[CallKey] = field(default_factory=list)
    """Calls whose replies no stage could use."""

    @property
    def wirings(self) -> Mapping[str, Wiring]:
        return self.spec.loaded.dataflow.wirings


class RunContext(StageContext):
    """The context of one stage in one run."""

    def __init__(self, path: str, stage: Stage, run: "RunParts") -> None:
        self.path = path
        self.place = run.prefix + path
        self.stage = stage
        self.finishing = run.spec.pipeline.on_budget == "finish"
        self.seed = f"{run.seed} {self.place}"
        self.latencies = run.spec.roles.latencies
        self._run = run
        self._out = run.fields[path]
        self._begun: float | None = None
        self._clock: asyncio.Timeout | None = None
        self._fixed: Fixed | None = None
        self._callers: dict[tuple[object, ...], Caller] = {}

    # What comes in.

    async def variables(self) -> dict[str, Any]:
        if self._fixed is None:
            wired = self._run.wirings[self.path]
            values = await read(wired.waits, self._run.fields)
            if not wired.flows:  # a stage that follows others begins with their first item
                self.begin()
            self._fixed = Fixed({"inputs": self._run.spec.inputs, "request": self._run.spec.request, **values})
        return dict(self._fixed.variables)

    async def follow(self, source: str) -> AsyncIterator[Item]:
        flow = self._run.wirings[self.path].flows.get(source)
        if flow is not None:
            known = 0
            async for item in self._run.fields[flow.stage].feed(flow.field):
                self.begin()
                known += 1
                self.grew(known)
                yield item
            self.begin()
            self.grew(known, final=True)
            return
        elements = _listed(source, self.evaluate(source, await self.variables()))
        self.grew(len(elements), final=True)
        for index, element in enumerate(elements):
            yield element if isinstance(element, Item) else Item(index=index, source=element, value=element)

    def begin(self) -> None:
        """The first input is here: the stage's clock starts."""
        if self._begun is not None:
            return
        self._begun = time.monotonic()
        self.emit(StageStarted(run_id=self._run.run_id, stage=self.place, kind=self.stage.kind))
        if self._clock is not None and self.stage.timeout is not None:
            self._clock.reschedule(asyncio.get_running_loop().time() + self.stage.timeout)

    @property
    def seconds(self) -> float:
        """How long it is since the first input was here; 0 before."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as self._clock:
            yield

    def time_limit(self) -> AbstractAsyncContextManager[object]:
        return self._limited()

    # What goes out.

    def feed(self, name: str) -> Feed[Item]:
        return self._out.feed(name)

    def give(self, name: str, value: Any) -> None:
        self._out.give(name, value)

    def deltas(self, step: str) -> Deltas | None:
        return _EventDeltas(self, step) if self.path in self._run.streamed else None

    def grew(self, known: int, *, final: bool = False, title: str = "") -> None:
        self.emit(StageGrew(run_id=self._run.run_id, stage=self.place, known=known, final=final, title=title))

    def finished(self, item: Item) -> None:
        event = ItemFinished(run_id=self._run.run_id, stage=self.place, item=item.index, failure=item.failure)
        self.emit(event)

    def note(self, message: str, *, item: int | None = None) -> None:
        self.emit(Noted(run_id=self._run.run_id, stage=self.place, item=item, message=message))

    def decided(
        self, decision: str, reason: str, *, confidence: float | None = None, escalated: bool | None = None
    ) -> None:
        self.emit(
            Decided(
                run_id=self._run.run_id,
                stage=self.place,
                decision=decision,
                reason=reason,
                confidence=confidence,
                escalated=escalated,
            )
        )

    def emit(self, event: EventBase) -> None:
        self._run.sink(event)

    # What is kept.

    def keep(self, name: str, value: Any, *, item: int | None = None, of: Ask | None = None) -> None:
        journal = self._run.keeping.journal
        if journal is not None:
            journal.keep(self.place, item, self._kept_name(name, of), value)

    def kept(self, name: str, *, item: int | None = None, of: Ask | None = None) -> Any:
        journal = self._run.keeping.journal
        return None if journal is None else journal.kept(self.place, item, self._kept_name(name, of))

    def _kept_name(self, name: str, of: Ask | None) -> str:
        return name if of is None else f"{name}@{self._key(of).digest}"

    def has_reply(self, ask: Ask) -> bool:
        journal = self._run.keeping.journal
        return journal is not None and journal.is_finished(self._key(ask))

    def set_aside(self, error: FusionError) -> None:
        self._run.unusable.extend(error.calls)

    def _key(self, ask: Ask) -> CallKey:
        return self._caller(ask).key(self.under_system(ask))

    # What is made of it.

    def schema(self, key: str) -> JsonSchema | None:
        return self._run.wirings[self.path].schemas.get(key)

    def schema_of(self, source: str) -> JsonSchema | None:
        stage = self._origin(source, "schema")
        return None if stage is None else self._run.wirings[stage].schemas["schema"]

    def max_tokens_of(self, source: str) -> int | None:
        stage = self._origin(source, "")
        return None if stage is None else self._run.spec.max_tokens(self._run.spec.pipeline.stages[stage], None)

    def _origin(self, source: str, key: str) -> str | None:
        """The stage that wrote the values a path names, looking through stages that only pass them on."""
        flow = self._run.wirings[self.path].flows.get(source)
        while flow is not None:
            wired = self._run.wirings[flow.stage]
            if not wired.passes_on and (not key or key in wired.schemas):
                return flow.stage
            if not wired.passes_on:
                return None
            flow = next(iter(wired.flows.values()), None)
        return None

    def evaluate(self, source: str, variables: Variables) -> Any:
        return self._run.spec.prompts.expression(source).evaluate(variables)

    def render(self, template: str, variables: Variables) -> tuple[Message, ...]:
        return self._run.spec.prompts.template(template).render(variables, self._fixed)

    def text(self, template: str, variables: Variables) -> str:
        return self._run.spec.prompts.template(template).render_text(variables)

    # What stands within.

    async def run_inner(self, name: str) -> Outcome:
        assert self._run.inner is not None
        return await self._run.inner.stage(f"{self.path}/{name}")

    async def run_pipeline(self, inputs: Mapping[str, Any]) -> Outcome:
        assert self._run.inner is not None
        return await self._run.inner.pipeline(self.path, inputs)

    # Calls.

    def room(self, role: str, max_tokens: int | None = None) -> Room:
        return self._run.spec.room(self.stage, role, max_tokens)

    def readable(self) -> int | None:
        stages = self._run.spec.pipeline.stages
        readers = [
            stages[name]
            for name, wired in self._run.wirings.items()
            if any(flow.stage == self.path for flow in wired.flows.values())
        ]
        one_by_one = [stage for stage in readers if stage.outputs[0].feed]
        rooms = [self._run.spec.room(stage, role).input for stage in one_by_one for _, role in stage.roles()]
        return min([room for room in rooms if room is not None], default=None)

    def model(self, role: str) -> ModelInfo:
        return self._run.spec.roles[role].models[0]

    async def call(self, ask: Ask) -> Answer:
        try:
            return await self._caller(ask).call(self.under_system(ask))
        except BudgetError as error:
            self._run.budget_stops.append(error)
            raise

    def under_system(self, ask: Ask) -> Ask:
        """What is asked, with the user's own system prompt above the pipeline's."""
        system = self._run.spec.request.system if isinstance(self._run.spec.request, Asked) else ""
        if not system:
            return ask
        first, *others = ask.messages
        if first.role == "system":
            return ask._replace(messages=(_below(system, first), *others))
        return ask._replace(messages=(Message(role="system", content=system), first, *others))

    def _caller(self, ask: Ask) -> Caller:
        """Who makes the stage's calls on the terms of `ask`."""
        terms = (ask.role, ask.model, ask.max_tokens, ask.temperature)
        caller = self._callers.get(terms)
        if caller is None or caller.schema is not ask.schema:
            caller = self._callers[terms] = self._new_caller(ask)
        return caller

    def _new_caller(self, ask: Ask) -> Caller:
        role, stage = self._run.spec.roles[ask.role], self.stage
        defaults = self._run.spec.pipeline.defaults
        chain = self._run.spec.roles.chain_of(ask.model) if ask.model else role.chain
        own = stage.params() if isinstance(stage, ModelStage) else {}
        if ask.temperature is not None:
            own = {**own, "temperature": ask.temperature}
        firm, soft = merged(own, role.params), defaults.params()
        if ask.model:  # a certain model, and not the one that these parameters were chosen for
            firm, soft = {}, merged(firm, soft)
        return Caller(
            chain,
            sink=self._run.sink,
            run_id=self._run.run_id,
            stage=self.place,
            role=ask.role,
            max_tokens=self._run.spec.output_limit(self.stage, chain[0].info, ask.max_tokens),
            timeout=role.timeout or defaults.timeout,
            firm=firm,
            soft=soft,
            schema=ask.schema,
            latencies=self.latencies,
            wrap=partial(self._run.keeping.around, mode=getattr(stage, "cache", None) or defaults.cache),
        )


class _EventDeltas:
    """Tells the pieces of a reply as events."""

    committed = False

    def __init__(self, ctx: RunContext, step: str) -> None:
        self._ctx = ctx
        self._step = step

    def add(self, text: str) -> None:
        self._ctx.emit(Delta(run_id=self._ctx._run.run_id, stage=self._ctx.place, step=self._step, text=text))

    def restart(self) -> None:
        self._ctx.emit(Restarted(run_id=self._ctx._run.run_id, stage=self._ctx.place, step=self._step))


@lru_cache(maxsize=256)
def _below(system: str, message: Message) -> Message:
    return Message(role="system", content=f"{system}\n\n{message.content}")


def _listed(source: str, value: Any) -> list[Any]:
    if isinstance(value, (Mapping, str)) or not hasattr(value, "__iter__"):
        raise InputError(f"`over: {source}` is {type(value).__name__}, not a list; name a list or a stage's items")
    return list(value)
