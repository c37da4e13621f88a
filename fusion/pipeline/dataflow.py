"""Dataflow: the fields that each stage of a pipeline reads of others, and the order that follows from them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path as File
from typing import NamedTuple

from fusion.core.errors import PipelineError, Problem, PromptError
from fusion.core.schema import to_json_schema
from fusion.core.types import ITEM_FIELDS, JsonSchema
from fusion.pipeline.bodies import Around
from fusion.pipeline.material import material_inputs
from fusion.pipeline.spec import InputSpec, Pipeline
from fusion.prompts.template import Path, Prompts
from fusion.stages.base import LEARNED, REPLACED, Stage

ALWAYS = frozenset({"inputs", "request"})
"""Variables of every template and expression."""

MATERIAL = "material"
"""Variable of every template for a model."""

Stages = Mapping[str, Stage]
Schemas = Mapping[str, Mapping[str, JsonSchema]]
"""JSON Schemas by the paths of stages and the keys that declare them."""

_NONE: frozenset[str] = frozenset()

Broken = Callable[[str, str], None]
"""Called with the key of a template or expression that cannot be compiled, and the error message."""


@dataclass(frozen=True, slots=True)
class Use:
    """A template or an expression of a stage: the paths that it reads and the variables that the stage offers."""

    key: str
    source: str
    paths: frozenset[Path]
    offers: frozenset[str] = frozenset()
    flows: bool = False
    listed: bool = False
    """True for an expression of items, even if it does not flow."""
    worked_on: bool = False
    """True for an expression whose inputs are material."""
    extras: frozenset[str] = frozenset()
    """Those of `offers` that a stage of the same name replaces."""
    mentions: frozenset[str] = frozenset()
    """Names of all attributes that it reads."""
    shipped: bool = False
    """True for a template that comes with Fusion."""
    unguarded: frozenset[str] = frozenset()
    """Variables that a template reads outside of an `if` that tests them."""
    of_inputs: bool = False
    """True for a template that reads nothing that a model wrote."""

    @property
    def inputs(self) -> set[str]:
        """The inputs that it reads by name."""
        return {path[1] for path in self.paths if path[0] == "inputs" and len(path) > 1}


@dataclass(frozen=True, slots=True)
class Part:
    """The fields read of a stage. `bare` is true for its first field, read under the stage's own name."""

    bare: bool = False
    fields: frozenset[str] = frozenset()


class Flow(NamedTuple):
    """A feed that is followed item by item."""

    stage: str
    field: str


class TableRead(NamedTuple):
    """Fields of an item itself, by their names, that a template reads where the items are the rows of an input."""

    stage: str
    key: str
    table: str
    names: tuple[str, ...]


class Edge(NamedTuple):
    """A field of one stage that another one reads; one that `flows` is followed item by item."""

    source: str
    target: str
    field: str
    flows: bool


@dataclass(frozen=True, slots=True)
class Wiring:
    """The reads of one stage: fields to wait for, fields of its `when`, and feeds by the expressions that name them.

    `needs` names stages to wait for whose fields it does not read. `over` names the stages in the expression of its
    items; None for a stage without items.
    """

    waits: Mapping[str, Part] = field(default_factory=dict)
    when: Mapping[str, Part] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    over: frozenset[str] | None = None
    schemas: Mapping[str, JsonSchema] = field(default_factory=dict)
    depends: bool = False
    """True for a stage of a body whose items come from around it, or from an earlier round."""
    passes_on: bool = False
    """True for a stage whose items have the shape of those that it follows."""
    shows_material: bool = False
    """True if a template of the stage prints the material."""
    shows_shown: bool = False
    """True if the stage reads what its items were written from."""

    @property
    def reads(self) -> set[tuple[str, str]]:
        """The (stage, field) pairs that it reads, those of its `when` excepted."""
        return {*_pairs(self.waits), *self.flows.values()}

    @property
    def sources(self) -> set[str]:
        """The stages that it reads, those of its `when` excepted."""
        return {name for name, _ in self.reads}

    @property
    def flow(self) -> Flow | None:
        """The feed that its items come from, if it follows one."""
        return next(iter(self.flows.values()), None)

    @property
    def items_of(self) -> str | None:
        """The only stage in the expression of its items; None for none, or several."""
        return next(iter(self.over)) if self.over and len(self.over) == 1 else None

    @property
    def before(self) -> set[str]:
        """Every stage that it depends on."""
        return {*self.sources, *self.when, *self.needs}


class Dataflow:
    """The reads of every stage of a pipeline, by path, and of its output, by name; `around` is that of a body.

    Raises PromptError for a template or expression that cannot be compiled.
    """

    def __init__(
        self, pipeline: Pipeline, prompts: Prompts, schemas: Schemas | None = None, around: Around | None = None
    ) -> None:
        self._pipeline = pipeline
        self.stages = stages_within(pipeline.stages)
        """Its stages by path, inner ones included."""
        names = around.names if around is not None else _NONE
        uses = {
            path: list(uses_of(stage, prompts, _raise, item_offers_at(path, self.stages), around=names))
            for path, stage in self.stages.items()
        }
        self.wirings: dict[str, Wiring] = {
            path: wiring_of(stage, uses[path], pipeline.stages, (schemas or {}).get(path))
            for path, stage in self.stages.items()
        }
        outputs = {name: prompts.expression(source).paths for name, source in pipeline.outputs.items()}
        for source in pipeline.columns.values():
            outputs[""] |= {path for path in prompts.expression(source).paths if path[0] != "item"}
        self.outputs: dict[str, dict[str, Part]] = {
            name: _parts(paths, pipeline.stages) for name, paths in outputs.items()
        }
        given = [Use("output", "", paths) for paths in outputs.values()]
        self.table_reads = [
            read for path, of_stage in uses.items() for read in table_reads(path, of_stage, pipeline.inputs)
        ]
        """The fields of items that templates read over rows: columns of the same names are hidden."""
        self._uses = uses
        every = [*(use for of_stage in uses.values() for use in of_stage), *given]
        self.material = material_of(pipeline, every) if around is None else around.material
        """The inputs that are material."""

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes on templates that print a whole text of the material for every item."""
        texts = {name for name in self.material if self._pipeline.inputs[name].format == "text"}
        return tuple(
            f"stages.{path}.{use.key} prints all of `inputs.{name}` for every item; item.source is its own part"
            for path, stage in self.stages.items()
            if getattr(stage, "usual_reads", "") == "item"
            for use in self._uses[path]
            for name in sorted(texts & {at[1] for at in use.paths if at[0] == "inputs" and len(at) == 2})
            if not (use.listed or use.worked_on or use.key.startswith(("when", "role", "checks")))
        )

    @cached_property
    def learned_reads(self) -> tuple[tuple[str, str], ...]:
        """The (label, role) pairs whose learned figures expressions name."""
        return tuple(sorted({(path[1], path[2]) for path in self._learned_paths if len(path) > 2}))

    @property
    def reads_learned(self) -> bool:
        """True if a stage or an expression reads learned figures."""
        return bool(self._learned_paths) or any(stage.reads_learned for stage in self.stages.values())

    @cached_property
    def _learned_paths(self) -> frozenset[Path]:
        uses = [use for of_stage in self._uses.values() for use in of_stage if LEARNED in use.offers]
        if LEARNED in self._pipeline.stages:
            return frozenset()
        return frozenset(path for use in uses for path in use.paths if path[0] == LEARNED)

    @property
    def shows_material(self) -> bool:
        """True if a template of the pipeline prints the material."""
        return any(wiring.shows_material for wiring in self.wirings.values())

    @property
    def edges(self) -> list[Edge]:
        """Every field that a stage reads or waits for, by its reader."""
        return [edge for name in self._pipeline.stages for edge in self._edges_to(name)]

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The stages, each after those that it depends on. Raises PipelineError for a cycle."""
        before = {name: self.wirings[name].before for name in self._pipeline.stages}
        if cycles := cycles_of(before):
            raise PipelineError(
                [Problem(self._pipeline.name, 0, 0, f"stages.{c[0]}", cycle_words(c)) for c in cycles]
            )
        return tuple(TopologicalSorter({name: sorted(names) for name, names in before.items()}).static_order())

    def origin(self, path: str) -> str | None:
        """Return the stage that the items of a stage come from at first; None without items of another stage."""
        seen: list[str] = [path]
        while (before := self.wirings[seen[-1]].items_of) is not None and before not in seen:
            seen.append(before)
        return seen[-1] if len(seen) > 1 else None

    def readers(self, name: str) -> set[str]:
        """Return every stage that reads a stage, directly or through others."""
        found: set[str] = set()
        open_ones = [name]
        while open_ones:
            at = open_ones.pop()
            new = {path for path, wiring in self.wirings.items() if at in wiring.sources} - found
            found |= new
            open_ones += new
        return found

    def keeps_shown(self, path: str) -> bool:
        """Return True if a later stage reads what the items of this one were written from."""
        return any(self.wirings[reader].shows_shown for reader in self.readers(path))

    def combines(self, plan: str) -> bool:
        """Return True if a later stage combines the values of a plan's subtasks."""
        stages = self._pipeline.stages
        return any(stages[name].combines and self._worked_once(name, plan) for name in stages)

    def _worked_once(self, name: str, plan: str) -> bool:
        """Return True if the items of a stage are those of the plan, each worked by one stage that takes no shape."""
        works = 0
        at = self.wirings[name].items_of
        while at is not None and at != plan:
            stage = self._pipeline.stages[at]
            if not stage.passes_on:
                works += 1
                if not stage.works_subtasks:
                    return False
            at = self.wirings[at].items_of
        return at == plan and works == 1

    @cached_property
    def last(self) -> tuple[str, ...]:
        """The stages that the output reads."""
        return tuple(dict.fromkeys(name for parts in self.outputs.values() for name in parts))

    def _edges_to(self, name: str) -> Iterator[Edge]:
        wiring = self.wirings[name]
        needed = {(other, self._pipeline.stages[other].output_fields[0].name) for other in wiring.needs}
        flows = set(wiring.flows.values())
        for read in sorted({*wiring.reads, *_pairs(wiring.when), *needed}):
            yield Edge(read[0], name, read[1], read in flows)


def wiring_of(
    stage: Stage, uses: Iterable[Use], stages: Stages, schemas: Mapping[str, JsonSchema] | None = None
) -> Wiring:
    """Return the wiring of a stage among `stages`, given its templates and expressions."""
    flows: dict[str, Flow] = {}
    waits: set[Path] = set()
    when: set[Path] = set()
    over: frozenset[str] | None = None
    depends = False
    uses = list(uses)
    for use in uses:
        if use.listed:
            over = frozenset(path[0] for path in use.paths if path[0] in stages)
            depends = any(path[0] in use.offers and path[0] not in stages for path in use.paths)
        flow = _flow(use, stages)
        if flow is not None:
            flows[use.source] = flow
        else:
            offers = use.offers - (use.extras & stages.keys())
            (when if use.key == "when" else waits).update(path for path in use.paths if path[0] not in offers)
    return Wiring(
        waits=_parts(waits, stages),
        when=_parts(when, stages),
        flows=flows,
        needs=tuple(name for name in stage.needs if name in stages),
        over=over,
        schemas=schemas or {},
        depends=depends,
        passes_on=stage.passes_on,
        shows_material=MATERIAL not in stages and any(path[0] == MATERIAL for use in uses for path in use.paths),
        shows_shown=any("shown" in use.mentions for use in uses),
    )


def table_reads(stage: str, uses: Sequence[Use], inputs: Mapping[str, InputSpec]) -> Iterator[TableRead]:
    """Yield the fields of an item that templates of the author's read where the items are rows of a table."""
    over = next((use for use in uses if use.listed and use.source.strip().startswith("inputs.")), None)
    table = next(iter(over.inputs), "") if over is not None else ""
    if table not in inputs or inputs[table].format not in ("csv", "jsonl"):
        return
    for use in uses:
        paths = [path for path in use.paths if path[0] == "item" and len(path) > 1]
        names = {path[1] for path in paths if path[1] != "source" or len(path) == 2} & ITEM_FIELDS
        if names and not use.shipped:
            yield TableRead(stage, use.key, table, tuple(sorted(names)))


def material_of(pipeline: Pipeline, uses: Sequence[Use]) -> frozenset[str]:
    """Return the inputs that are material, given every template and expression of the pipeline."""
    read = {name for use in uses for name in use.inputs}
    nothing_hidden = not any(path == ("inputs",) for use in uses for path in use.paths)
    worked_on = {name for use in uses if use.worked_on for name in use.inputs}
    return material_inputs(pipeline, worked_on=worked_on, read=read if nothing_hidden else pipeline.inputs)


def item_offers_at(path: str, stages: Stages) -> frozenset[str]:
    """Return the variables for the item at work in the stage at a path: its own, and those of the stages around."""
    parts = path.split("/")
    around = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return frozenset[str]().union(*(stages[outer].item_offers for outer in around))


def uses_of(
    stage: Stage,
    prompts: Prompts,
    broken: Broken,
    item_offers: frozenset[str] = _NONE,
    *,
    around: frozenset[str] = _NONE,
) -> Iterator[Use]:
    """Yield every template and expression of a stage that can be compiled.

    `item_offers` are the variables for the item at work, which all but the items themselves and `when` can read.
    `around` are those of the surroundings of a body.
    """
    for use in stage.expressions():
        offers = around | (use.offers if use.flows or use.key == "when" else use.offers | item_offers)
        try:
            expression = prompts.expression(use.source)
        except PromptError as error:
            broken(use.key, str(error))
        else:
            flows = use.flows and expression.bare
            yield Use(
                use.key,
                use.source,
                expression.paths,
                offers,
                flows,
                use.flows,
                use.worked_on,
                extras=offers & REPLACED,
                mentions=expression.mentions,
            )
    for prompt in stage.prompts():
        try:
            template = prompts.template(prompt.template)
        except PromptError as error:
            broken(prompt.key, str(error))
        else:
            extras = prompt.extras | {MATERIAL} if prompt.for_model else prompt.extras
            yield Use(
                prompt.key,
                prompt.template,
                template.paths,
                prompt.offers | extras | item_offers | around,
                extras=extras,
                mentions=template.mentions,
                unguarded=template.unguarded,
                shipped=template.shipped,
                of_inputs=prompt.of_inputs,
            )


def schemas_of(pipeline: Pipeline, *, near: File | None = None) -> dict[str, dict[str, JsonSchema]]:
    """Return the JSON Schemas that stages declare, by path and key."""
    return {
        path: {key: to_json_schema(shape, near=near) for key, shape in stage.schemas()}
        for path, stage in stages_within(pipeline.stages).items()
    }


def field_of(path: Path, stages: Stages) -> str:
    """Return the field that a path into a stage reads: the first one for a bare name."""
    return path[1] if len(path) > 1 else stages[path[0]].output_fields[0].name


def stages_within(stages: Stages, prefix: str = "") -> dict[str, Stage]:
    """Return stages by path, each followed by its inner stages."""
    found: dict[str, Stage] = {}
    for name, stage in stages.items():
        found[prefix + name] = stage
        found.update(stages_within(stage.inner(), f"{prefix}{name}/"))
    return found


def cycles_of(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return every cycle, from its first stage in the file; each is cut before the next is searched."""
    left = {name: set(reads) for name, reads in edges.items()}
    names = list(edges)
    cycles: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            ring = error.args[1][:-1]
            start = min(range(len(ring)), key=lambda at: names.index(ring[at]))
            ring = ring[start:] + ring[:start]
            cycles.append([*ring, ring[0]])
            left[ring[0]].discard(ring[-1])
        else:
            return cycles


def cycle_words(cycle: list[str]) -> str:
    if len(cycle) == 2:
        return "the stage reads itself"
    return f"a cycle: {' -> '.join(cycle)}; each waits for the one before it"


def _raise(key: str, message: str) -> None:
    raise PromptError(f"{key}: {message}")


def _flow(use: Use, stages: Stages) -> Flow | None:
    """The feed that an expression follows, if it names one."""
    if not use.flows or not use.paths:
        return None
    path = next(iter(use.paths))
    if path[0] not in stages or len(path) > 2:
        return None
    flow = Flow(path[0], field_of(path, stages))
    feeds = (output.name for output in stages[flow.stage].output_fields if output.feed)
    return flow if flow.field in feeds else None


def _parts(paths: Iterable[Path], stages: Stages) -> dict[str, Part]:
    named: dict[str, set[str]] = {}
    for path in sorted(paths):
        if path[0] in stages:
            named.setdefault(path[0], set()).update(path[1:2])
    return {
        name: Part(not fields, frozenset(fields or {stages[name].output_fields[0].name}))
        for name, fields in named.items()
    }


def _pairs(parts: Mapping[str, Part]) -> Iterator[tuple[str, str]]:
    return ((name, field) for name, part in parts.items() for field in part.fields)
