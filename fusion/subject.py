"""Subject: what a run is made of, for the engine and for those who say beforehand how it may go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.core.types import Limits
from fusion.graph import Nested, Schemas, stages_within
from fusion.prompts.template import Prompts
from fusion.roles import RoleModels
from fusion.spec import Pipeline
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
