"""Parts that the contexts of one run share, and the inner stages of a stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fusion.core.errors import BudgetError
from fusion.core.events import (
    AttemptCharged,
    ItemFinished,
    RoundStarted,
    Sink,
    StageFinished,
    StageGrew,
    StageStarted,
)
from fusion.core.result import FailedPart
from fusion.core.types import CallKey, Gate, GateAnswer
from fusion.engine.context.learned import LearnedByRole, PinnedFigures
from fusion.engine.fields import Fields
from fusion.engine.run_spec import RunSpec
from fusion.models.batches.window.clock import RunClock
from fusion.models.gateway import CallRecorder
from fusion.pipeline.dataflow import MATERIAL, Wiring
from fusion.pipeline.material import RunMaterial
from fusion.prompts.template import Fixed
from fusion.stages.base import LEARNED
from fusion.stages.context import (
    Conclusion,
    Outcome,
    Round,
)

OF_STAGES = (StageStarted, StageGrew, RoundStarted, StageFinished, ItemFinished)
"""Events of stages that are not sent for each item that an inner stage works on."""
AskPerson = Callable[[Gate], GateAnswer | None]
"""Asks a person at once, on a thread of its own; None if the gate stays open."""
OF_ITEM = ("item", "needed", MATERIAL)
"""Variables of an item that its inner stages read."""


class Inner(Protocol):
    """Runs the inner stages of a stage, and the pipelines nested in it."""

    async def stage(self, path: str, scope: "Scope | None" = None) -> Outcome: ...

    async def pipeline(self, path: str, inputs: Mapping[str, Any], scope: "Scope | None" = None) -> Outcome: ...

    async def tool(
        self, path: str, inputs: Mapping[str, Any], mark: str
    ) -> tuple[Outcome, tuple[FailedPart, ...]]: ...

    async def round(
        self, path: str, number: int, around: Mapping[str, Any], scope: "Scope | None" = None
    ) -> Round: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """The item that an inner stage works on: its index, and its variables for templates and expressions."""

    index: int
    variables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunParts:
    """Parts that the contexts of one run share."""

    run_id: str
    spec: RunSpec
    sink: Sink
    fields: Mapping[str, Fields]
    streamed: frozenset[str]
    prefix: str = ""
    """Prefix of the paths of a nested pipeline's stages: the path of the stage that runs it, and "/"."""
    recorder: CallRecorder = field(default_factory=CallRecorder)
    seed: str = ""
    """Seed of every shuffle."""
    clock: RunClock = field(default_factory=RunClock)
    material: RunMaterial = field(default_factory=lambda: RunMaterial(()))
    budget_stops: list[BudgetError] = field(default_factory=list)
    unusable: list[CallKey] = field(default_factory=list)
    """Calls whose replies no stage could use."""
    gates: list[Gate] = field(default_factory=list)
    """Open gates that stages wait at, those of nested pipelines included."""
    person: AskPerson | None = None
    """Asks the person who is there, if one is."""
    conclusions: dict[str, Conclusion] = field(default_factory=dict)
    """Ends of the last calls of answers, by the place of their stage, those of nested pipelines included."""
    charged: Sequence[AttemptCharged] = ()
    """Charges for attempts of earlier processes of the run."""
    step_prefix: str = ""
    """Prefix of the steps of a pipeline that runs for one item: its number, and "."."""
    learned: PinnedFigures | None = None
    """Learned figures of the run; None outside of one."""
    around: Mapping[str, Any] = field(default_factory=dict)
    """Variables from around a body, for all of its stages."""
    fixed: dict[str, Fixed] = field(default_factory=dict)
    """Variables of inner stages, by path, that are the same for all items."""

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that every stage reads."""
        own = {"inputs": self.spec.inputs, "request": self.spec.request, **self.around}
        if self.spec.learned is None:
            return own
        return {**own, LEARNED: LearnedByRole(self.figures, self.spec)}

    @property
    def figures(self) -> PinnedFigures:
        """The learned figures of the run."""
        return self.learned or PinnedFigures(self.spec)

    @property
    def wirings(self) -> Mapping[str, Wiring]:
        return self.spec.loaded.dataflow.wirings
