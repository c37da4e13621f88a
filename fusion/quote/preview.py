"""Preview: the prompts of a run, rendered by its stages without a call, with bounds on calls and tokens."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusion.core.errors import FusionError, InputError, PromptError, StageError, UsageError, close_names
from fusion.core.events import Decided, EventBase, StageGrew
from fusion.core.types import Attached, Finished, Item, Limits, Message, ToolResult, ToolSpec, Value
from fusion.engine.context import OF_ITEM, RunContext, RunInputs, RunModels, RunParts, RunSandbox, RunTools, Scope
from fusion.engine.fields import Fields
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo, estimate_input
from fusion.pipeline.dataflow import Wiring
from fusion.pipeline.inputs.values import filled_within
from fusion.quote.hands import supposed
from fusion.stages.base import Stage
from fusion.stages.context import Answer, Ask, Outcome, Round, Variables

Given = Mapping[str, Any]
"""Values in place of results that do not exist yet, by `stage` or `stage.field`."""


class PreviewedCall(Value):
    """A call that a run would make. `tokens` estimates the size of its messages."""

    stage: str
    item: int | None
    step: str
    role: str
    model: str
    messages: tuple[Message, ...]
    tokens: int
    max_tokens: int


class PreviewedStage(Value):
    """The calls of a stage. `missing` names the results that it depends on and that do not exist yet.

    `items` and `most_calls` are bounds, None if unknown; `calls` holds the first call of each item. Inner stages,
    such as the branches of a route or the stages of a nested pipeline, follow under `outer/name`. The bounds of the
    outer stage include them.
    """

    name: str
    kind: str
    roles: dict[str, str]
    when: str | None
    missing: tuple[str, ...]
    items: int | None
    most_calls: int | None
    max_tokens: int
    calls: tuple[PreviewedCall, ...]
    note: str = ""

    @property
    def within(self) -> str:
        """The stage around this one; empty for a stage of the pipeline itself."""
        return self.name.rpartition("/")[0]


class Preview(Value):
    """The calls of a run by stage, each stage after those that it reads.

    `roles` names the first model of each role. `models` describes every model that may be called, those of nested
    pipelines included. `notes` name models left out and keys that a run needs.
    """

    pipeline: str
    profile: str
    roles: dict[str, str]
    models: dict[str, ModelInfo]
    limits: Limits
    stages: tuple[PreviewedStage, ...]
    notes: tuple[str, ...] = ()

    @property
    def most_calls(self) -> int | None:
        """The most calls of the run, retries not counted; None if unknown."""
        return _sum(stage.most_calls for stage in self.stages if not stage.within)

    @property
    def most_output(self) -> int | None:
        """The most output tokens of the run; None if unknown."""
        return _sum(
            None if stage.most_calls is None else stage.most_calls * stage.max_tokens
            for stage in self.stages
            if not stage.within
        )


async def preview(
    spec: RunSpec, *, given: Given | None = None, stage: str | None = None, item: int | None = None
) -> Preview:
    """Return the calls that a run would make; with `stage` only its own, with `item` (from 0) only that item's.

    Raises UsageError or InputError for an unknown stage or value, PromptError if a template fails.
    """
    look = _Look(spec, "", item)
    look.known.update(_filled(look.parts, given or {}))
    return Preview(
        pipeline=spec.pipeline.name,
        profile=spec.profile,
        roles={role: one.models[0].id for role, one in spec.roles.all.items()},
        models=spec.roles.models,
        limits=spec.limits,
        stages=tuple(await (look.all() if stage is None else look.alone(stage))),
        notes=spec.notes,
    )


def _parts(spec: RunSpec, prefix: str) -> RunParts:
    """Return the parts that the contexts of a preview share."""
    return RunParts(
        run_id="preview",
        spec=spec,
        sink=lambda event: None,
        fields={path: Fields(one.output_fields) for path, one in spec.loaded.dataflow.stages.items()},
        streamed=frozenset(),
        prefix=prefix,
        material=spec.material(),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum; None if a number is unknown."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known))


# Given results.


def _filled(parts: RunParts, given: Given) -> dict[tuple[str, str], int]:
    """Fill fields with the given values; return the number of items of each, 1 for a value."""
    known = {}
    for path, value in given.items():
        name, _, field = path.partition(".")
        stage = parts.spec.pipeline.stages.get(name)
        if stage is None:
            raise UsageError(f"no stage {name!r}{close_names(name, parts.spec.pipeline.stages)}")
        outputs = {output.name: output for output in stage.output_fields}
        output = outputs.get(field or stage.output_fields[0].name)
        if output is None:
            raise UsageError(f"{name!r} has no field {field!r}{close_names(field, outputs)}")
        known[name, output.name] = len(value) if output.feed and isinstance(value, list) else 1
        if output.feed:
            for one in _items(path, value):
                parts.fields[name].feed(output.name).append(one)
            parts.fields[name].feed(output.name).close()
        else:
            parts.fields[name].give(output.name, value)
    return known


def _items(path: str, value: Any) -> Iterator[Item]:
    """Yield the items of a list: items of a Result as they are, other elements as new items."""
    if not isinstance(value, list):
        raise InputError(f"{path!r} is a list of items; give a JSON list, such as the items of a result's stage")
    for index, element in enumerate(value):
        if isinstance(element, Mapping) and "index" in element and set(element) <= set(Item.model_fields):
            yield Item.model_validate(element)
        else:
            yield Item(index=index, source=element, value=element)


# One stage.


class _Look:
    """Previews one pipeline, stage by stage. `known` holds the number of items of each given field."""

    def __init__(self, spec: RunSpec, prefix: str, item: int | None = None) -> None:
        self.spec = spec
        self.parts = _parts(spec, prefix)
        self.known: dict[tuple[str, str], int] = {}
        self._item = item
        self._stages = spec.loaded.dataflow.stages
        self._bounds: dict[str, int | None] = {}

    async def all(self, lacking: Sequence[str] = ()) -> list[PreviewedStage]:
        """Preview every stage; `lacking` names the missing results that the inputs of this pipeline depend on."""
        return [stage for name in self.spec.loaded.dataflow.order for stage in await self.shown(name, lacking)]

    async def alone(self, path: str) -> list[PreviewedStage]:
        """Preview one stage, on what the stages before it compute without a model."""
        for name in self.spec.loaded.dataflow.order:
            if name == path.partition("/")[0]:
                break
            if _is_computed(self._stages[name]):
                await self.shown(name)
        return await self.shown(path)

    def is_shown(self, index: int) -> bool:
        """Return True for the item whose calls are shown."""
        return self._item == index

    async def shown(self, path: str, lacking: Sequence[str] = (), scope: Scope | None = None) -> list[PreviewedStage]:
        """Preview a stage, followed by its inner stages; one of those for an item in a scope."""
        stage, wiring = self._stages[path], self.parts.wirings[path]
        reads = [".".join(read) for read in sorted(wiring.reads) if read not in self.known]
        missing = list(dict.fromkeys([*lacking, *(f"{self.parts.prefix}{read}" for read in reads)]))
        ctx = _Rehearsal(path, stage, self, scope)
        note = "" if missing else await ctx.rehearse()
        if ctx.finished and _is_computed(stage):
            await self._keep(path, ctx.fields)
        ways = await self._ways(ctx, missing)
        calls = [call for call in ctx.models.asked if self._item is None or call.item in (None, self._item)]
        if ctx.models.asked and not calls:
            note = "its prompts depend on results of earlier items"
        items = self._most_items(wiring) if ctx.known is None else ctx.known
        self._bounds[path] = None if items is None else stage.estimate.items(stage, items)
        within = [one for way in ways.values() for one in way]
        limits = [*_passed_on(ctx, wiring), *(one.max_tokens for one in within)]
        own = PreviewedStage(
            name=self.parts.prefix + path,
            kind=stage.kind,
            roles={role: self.spec.roles[role].models[0].id for _, role in stage.roles()},
            when=stage.when,
            missing=tuple(missing),
            items=None if wiring.over is None else items,
            most_calls=self._most_calls(path, stage, items, ways),
            max_tokens=max(self.spec.max_tokens(stage), *limits),
            calls=tuple(sorted(calls, key=lambda call: call.item or 0)),
            note="" if within else note,
        )
        return [own, *within]

    def _most_calls(
        self, path: str, stage: Stage, items: int | None, ways: Mapping[str, Sequence[PreviewedStage]]
    ) -> int | None:
        calls = None if items is None else stage.estimate.calls(stage, items, self._calls_of(path, ways))
        return calls if calls is None or not self.spec.works_twice(path) else 2 * calls

    async def _keep(self, path: str, made: Fields) -> None:
        """Keep the results of a stage that needs no model, unless they are given."""
        made.finish()
        fields = self.parts.fields[path]
        for output in self._stages[path].output_fields:
            if (path, output.name) in self.known:
                continue
            value = await made.value(output.name)
            self.known[path, output.name] = len(value) if output.feed else 1
            if not output.feed:
                fields.give(output.name, value)
                continue
            for item in value:
                fields.feed(output.name).append(item)
            fields.feed(output.name).close()

    def _most_items(self, wiring: Wiring) -> int | None:
        """The most items that a stage is given; None if unknown."""
        if wiring.over is None:
            return 1
        flow = wiring.flow
        return None if flow is None else self.known.get(flow, self._bounds.get(flow.stage))

    async def _ways(self, ctx: "_Rehearsal", missing: Sequence[str]) -> dict[str, list[PreviewedStage]]:
        """Preview the inner stages: the branch that is taken, or every branch if that is unknown."""
        if ctx.models.ways or ctx.chosen or not (missing or ctx.models.asked):
            return ctx.models.ways
        if ctx.stage.item_offers and not missing:  # the item decides on the way, once there is a reply
            missing = [f"{self.parts.prefix}{ctx.path}"]
        ways = {name: await self.shown(f"{ctx.path}/{name}", missing) for name in ctx.stage.inner()}
        if ctx.stage.graph is not None:
            ways[""] = await self.body(ctx.path, {}, missing)
        elif ctx.path in self.spec.loaded.nested:
            ways[""] = await self.pipeline(ctx.path, None, missing)
        return ways

    def _calls_of(self, path: str, ways: Mapping[str, Sequence[PreviewedStage]]) -> dict[str, int | None]:
        """Return the most calls of each branch: those of its stage, or of the stages of its pipeline."""
        place = self.parts.prefix + path
        return {name: _sum(one.most_calls for one in way if one.within == place) for name, way in ways.items()}

    async def body(self, path: str, around: Mapping[str, Any], lacking: Sequence[str] = ()) -> list[PreviewedStage]:
        """Preview the body of a stage in its first round, on these variables."""
        spec = self.spec.within(path, self.spec.request, self.spec.inputs)
        look = _Look(spec, f"{self.parts.prefix}{path}/", self._item)
        look.parts = replace(look.parts, around=around)
        return await look.all(lacking)

    async def pipeline(
        self, path: str, inputs: Mapping[str, Any] | None, lacking: Sequence[str] = ()
    ) -> list[PreviewedStage]:
        """Preview the pipeline that a stage runs on these inputs; None if they do not exist yet."""
        one = self.spec.loaded.nested[path]
        request, values = "", {name: spec.default for name, spec in one.pipeline.inputs.items()}
        if inputs is not None:
            request, values = filled_within(one.pipeline, self.spec.request, inputs, material=one.dataflow.material)
        spec = self.spec.within(path, request, values)
        return await _Look(spec, f"{self.parts.prefix}{path}/").all(lacking)


def _is_computed(stage: Stage) -> bool:
    """Return True for a stage that always runs, and calls no model and no tool, itself or within."""
    idle = not any(stage.roles()) and not stage.inner() and not stage.acts
    return idle and stage.when is None and stage.kind != "pipeline"


def _passed_on(ctx: RunContext, wiring: Wiring) -> list[int]:
    """The output limits of a stage that rewrites the items of the stage before it."""
    limits = [ctx.inputs.producer(source).max_tokens or 0 for source in wiring.flows] if wiring.passes_on else []
    return [0, *limits]


class _NotAsked(FusionError):  # noqa: N818 - nothing went wrong
    """Stops a stage at its first call."""


class _Rehearsal(RunContext):
    """Context that records the first calls of a stage instead of making them."""

    inputs: "_CheckedInputs"
    models: "_RecordedModels"

    def __init__(self, path: str, stage: Stage, look: _Look, scope: Scope | None = None) -> None:
        fields = Fields(stage.output_fields)  # its own may be given already
        super().__init__(path, stage, look.parts, fields, scope=scope)
        self.look = look
        self.inputs = _CheckedInputs(self)
        self.models = _RecordedModels(self, look)
        self.tools = _SupposedTools(self)
        self.sandbox = _ClosedSandbox(self)
        self.chosen = ""
        self.finished = False
        self.known: int | None = None

    async def rehearse(self) -> str:
        """Run the stage; return the reason if it makes no call. Raises PromptError if a template fails."""
        note = ""
        try:
            await self.stage.model_copy(update={"on_error": "skip"}).run(self)
            self.finished = not self.models.asked
        except _NotAsked:
            pass
        except StageError as error:
            note = str(error)
        if self.inputs.broken is not None and not self.models.asked:
            raise self.inputs.broken
        return "" if self.models.asked else note

    def emit(self, event: EventBase) -> None:
        match event:
            case StageGrew():
                self.known = event.known
            case Decided():
                self.chosen = event.decision


class _CheckedInputs(RunInputs):
    """Inputs that remember the first template that cannot be rendered."""

    broken: PromptError | None = None
    _ctx: "_Rehearsal"

    async def follow(self, expression: str) -> AsyncIterator[Item]:
        async for item in super().follow(expression):
            yield await self._with_shown(item)

    async def _with_shown(self, item: Item) -> Item:
        """Return a given item with what it would have been written from, if this stage reads that."""
        author, look = self._author(), self._ctx.look
        if author is None or item.shown is not None or not item.ok:
            return item
        waits = {(name, field) for name, part in look.parts.wirings[author].waits.items() for field in part.fields}
        if not waits <= look.known.keys():
            return item
        stage = look.spec.pipeline.stages[author]
        feed = look.parts.fields[author].feed(stage.output_fields[0].name)
        needed = [other for other in feed.so_far if other.index in item.needs]
        shown = await stage.shown(_Rehearsal(author, stage, look), item, needed)
        return item.model_copy(update={"shown": shown})

    def _author(self) -> str | None:
        """Return the stage that would have written the items; None if this stage does not read from what."""
        at = self._ctx.wiring.items_of if self._ctx.wiring.shows_shown else None
        while at is not None and self._ctx.look.spec.pipeline.stages[at].passes_on:
            at = self._ctx.look.parts.wirings[at].items_of
        return at if at is not None and self._ctx.look.spec.pipeline.stages[at].output_fields[0].feed else None

    def render(self, template: str, values: Variables) -> tuple[Message, ...]:
        try:
            return (*super().render(template, values),)
        except PromptError as error:
            self.broken = self.broken or error
            raise


class _SupposedTools(RunTools):
    """Tools that are not asked for their specs, and never called."""

    async def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        return tuple(map(supposed, names))

    async def call(self, name: str, arguments: object, **_: Any) -> ToolResult:
        raise _NotAsked("not called")


class _ClosedSandbox(RunSandbox):
    """A sandbox in which no command runs: each one fails, so that a preview shows what comes of it."""

    async def run(self, argv: Sequence[str], **_: Any) -> Finished:
        return Finished(1, "", "what the command says", by="simulation")


class _RecordedModels(RunModels):
    """Models that record calls and inner stages in place of making them."""

    def __init__(self, ctx: _Rehearsal, look: _Look) -> None:
        super().__init__(ctx)
        self._look = look
        self.asked: list[PreviewedCall] = []
        self.ways: dict[str, list[PreviewedStage]] = {}

    async def run_stage(self, name: str, variables: Variables | None = None) -> Outcome:
        scope = self._ctx.scope
        if variables is not None:
            given = {"material": Attached(), **{key: variables[key] for key in OF_ITEM if key in variables}}
            scope = Scope(variables["item"].index, given)
        if name not in self.ways or scope is None or self._look.is_shown(scope.index):
            self.ways[name] = await self._look.shown(f"{self._ctx.path}/{name}", scope=scope)
        raise _NotAsked("not run")

    async def run_pipeline(self, inputs: Mapping[str, Any]) -> Outcome:
        self.ways[""] = await self._look.pipeline(self._ctx.path, inputs)
        raise _NotAsked("not run")

    async def run_round(self, number: int, variables: Variables) -> Round:
        self.ways[""] = await self._look.body(self._ctx.path, self.around(variables))
        raise _NotAsked("not run")

    async def call(self, ask: Ask) -> Answer:
        caller = self.caller(ask)
        messages = tuple(caller.messages(self.under_system(ask)))
        item, _ = self._ctx.placed(ask.item, ask.step)
        self.asked.append(
            PreviewedCall(
                stage=self._ctx.place,
                item=item,
                step=ask.step,
                role=ask.role,
                model=caller.model_id,
                messages=messages,
                tokens=estimate_input(messages),
                max_tokens=caller.max_tokens,
            )
        )
        raise _NotAsked("not asked")
