"""What each stage reads of others: which fields it waits for and which feeds it follows, per field."""

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
from fusion.stages.base import OutputField, Stage

ALWAYS = frozenset({"inputs", "request"})
"""What every template and expression may read."""

Schemas = Mapping[str, Mapping[str, JsonSchema]]
"""JSON Schemas by the paths of stages and the keys that declare them."""

Broken = Callable[[str, str], None]
"""Takes the key of a template or expression that cannot be compiled, and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is read of a stage: its first field under the stage's bare name, or fields by their names."""

    bare: bool = False
    fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Flow:
    """A feed that is followed item by item."""

    stage: str
    field: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """How one stage hangs together with the others."""

    waits: Mapping[str, Part] = field(default_factory=dict)
    when: Mapping[str, Part] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)
    schemas: Mapping[str, JsonSchema] = field(default_factory=dict)
    passes_on: bool = False
    """True for a stage whose items have the shape of those that it follows."""


def wire(
    pipeline: Pipeline, prompts: Prompts, *, near: File | None = None, schemas: Schemas | None = None
) -> dict[str, Wiring]:
    """The wiring of every stage of a pipeline that has been checked; with `schemas`, no file is read for them."""
    known = schemas_of(pipeline, near=near) if schemas is None else schemas
    stages = stages_within(pipeline.stages)
    return {path: _of_stage(stage, pipeline, prompts, known.get(path, {})) for path, stage in stages.items()}


def schemas_of(pipeline: Pipeline, *, near: File | None = None) -> dict[str, dict[str, JsonSchema]]:
    """The JSON Schemas that the stages of a checked pipeline declare, by the stages' paths and their keys."""
    return {
        path: {key: to_json_schema(shape, near=near) for key, shape in stage.schemas()}
        for path, stage in stages_within(pipeline.stages).items()
    }


def output_wiring(pipeline: Pipeline, prompts: Prompts) -> dict[str, dict[str, Part]]:
    """For each name of the output ("" where it is one expression): what its expression reads."""
    outputs = {"": pipeline.output} if isinstance(pipeline.output, str) else pipeline.output
    return {name: _parts(prompts.expression(source).paths, pipeline.stages) for name, source in outputs.items()}


def _of_stage(stage: Stage, pipeline: Pipeline, prompts: Prompts, schemas: Mapping[str, JsonSchema]) -> Wiring:
    flows: dict[str, Flow] = {}
    paths: set[Path] = set()
    when: set[Path] = set()
    for use in stage.expressions():
        expression = prompts.expression(use.source)
        flow = _flow(expression.paths, pipeline.stages) if use.flows and expression.bare else None
        if flow is not None:
            flows[use.source] = flow
        else:
            (when if use.key == "when" else paths).update(_free(expression.paths, use.offers))
    for prompt in stage.prompts():
        paths.update(_free(prompts.template(prompt.template).paths, prompt.offers))
    return Wiring(
        waits=_parts(paths, pipeline.stages),
        when=_parts(when, pipeline.stages),
        flows=flows,
        schemas=schemas,
        passes_on=stage.passes_on,
    )


def _free(paths: frozenset[Path], offers: frozenset[str]) -> Iterator[Path]:
    return (path for path in paths if path[0] not in offers)


def _flow(paths: frozenset[Path], stages: Mapping[str, Stage]) -> Flow | None:
    path = next(iter(paths))
    if path[0] not in stages or len(path) > 2:
        return None
    outputs = {output.name: output for output in stages[path[0]].outputs}
    output: OutputField | None = stages[path[0]].outputs[0] if len(path) == 1 else outputs.get(path[1])
    return Flow(path[0], output.name) if output is not None and output.feed else None


def _parts(paths: frozenset[Path] | set[Path], stages: Mapping[str, Stage]) -> dict[str, Part]:
    fields: dict[str, set[str]] = {}
    for path in paths:
        if path[0] in stages:
            fields.setdefault(path[0], set()).update(path[1:2])
    return {name: Part(bare=not named, fields=frozenset(named)) for name, named in fields.items()}


@dataclass(frozen=True, slots=True)
class Use:
    """A template or an expression of a stage: what it reads, and what the stage itself offers to it."""

    key: str
    source: str
    paths: frozenset[Path]
    offers: frozenset[str] = frozenset()
    flows: bool = False
    listed: bool = False
    """True for an expression of items, whether it flows or not."""


class Edge(NamedTuple):
    """A field of one stage that another one reads; one that `flows` is followed item by item."""

    source: str
    target: str
    field: str
    flows: bool


def edges_of(pipeline: Pipeline, prompts: Prompts) -> list[Edge]:
    """Every field that a stage reads or waits for, by its reader. Raises PromptError."""
    found: dict[tuple[str, str, str], bool] = {}
    for name, stage in pipeline.stages.items():
        uses = list(uses_of(stage, prompts, _raise))
        for source, output in sorted(fields_of(pipeline, uses, stage.needs)):
            found[source, name, output] = False
        for source, output in fields_of(pipeline, [use for use in uses if use.flows]):
            found[source, name, output] = _is_feed(pipeline, source, output)
    return [Edge(*read, flows) for read, flows in found.items()]


def output_stages(pipeline: Pipeline, prompts: Prompts) -> dict[str, list[str]]:
    """The stages that each expression of the output reads."""
    found = {}
    for name, source in pipeline.outputs.items():
        use = Use("output", source, prompts.expression(source).paths)
        found[name] = list(dict.fromkeys(stage for stage, _ in sorted(fields_of(pipeline, [use]))))
    return found


def _is_feed(pipeline: Pipeline, stage: str, field: str) -> bool:
    return any(output.feed and output.name == field for output in pipeline.stages[stage].outputs)


def dependencies(pipeline: Pipeline, prompts: Prompts) -> dict[str, set[tuple[str, str]]]:
    """For each stage: the (stage, field) pairs that it reads or waits for. Raises PromptError."""
    return {
        name: set(fields_of(pipeline, uses_of(stage, prompts, _raise), stage.needs))
        for name, stage in pipeline.stages.items()
    }


def stage_order(pipeline: Pipeline, prompts: Prompts) -> tuple[str, ...]:
    """The stages, each behind those that it depends on, else as they stand in the file. Raises PipelineError."""
    edges = {name: {read for read, _ in reads} for name, reads in dependencies(pipeline, prompts).items()}
    if cycles := cycles_of(edges):
        raise PipelineError([Problem(pipeline.name, 0, 0, f"stages.{c[0]}", cycle_words(c)) for c in cycles])
    return tuple(TopologicalSorter(edges).static_order())


def uses_of(stage: Stage, prompts: Prompts, broken: Broken) -> Iterator[Use]:
    """Every template and expression of a stage that can be compiled."""
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


def fields_of(pipeline: Pipeline, uses: Iterable[Use], needs: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    for use in uses:
        for path in use.paths:
            if path[0] in pipeline.stages and path[0] not in use.offers:
                yield path[0], field_of(pipeline, path)
    for name in needs:
        if name in pipeline.stages:
            yield name, field_of(pipeline, (name,))


def field_of(pipeline: Pipeline, path: Path) -> str:
    """The field that a path into a stage reads; a bare name means the first."""
    return path[1] if len(path) > 1 else pipeline.stages[path[0]].outputs[0].name


def _raise(key: str, message: str) -> None:
    raise PromptError(f"{key}: {message}")


def cycles_of(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Every cycle that is left when those found before it are cut; each begins at its first stage in the file."""
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


def stages_within(stages: Mapping[str, Stage], prefix: str = "") -> dict[str, Stage]:
    """Stages by their paths, each followed by those within it."""
    found: dict[str, Stage] = {}
    for name, stage in stages.items():
        found[prefix + name] = stage
        found.update(stages_within(stage.inner(), f"{prefix}{name}/"))
    return found
