"""What a run would ask, without asking: rendered by the stages themselves, with bounds on calls and tokens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fusion.core.errors import FusionError, InputError, PromptError, StageError, UsageError, close_names
from fusion.core.events import Decided, EventBase, StageGrew
from fusion.core.types import Item, Limits, Message, Value
from fusion.engine.context import RunContext, RunInputs, RunModels, RunParts
from fusion.engine.fields import Fields
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo, estimate_input
from fusion.pipeline.dataflow import Wiring, stages_within
from fusion.pipeline.inputs import filled_within
from fusion.stages.base import Stage
from fusion.stages.context import Answer, Ask, Outcome, Variables

Given = Mapping[str, Any]
"""What stands in for results that are not there yet, by `stage` or `stage.field`."""


class PreviewedCall(Value):
    """A call as it would be made. `tokens` is about what its messages have."""

    stage: str
    item: int | None
    step: str
    role: str
    model: str
    messages: tuple[Message, ...]
    tokens: int
    max_tokens: int


class PreviewedStage(Value):
    """What a stage would ask. `missing` names the results that it depends on and that are not there yet.

    `items` and `most_calls` are bounds, None where nobody can say; `calls` are the first ones, of each item one. What
    stands within another stage, a way that a route may take or a stage of a nested pipeline, follows that one under
    `outer/name`, and is counted in its bounds.
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
        """The stage that this one stands within; empty for a stage of the pipeline itself."""
        return self.name.rpartition("/")[0]


class Preview(Value):
    """What a run would ask, stage by stage, each behind those that it reads.

    `roles` names the model that is asked first for each role, `models` says what is known of all that may be asked;
    those of pipelines that it runs are among them. `notes` name models left out and keys that a run needs.
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
        """How many calls the run makes at most, attempts made again not counted."""
        return _sum(stage.most_calls for stage in self.stages if not stage.within)

    @property
    def most_output(self) -> int | None:
        """How many tokens the run is answered at most."""
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
        stages=tuple(await (look.all() if stage is None else look.shown(stage))),
        notes=spec.notes,
    )


def _parts(spec: RunSpec, prefix: str) -> RunParts:
    """Return the parts that the contexts of a preview share."""
    return RunParts(
        run_id="preview",
        spec=spec,
        sink=lambda event: None,
        fields={path: Fields(one.outputs) for path, one in stages_within(spec.pipeline.stages).items()},
        streamed=frozenset(),
        prefix=prefix,
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum, None where a part of it is not known."""
    known = list(numbers)
    return None if None in known else sum(filter(None, known))


# What stands in for results.


def _filled(parts: RunParts, given: Given) -> dict[tuple[str, str], int]:
    """Fill fields with what is given; how many items each has, of a value 1."""
    known = {}
    for path, value in given.items():
        name, _, field = path.partition(".")
        stage = parts.spec.pipeline.stages.get(name)
        if stage is None:
            raise UsageError(f"no stage {name!r}{close_names(name, parts.spec.pipeline.stages)}")
        outputs = {output.name: output for output in stage.outputs}
        output = outputs.get(field or stage.outputs[0].name)
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
    """The items of a list: as a result of a run has them, or made of what the list holds."""
    if not isinstance(value, list):
        raise InputError(f"{path!r} is a list of items; give a JSON list, such as the items of a result's stage")
    for index, element in enumerate(value):
        if isinstance(element, Mapping) and "index" in element and set(element) <= set(Item.model_fields):
            yield Item.model_validate(element)
        else:
            yield Item(index=index, source=element, value=element)


# One stage.


class _Look:
    """One pipeline that is looked at, its stages in turn. `known` is how many items each field that is given has."""

    def __init__(self, spec: RunSpec, prefix: str, item: int | None = None) -> None:
        self.spec = spec
        self.parts = _parts(spec, prefix)
        self.known: dict[tuple[str, str], int] = {}
        self._item = item
        self._stages = stages_within(spec.pipeline.stages)
        self._bounds: dict[str, int | None] = {}

    async def all(self, lacking: Sequence[str] = ()) -> list[PreviewedStage]:
        """Every stage; `lacking` is what the stage around this pipeline depends on, so that it has no inputs yet."""
        return [stage for name in self.spec.loaded.dataflow.order for stage in await self.shown(name, lacking)]

    async def shown(self, path: str, lacking: Sequence[str] = ()) -> list[PreviewedStage]:
        """A stage, and behind it what stands within it."""
        stage, wiring = self._stages[path], self.parts.wirings[path]
        reads = [".".join(read) for read in sorted(wiring.reads) if read not in self.known]
        missing = list(dict.fromkeys([*lacking, *(f"{self.parts.prefix}{read}" for read in reads)]))
        ctx = _Rehearsal(path, stage, self)
        note = "" if missing else await ctx.rehearse()
        ways = await self._ways(ctx, missing)
        calls = [call for call in ctx.models.asked if self._item is None or call.item in (None, self._item)]
        if ctx.models.asked and not calls:
            note = "it depends on results of earlier items, which a run makes first"
        items = _most_items(stage, wiring, self.known, self._bounds)
        items = items if ctx.known is None else ctx.known
        self._bounds[path] = None if items is None else stage.estimate.items(stage, items)
        within = [one for way in ways.values() for one in way]
        limits = [*_passed_on(ctx, wiring), *(one.max_tokens for one in within)]
        own = PreviewedStage(
            name=self.parts.prefix + path,
            kind=stage.kind,
            roles={role: self.spec.roles[role].models[0].id for _, role in stage.roles()},
            when=stage.when,
            missing=tuple(missing),
            items=items if _over(stage) else None,
            most_calls=None if items is None else stage.estimate.calls(stage, items, self._calls_of(path, ways)),
            max_tokens=max(self.spec.max_tokens(stage), *limits),
            calls=tuple(sorted(calls, key=lambda call: call.item or 0)),
            note="" if within else note,
        )
        return [own, *within]

    async def _ways(self, ctx: "_Rehearsal", missing: Sequence[str]) -> dict[str, list[PreviewedStage]]:
        """What stands within a stage: the way that it takes, or every one where nobody can say which."""
        if ctx.models.ways or ctx.chosen or not (missing or ctx.models.asked):
            return ctx.models.ways
        ways = {name: await self.shown(f"{ctx.path}/{name}", missing) for name in ctx.stage.inner()}
        if ctx.path in self.spec.loaded.nested:
            ways[""] = await self.pipeline(ctx.path, None, missing)
        return ways

    def _calls_of(self, path: str, ways: Mapping[str, Sequence[PreviewedStage]]) -> dict[str, int | None]:
        """How many calls each way makes at most: a stage its own, a pipeline those of its stages."""
        place = self.parts.prefix + path
        return {name: _sum(one.most_calls for one in way if one.within == place) for name, way in ways.items()}

    async def pipeline(
        self, path: str, inputs: Mapping[str, Any] | None, lacking: Sequence[str] = ()
    ) -> list[PreviewedStage]:
        """The stages of the pipeline that a stage runs on these inputs; None where they are not there yet."""
        one = self.spec.loaded.nested[path]
        request, values = "", {name: spec.default for name, spec in one.pipeline.inputs.items()}
        if inputs is not None:
            request, values = filled_within(one.pipeline, self.spec.request, inputs)
        spec = self.spec.within(path, request, values)
        return await _Look(spec, f"{self.parts.prefix}{path}/").all(lacking)


def _passed_on(ctx: RunContext, wiring: Wiring) -> list[int]:
    """The output limit of a value that is written anew in the place of an item, where the stage does that."""
    limits = [ctx.inputs.producer(source).max_tokens or 0 for source in wiring.flows] if wiring.passes_on else []
    return [0, *limits]


def _over(stage: Stage) -> bool:
    """True for a stage of items."""
    return any(use.flows for use in stage.expressions())


def _most_items(
    stage: Stage,
    wiring: Wiring,
    known: Mapping[tuple[str, str], int],
    bounds: Mapping[str, int | None],
) -> int | None:
    """How many items a stage is given at most, as far as that can be said beforehand."""
    if not _over(stage):
        return 1
    most = [known.get((flow.stage, flow.field), bounds.get(flow.stage)) for flow in wiring.flows.values()]
    return most[0] if most else None


class _NotAsked(FusionError):  # noqa: N818 - nothing went wrong
    """Ends a stage at its first call."""


class _Rehearsal(RunContext):
    """Context of a stage that runs up to its first calls, which are recorded and not made."""

    inputs: "_CheckedInputs"
    models: "_RecordedModels"

    def __init__(self, path: str, stage: Stage, look: _Look) -> None:
        super().__init__(path, stage, look.parts, Fields(stage.outputs))  # its own fields may be given already
        self.inputs = _CheckedInputs(self)
        self.models = _RecordedModels(self, look)
        self.chosen = ""
        self.known: int | None = None

    async def rehearse(self) -> str:
        """Run the stage; return the reason if it makes no call. Raises PromptError for a broken template."""
        note = ""
        try:
            await self.stage.model_copy(update={"on_error": "skip"}).run(self)
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

    def render(self, template: str, values: Variables) -> tuple[Message, ...]:
        try:
            return super().render(template, values)
        except PromptError as error:
            self.broken = self.broken or error
            raise


class _RecordedModels(RunModels):
    """Models that record calls and inner stages in place of making them."""

    def __init__(self, ctx: _Rehearsal, look: _Look) -> None:
        super().__init__(ctx)
        self._look = look
        self.asked: list[PreviewedCall] = []
        self.ways: dict[str, list[PreviewedStage]] = {}

    async def run_stage(self, name: str) -> Outcome:
        self.ways[name] = await self._look.shown(f"{self._ctx.path}/{name}")
        raise _NotAsked("not run")

    async def run_pipeline(self, inputs: Mapping[str, Any]) -> Outcome:
        self.ways[""] = await self._look.pipeline(self._ctx.path, inputs)
        raise _NotAsked("not run")

    async def call(self, ask: Ask) -> Answer:
        caller = self.caller(ask)
        messages = tuple(caller.messages(self.under_system(ask)))
        self.asked.append(
            PreviewedCall(
                stage=self._ctx.place,
                item=ask.item,
                step=ask.step,
                role=ask.role,
                model=caller.model_id,
                messages=messages,
                tokens=estimate_input(messages),
                max_tokens=caller.max_tokens,
            )
        )
        raise _NotAsked("not asked")
