"""Dataflow: the fields that each stage of a pipeline reads of others, and the order that follows from them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path as File
from typing import NamedTuple

from fusion.core.errors import PipelineError, Problem, PromptError
from fusion.core.schema import to_json_schema
from fusion.core.types import JsonSchema
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Path, Prompts
from fusion.stages.base import Stage

ALWAYS = frozenset({"inputs", "request"})
"""Variables of every template and expression."""

Stages = Mapping[str, Stage]
Schemas = Mapping[str, Mapping[str, JsonSchema]]
"""JSON Schemas by the paths of stages and the keys that declare them."""

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


@dataclass(frozen=True, slots=True)
class Part:
    """The fields read of a stage. `bare` is true for its first field, read under the stage's own name."""

    bare: bool = False
    fields: frozenset[str] = frozenset()


class Flow(NamedTuple):
    """A feed that is followed item by item."""

    stage: str
    field: str


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
    passes_on: bool = False
    """True for a stage whose items have the shape of those that it follows."""

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
    def before(self) -> set[str]:
        """Every stage that it depends on."""
        return {*self.sources, *self.when, *self.needs}


class Dataflow:
    """The reads of every stage of a pipeline, by path, and of its output, by name.

    Raises PromptError for a template or expression that cannot be compiled.
    """

    def __init__(self, pipeline: Pipeline, prompts: Prompts, schemas: Schemas | None = None) -> None:
        self._pipeline = pipeline
        self.wirings: dict[str, Wiring] = {
            path: wiring_of(stage, uses_of(stage, prompts, _raise), pipeline.stages, (schemas or {}).get(path))
            for path, stage in stages_within(pipeline.stages).items()
        }
        self.outputs: dict[str, dict[str, Part]] = {
            name: _parts(prompts.expression(source).paths, pipeline.stages)
            for name, source in pipeline.outputs.items()
        }

    @property
    def edges(self) -> list[Edge]:
        """Every field that a stage reads or waits for, by its reader."""
        return [edge for name in self._pipeline.stages for edge in self._edges_to(name)]

    @property
    def order(self) -> tuple[str, ...]:
        """The stages, each after those that it depends on. Raises PipelineError for a cycle."""
        before = {name: self.wirings[name].before for name in self._pipeline.stages}
        if cycles := cycles_of(before):
            raise PipelineError(
                [Problem(self._pipeline.name, 0, 0, f"stages.{c[0]}", cycle_words(c)) for c in cycles]
            )
        return tuple(TopologicalSorter({name: sorted(names) for name, names in before.items()}).static_order())

    @property
    def last(self) -> list[str]:
        """The stages that the output reads."""
        return list(dict.fromkeys(name for parts in self.outputs.values() for name in parts))

    def _edges_to(self, name: str) -> Iterator[Edge]:
        wiring = self.wirings[name]
        needed = {(other, self._pipeline.stages[other].outputs[0].name) for other in wiring.needs}
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
    for use in uses:
        if use.listed:
            over = frozenset(path[0] for path in use.paths if path[0] in stages)
        flow = _flow(use, stages)
        if flow is not None:
            flows[use.source] = flow
        else:
            (when if use.key == "when" else waits).update(path for path in use.paths if path[0] not in use.offers)
    return Wiring(
        waits=_parts(waits, stages),
        when=_parts(when, stages),
        flows=flows,
        needs=tuple(name for name in stage.needs if name in stages),
        over=over,
        schemas=schemas or {},
        passes_on=stage.passes_on,
    )


def uses_of(stage: Stage, prompts: Prompts, broken: Broken) -> Iterator[Use]:
    """Yield every template and expression of a stage that can be compiled."""
    for use in stage.expressions():
        try:
            expression = prompts.expression(use.source)
        except PromptError as error:
            broken(use.key, str(error))
        else:
            flows = use.flows and expression.bare
            yield Use(use.key, use.source, expression.paths, use.offers, flows, use.flows)
    for prompt in stage.prompts():
        try:
            yield Use(prompt.key, prompt.template, prompts.template(prompt.template).paths, prompt.offers)
        except PromptError as error:
            broken(prompt.key, str(error))


def schemas_of(pipeline: Pipeline, *, near: File | None = None) -> dict[str, dict[str, JsonSchema]]:
    """Return the JSON Schemas that stages declare, by path and key."""
    return {
        path: {key: to_json_schema(shape, near=near) for key, shape in stage.schemas()}
        for path, stage in stages_within(pipeline.stages).items()
    }


def field_of(path: Path, stages: Stages) -> str:
    """Return the field that a path into a stage reads: the first one for a bare name."""
    return path[1] if len(path) > 1 else stages[path[0]].outputs[0].name


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
    feeds = (output.name for output in stages[flow.stage].outputs if output.feed)
    return flow if flow.field in feeds else None


def _parts(paths: Iterable[Path], stages: Stages) -> dict[str, Part]:
    named: dict[str, set[str]] = {}
    for path in sorted(paths):
        if path[0] in stages:
            named.setdefault(path[0], set()).update(path[1:2])
    return {
        name: Part(not fields, frozenset(fields or {stages[name].outputs[0].name})) for name, fields in named.items()
    }


def _pairs(parts: Mapping[str, Part]) -> Iterator[tuple[str, str]]:
    return ((name, field) for name, part in parts.items() for field in part.fields)
