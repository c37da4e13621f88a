"""Fusion runs compound models: a frontier model plans, cheaper models work in parallel, a frontier model reviews."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.bulk.fusion import Fusion as Fusion
    from fusion.bulk.report import MapReport as MapReport, RowResult as RowResult
    from fusion.client.calibration.calibrate import calibrate as calibrate
    from fusion.client.calibration.reviews import calibrate_review as calibrate_review
    from fusion.client.client import complete as complete, warm as warm
    from fusion.client.handle import RunHandle as RunHandle
    from fusion.client.options import RunOptions as RunOptions
    from fusion.core.budget import Budget as Budget
    from fusion.core.config import Settings as Settings
    from fusion.core.errors import (
        FusionError as FusionError,
        PipelineError as PipelineError,
        Problem as Problem,
        RunFailed as RunFailed,
        UsageError as UsageError,
    )
    from fusion.core.params import Defaults as Defaults, RoleSpec as RoleSpec
    from fusion.core.result import Cost as Cost, Receipt as Receipt, Result as Result
    from fusion.core.types import (
        Item as Item,
        Limits as Limits,
        Message as Message,
        Reply as Reply,
        Request as Request,
        ToolResult as ToolResult,
        ToolSpec as ToolSpec,
        Usage as Usage,
    )
    from fusion.models.base import Model as Model, ModelInfo as ModelInfo, Price as Price
    from fusion.models.providers.scripted import Say as Say, ScriptedModel as ScriptedModel
    from fusion.pipeline.spec import InputSpec as InputSpec, Pipeline as Pipeline
    from fusion.quote.quote import Quote as Quote
    from fusion.stages.kinds.best_of import BestOf as BestOf
    from fusion.stages.kinds.cascade import Cascade as Cascade
    from fusion.stages.kinds.gate import Gate as Gate
    from fusion.stages.kinds.generate import Generate as Generate
    from fusion.stages.kinds.judge import Judge as Judge
    from fusion.stages.kinds.loop import Loop as Loop
    from fusion.stages.kinds.map import Map as Map
    from fusion.stages.kinds.merge import Merge as Merge
    from fusion.stages.kinds.panel import Panel as Panel
    from fusion.stages.kinds.pipeline import PipelineStage as PipelineStage
    from fusion.stages.kinds.plan import Plan as Plan
    from fusion.stages.kinds.review import Review as Review
    from fusion.stages.kinds.route import Route as Route
    from fusion.stages.kinds.synthesize import Synthesize as Synthesize
    from fusion.stages.kinds.verify import Verify as Verify
    from fusion.stages.kinds.vote import Vote as Vote
    from fusion.tools.base import Tool as Tool

__version__ = "0.9.0"

_ON_WINDOWS = "Fusion runs on Linux and macOS; on Windows, install and run it within WSL (wsl --install)"

_KINDS = (
    *("Cascade", "Gate", "Generate", "Judge", "Loop", "Map", "Merge", "Panel", "Plan", "Review", "Route"),
    *("Synthesize", "Verify", "Vote"),
)
_HOMES = {
    "fusion.client.calibration.calibrate": ("calibrate",),
    "fusion.client.calibration.reviews": ("calibrate_review",),
    "fusion.bulk.fusion": ("Fusion",),
    "fusion.bulk.report": ("MapReport", "RowResult"),
    "fusion.client.client": ("complete", "warm"),
    "fusion.core.budget": ("Budget",),
    "fusion.core.config": ("Settings",),
    "fusion.core.errors": ("FusionError", "PipelineError", "Problem", "RunFailed", "UsageError"),
    "fusion.client.handle": ("RunHandle",),
    "fusion.models.base": ("Model", "ModelInfo", "Price"),
    "fusion.models.providers.scripted": ("Say", "ScriptedModel"),
    "fusion.quote.quote": ("Quote",),
    "fusion.client.options": ("RunOptions",),
    "fusion.core.result": ("Cost", "Receipt", "Result"),
    "fusion.pipeline.spec": ("InputSpec", "Pipeline"),
    "fusion.stages.kinds.best_of": ("BestOf",),
    "fusion.stages.kinds.pipeline": ("PipelineStage",),
    "fusion.tools.base": ("Tool",),
    "fusion.core.params": ("Defaults", "RoleSpec"),
    "fusion.core.types": ("Item", "Limits", "Message", "Reply", "Request", "ToolResult", "ToolSpec", "Usage"),
    **{f"fusion.stages.kinds.{kind.lower()}": (kind,) for kind in _KINDS},
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `import fusion` itself loads nothing."""
    if sys.platform == "win32" and name in __all__:
        raise ImportError(_ON_WINDOWS)
    from fusion.core import load

    return load(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
