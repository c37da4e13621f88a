"""Prepare: from a pipeline, inputs and limits to the spec of a run, checked before any call."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fusion.core.budget import over
from fusion.core.errors import MissingKeyError, UsageError
from fusion.core.params import AnswerOptions, CacheMode, RoleSpec
from fusion.core.types import Limits
from fusion.engine.answering.effects import under_options
from fusion.engine.context.learned import figures_of
from fusion.engine.manifest import Record
from fusion.engine.roles import Cast, stray_limits
from fusion.engine.run_spec import RunSpec, checked_inputs
from fusion.models.catalog.learned import Learned
from fusion.pipeline.check import unusable_tool
from fusion.pipeline.loader import LoadedPipeline
from fusion.sandbox import SandboxDoor
from fusion.tools.base import Toolbox


def prepare(
    cast: Cast,
    loaded: LoadedPipeline,
    *,
    request: str | None = None,
    inputs: Mapping[str, Any],
    limits: Limits | None = None,
    cache: CacheMode | None = None,
    sample: int = 0,
    batch: bool = False,
    answer: AnswerOptions | None = None,
    before: Mapping[str, RoleSpec] | None = None,
) -> RunSpec:
    """Return the spec of a new run, with the options of its answer.

    `before` holds the roles of the run that it repeats, if any.

    Raises InputError, MissingKeyError or another UsageError for a run that cannot start.
    """
    given = checked_inputs(cast.with_defaults(loaded), request, inputs)
    more: dict[str, Any] = {"cache": cache, "sample": sample, "batch": batch, "answer": answer}
    return prepare_many(cast, loaded, limits=limits, before=before, **more).on(*given)


def prepare_many(
    cast: Cast,
    loaded: LoadedPipeline,
    *,
    limits: Limits | None = None,
    cache: CacheMode | None = None,
    sample: int = 0,
    batch: bool = False,
    answer: AnswerOptions | None = None,
    before: Mapping[str, RoleSpec] | None = None,
) -> RunSpec:
    """Return the spec that runs on many inputs share: `with_inputs` returns that of one of them.

    Raises MissingKeyError or another UsageError if none of them can start.
    """
    loaded = cast.with_defaults(loaded)
    spec = RunSpec(
        loaded,
        cast.of(loaded, before),
        inputs={},
        request="",
        limits=over(loaded.pipeline.budget.tighter(cast.settings.limits), limits),
        strict_usd=limits is not None and limits.usd is not None,
        profile=cast.profile.name,
        cache=cache,
        sample=sample,
        batch=batch,
        learned=_learned(cast, loaded),
        answer_tokens=cast.answer_tokens,
        toolbox=cast.toolbox,
        sandbox=SandboxDoor(cast.settings.sandbox),
        notes=(*loaded.dataflow.notes, *stray_limits(cast.settings, cast.own)),
    )
    check_tools(loaded, cast.toolbox)
    notes = spec.roles.live_notes.get(batch)
    if notes is None:
        notes = spec.roles.live_notes[batch] = live_notes(spec)
    spec = replace(spec, notes=(*spec.notes, *notes)) if notes else spec
    return spec if answer is None else under_options(spec, answer)


def check_tools(loaded: LoadedPipeline, toolbox: Toolbox) -> None:
    """Raise UsageError for a tool that no source of tools can have, without starting any."""
    for flaw in missing_tools(loaded, toolbox):
        raise UsageError(flaw)


def missing_tools(loaded: LoadedPipeline, toolbox: Toolbox) -> Iterator[str]:
    """Yield a reason for each tool of a pipeline that no source of tools can have, with its place in the file."""
    for path, stage in loaded.dataflow.stages.items():
        for key, name in stage.tools_used():
            if (reason := unusable_tool(name, toolbox)) is not None:
                yield f"{loaded.place_of(path, key)}: {reason}"
    for one in loaded.nested.values():
        yield from missing_tools(one, toolbox)


def _learned(cast: Cast, loaded: LoadedPipeline) -> Callable[[], Learned] | None:
    """Return the reader of the learned figures, if the pipeline reads any. Raises UsageError for a damaged file."""
    if not loaded.reads_learned:
        return None
    found = figures_of(cast.settings)
    found()
    return found


def live_notes(spec: RunSpec) -> tuple[str, ...]:
    """Return a note for each role whose calls are meant for batches, and whose model has no batch API."""
    found: dict[str, None] = {}
    for name, stage in spec.loaded.dataflow.stages.items():
        for role in dict.fromkeys(role for _, role in stage.roles()):
            mode = spec.batch_mode(stage, role)
            if mode == "always" or (spec.batch and mode == "auto"):
                why = spec.roles.no_batches(spec.roles[role].models[0].id)
                asked = f"stages.{name}: `batch: always`" if mode == "always" else "`--batch`"
                if why is not None:
                    found[f"{asked} has no effect on role {role!r}, whose calls are made live: {why}"] = None
    for path in spec.loaded.nested:
        found |= dict.fromkeys(live_notes(spec.within(path, spec.request, spec.inputs)))
    return tuple(found)


def prepare_branch(cast: Cast, loaded: LoadedPipeline, record: Record, limits: Limits | None) -> RunSpec:
    """Return the spec of an edited pipeline on the inputs of an earlier run, and on its models by default."""
    spec = prepare(
        cast,
        loaded,
        inputs={name: value for name, value in record.inputs.items() if name in loaded.pipeline.inputs},
        limits=limits,
        cache=record.data["cache"],
        sample=record.data["sample"],
        batch=record.data.get("batch", False),
        answer=record.answer,
        before=record.undeclared,
    )
    return spec if cast.profile_given else replace(spec, profile=record.data["profile"])


def prepare_without_keys(
    cast: Cast, loaded: LoadedPipeline, *, make: Callable[..., RunSpec] = prepare, **given: Any
) -> RunSpec:
    """Return the spec of a run that makes no call, by `make`. Its `notes` name what a real run lacks."""
    keys: tuple[str, ...] = ()
    while True:
        try:
            spec = make(cast.with_keys(keys), loaded, **given)
        except MissingKeyError as error:
            if not set(error.keys) - set(keys):
                raise
            keys = tuple(dict.fromkeys([*keys, *error.keys]))
        else:
            are = "are" if len(keys) > 1 else "is"
            notes = (f"a run needs {' and '.join(keys)}, which {are} not set",) if keys else ()
            lacking = dict.fromkeys(missing_tools(loaded, cast.toolbox))
            return replace(spec, notes=(*spec.roles.notes, *spec.notes, *notes, *lacking))
