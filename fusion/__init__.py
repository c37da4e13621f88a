"""Fusion runs compound models: a frontier model plans, cheaper models work in parallel, a frontier model reviews."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.client.calibrate import calibrate
    from fusion.client.client import Fusion, complete
    from fusion.client.handle import RunHandle
    from fusion.client.options import RunOptions
    from fusion.core.config import Settings
    from fusion.core.errors import FusionError, PipelineError, Problem, RunFailed, UsageError
    from fusion.core.params import Defaults, RoleSpec
    from fusion.core.result import Cost, Receipt, Result
    from fusion.core.types import Item, Limits, Message, Reply, Request, Usage
    from fusion.models.base import Model, ModelInfo, Price
    from fusion.models.providers.scripted import Say, ScriptedModel
    from fusion.pipeline.spec import InputSpec, Pipeline
    from fusion.quote.quote import Quote
    from fusion.stages.kinds.cascade import Cascade
    from fusion.stages.kinds.generate import Generate
    from fusion.stages.kinds.judge import Judge
    from fusion.stages.kinds.map import Map
    from fusion.stages.kinds.merge import Merge
    from fusion.stages.kinds.panel import Panel
    from fusion.stages.kinds.pipeline import PipelineStage
    from fusion.stages.kinds.plan import Plan
    from fusion.stages.kinds.review import Review
    from fusion.stages.kinds.route import Route
    from fusion.stages.kinds.synthesize import Synthesize
    from fusion.stages.kinds.vote import Vote

__version__ = "0.2.0"

_ON_WINDOWS = "Fusion runs on Linux and macOS; on Windows, install and run it within WSL (wsl --install)"

_HOMES = {
    "fusion.client.calibrate": ("calibrate",),
    "fusion.client.client": ("Fusion", "complete"),
    "fusion.core.config": ("Settings",),
    "fusion.core.errors": ("FusionError", "PipelineError", "Problem", "RunFailed", "UsageError"),
    "fusion.client.handle": ("RunHandle",),
    "fusion.models.base": ("Model", "ModelInfo", "Price"),
    "fusion.models.providers.scripted": ("Say", "ScriptedModel"),
    "fusion.quote.quote": ("Quote",),
    "fusion.client.options": ("RunOptions",),
    "fusion.core.result": ("Cost", "Receipt", "Result"),
    "fusion.pipeline.spec": ("InputSpec", "Pipeline"),
    "fusion.stages.kinds.cascade": ("Cascade",),
    "fusion.stages.kinds.generate": ("Generate",),
    "fusion.stages.kinds.judge": ("Judge",),
    "fusion.stages.kinds.map": ("Map",),
    "fusion.stages.kinds.merge": ("Merge",),
    "fusion.stages.kinds.panel": ("Panel",),
    "fusion.stages.kinds.pipeline": ("PipelineStage",),
    "fusion.stages.kinds.plan": ("Plan",),
    "fusion.stages.kinds.review": ("Review",),
    "fusion.stages.kinds.route": ("Route",),
    "fusion.stages.kinds.synthesize": ("Synthesize",),
    "fusion.stages.kinds.vote": ("Vote",),
    "fusion.core.params": ("Defaults", "RoleSpec"),
    "fusion.core.types": ("Item", "Limits", "Message", "Reply", "Request", "Usage"),
}

__all__ = [
    "Cascade",
    "Cost",
    "Defaults",
    "Fusion",
    "FusionError",
    "Generate",
    "InputSpec",
    "Item",
    "Judge",
    "Limits",
    "Map",
    "Merge",
    "Message",
    "Model",
    "ModelInfo",
    "Panel",
    "Pipeline",
    "PipelineError",
    "PipelineStage",
    "Plan",
    "Price",
    "Problem",
    "Quote",
    "Receipt",
    "Reply",
    "Request",
    "Result",
    "Review",
    "RoleSpec",
    "Route",
    "RunFailed",
    "RunHandle",
    "RunOptions",
    "Say",
    "ScriptedModel",
    "Settings",
    "Synthesize",
    "Usage",
    "UsageError",
    "Vote",
    "calibrate",
    "complete",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `import fusion` itself loads nothing."""
    from importlib import import_module

    if sys.platform == "win32" and name in __all__:
        raise ImportError(_ON_WINDOWS)
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'fusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
