"""Models of a stage: its calls, the terms of each, and the stages and pipelines within it."""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from fusion.core.errors import BudgetError
from fusion.core.events import (
    Delta,
    Restarted,
    Sink,
    to_both,
)
from fusion.core.params import merged
from fusion.core.types import Asked, Attached, CallKey, Deltas, Item, Message
from fusion.engine.calls import Caller, Terms
from fusion.engine.context.inputs import LateMessages
from fusion.engine.context.parts import OF_ITEM, Scope
from fusion.engine.receipt import spending, spent
from fusion.models.base import Model, ModelInfo
from fusion.models.catalog.learned import Figures
from fusion.pipeline.dataflow import ALWAYS, MATERIAL
from fusion.stages.base import LEARNED, ModelStage
from fusion.stages.context import (
    Answer,
    Ask,
    Outcome,
    Room,
    Round,
    StageModels,
    Variables,
)

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext


class RunModels(StageModels):
    """Models behind the roles of the run."""

    def __init__(self, ctx: "RunContext") -> None:
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

    def plays(self, role: str) -> bool:
        return self._run.spec.roles[role].played

    def info(self, role: str) -> ModelInfo:
        return self._run.spec.roles[role].models[0]

    def room(self, role: str, max_tokens: int | None = None) -> Room:
        return self._run.spec.room(self._ctx.stage, role, max_tokens)

    def learned(self, label: str, role: str) -> Figures | None:
        return self._run.figures.of_role(label, role, self._run.spec)

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

    async def run_round(self, number: int, variables: Variables) -> Round:
        assert self._ctx.inner is not None
        self._ctx.start_round(number)
        return await self._ctx.inner.round(self._ctx.path, number, self.around(variables), self._ctx.scope)

    def around(self, variables: Variables) -> dict[str, Any]:
        """Return the variables that the stages of a body have from around it: those that are not their own anyway."""
        of_item = self._ctx.scope is not None or MATERIAL in self._run.around
        own = {*ALWAYS, LEARNED, *([] if of_item else [MATERIAL])}
        return {name: value for name, value in variables.items() if name not in own}

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
        terms_of = None if ask.options is None else ask.options.terms
        key = (ask.role, ask.model, ask.max_tokens, ask.temperature, ask.avoid, terms_of)
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
        asked = None if ask.options is None else ask.options.params()
        limit = self._run.spec.output_limit(stage, chain[0].info, ask.max_tokens)
        if ask.options is not None and ask.options.max_tokens is not None:
            limit = min(limit, ask.options.max_tokens)
        hedge, deadline = resilience.pop("hedge", "off"), resilience.pop("deadline", None)
        batch = resilience.pop("batch", "auto")
        return Terms(
            chain,
            pipeline=self._run.spec.pipeline.name,
            stage=self._ctx.place,
            role=ask.role,
            max_tokens=limit,
            unsent={"timeout": role.timeout or defaults.timeout, **resilience},
            firm=firm,
            soft=soft,
            asked=asked,
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


def _last_place(model_id: str, avoid: tuple[str, ...]) -> int:
    """Return the last place of a model among those to avoid, from 1; 0 for another."""
    return max((at for at, one in enumerate(avoid, start=1) if one == model_id), default=0)


class _EventDeltas:
    """Tells the pieces of a reply as events."""

    committed = False

    def __init__(self, ctx: "RunContext", step: str) -> None:
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
