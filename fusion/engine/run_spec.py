"""Subject: what a run is made of, for the engine and for those who say beforehand how it may go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fusion.core.params import CacheMode
from fusion.core.types import Limits
from fusion.engine.roles import RoleModels
from fusion.pipeline.dataflow import Schemas, stages_within
from fusion.pipeline.loader import Made, Nested
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Prompts
from fusion.stages.base import Stage


@dataclass(frozen=True, slots=True)
class Subject:
    """What a run is made of. `by_hand` is true for a limit in dollars that the user gave.

    Files of schemas are looked up in `near`, or stand in `schemas` with what they hold. `nested` are the pipelines
    that its stages run.
    """

    pipeline: Pipeline
    prompts: Prompts
    roles: RoleModels
    profile: str
    inputs: Mapping[str, Any]
    request: str
    near: Path | None
    nested: Mapping[str, Nested]
    limits: Limits
    by_hand: bool
    schemas: Schemas | None = None

    @property
    def stages(self) -> dict[str, Stage]:
        """Every stage by its path in events and receipts, those within others and of nested pipelines too."""
        return _stages(self.pipeline, self.nested)


def _stages(pipeline: Pipeline, nested: Mapping[str, Nested], prefix: str = "") -> dict[str, Stage]:
    found = {f"{prefix}{path}": stage for path, stage in stages_within(pipeline.stages).items()}
    for path, one in nested.items():
        found.update(_stages(one.pipeline, one.nested, f"{prefix}{path}/"))
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a run is made: what it is given, what it may spend, and where replies may come from."""

    inputs: Mapping[str, Any]
    request: str
    limits: Limits
    strict_usd: bool
    profile: str
    cache: CacheMode | None = None
    sample: int = 0


class Prepared(NamedTuple):
    """All that a run is made of."""

    made: Made
    roles: RoleModels
    terms: Terms

    @property
    def subject(self) -> Subject:
        """What the engine runs, and what is looked at beforehand."""
        made, roles, terms = self
        return Subject(
            made.pipeline,
            prompts=made.prompts,
            roles=roles,
            profile=terms.profile,
            inputs=terms.inputs,
            request=terms.request,
            near=made.near,
            nested=made.nested,
            limits=terms.limits,
            by_hand=terms.strict_usd,
            schemas=made.schemas,
        )
