"""RunSpec: the pipeline, models, inputs and limits of a run, for the engine and for quotes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion.core.params import CacheMode
from fusion.core.types import Limits
from fusion.engine.roles import RoleModels
from fusion.models.base import ModelInfo
from fusion.pipeline.dataflow import stages_within
from fusion.pipeline.loader import LoadedPipeline
from fusion.pipeline.material import RunMaterial, documents
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Prompts
from fusion.stages.base import Stage
from fusion.stages.context import Room


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A pipeline with its models, inputs and limits.

    With `strict_usd`, set by a user's own limit in dollars, calls of unknown price are refused. `cache` overrides the
    cache modes of the pipeline; `sample` distinguishes repeats of a run for the cache.
    """

    loaded: LoadedPipeline
    roles: RoleModels
    inputs: Mapping[str, Any]
    request: str
    limits: Limits
    strict_usd: bool
    profile: str
    cache: CacheMode | None = None
    sample: int = 0
    notes: tuple[str, ...] = ()
    """Notes on the pipeline; for a preview or quote also those on models and keys."""
    widest: bool = False
    """True for the worst case of a simulation: every subtask reads the largest sections."""

    @property
    def pipeline(self) -> Pipeline:
        return self.loaded.pipeline

    @property
    def prompts(self) -> Prompts:
        return self.loaded.prompts

    def within(self, path: str, request: str, inputs: Mapping[str, Any]) -> "RunSpec":
        """Return the spec of the pipeline that the stage at this path runs."""
        loaded = self.loaded.nested[path]
        return RunSpec(
            loaded,
            self.roles.nested[path],
            inputs,
            request,
            limits=loaded.pipeline.budget,
            strict_usd=False,
            profile=self.profile,
            cache=self.cache,
            sample=self.sample,
            widest=self.widest,
        )

    def material(self) -> RunMaterial:
        """Return the material of one run."""
        found = documents(self.loaded.dataflow.material, self.request, self.inputs)
        return RunMaterial(tuple(found), widest=self.widest)

    def works_twice(self, path: str) -> bool:
        """Return True if a stage works a subtask once more whose sections lack what it needs."""
        dataflow, stage = self.loaded.dataflow, stages_within(self.pipeline.stages)[path]
        origin = dataflow.origin(path)
        if origin is None or not dataflow.wirings[path].shows_material or not stage.works_sections:
            return False
        plan = self.pipeline.stages[origin]
        if not plan.plans or getattr(plan, "reading", "") != "outline":
            return False
        return getattr(plan, "sections", None) is not None or self.material().sections.pay

    def max_tokens(self, stage: Stage, asked: int | None = None) -> int:
        """Return the output limit of a call: its own, else the stage's, the defaults', or the kind's."""
        own = getattr(stage, "max_tokens", None)
        return asked or own or self.pipeline.defaults.max_tokens or stage.own_max_tokens

    def output_limit(self, stage: Stage, info: ModelInfo, asked: int | None) -> int:
        """Return `max_tokens`, limited by the model."""
        limit = self.max_tokens(stage, asked)
        return limit if info.max_output is None else min(limit, info.max_output)

    def room(self, stage: Stage, role: str, asked: int | None = None) -> Room:
        """Return the room of a call of the stage to this role, in tokens."""
        info = self.roles[role].models[0]
        output = self.output_limit(stage, info, asked)
        return Room(None if info.context is None else info.context - output, output)
