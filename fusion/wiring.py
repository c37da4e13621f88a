"""What each stage reads of others: which fields it waits for and which feeds it follows, per field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from fusion.core.schema import to_json_schema
from fusion.core.types import JsonSchema
from fusion.fields import Fields
from fusion.graph import Schemas, stages_within
from fusion.prompts.template import Path, Prompts
from fusion.spec import Pipeline
from fusion.stages.base import OutputField, Stage


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


async def read(parts: Mapping[str, Part], fields: Mapping[str, Fields]) -> dict[str, Any]:
    """The values of other stages that an expression or a template names, once they have come."""
    values: dict[str, Any] = {}
    for name, part in parts.items():
        if part.bare:
            values[name] = await fields[name].value(fields[name].first)
        else:
            values[name] = {field: await fields[name].value(field) for field in part.fields}
    return values


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
