"""Stages of pipelines: the classes from which built-in and plug-in kinds are made."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.core.errors import BudgetError, ModelError, StageError
    from fusion.core.types import Item, Message
    from fusion.stages.answer import AnswerStage
    from fusion.stages.base import (
        ExpressionUse,
        Following,
        ModelStage,
        OutputField,
        PipelineUse,
        Prompted,
        PromptUse,
        Shaped,
        Stage,
    )
    from fusion.stages.context import (
        Answer,
        Ask,
        Outcome,
        Producer,
        Room,
        StageContext,
        StageEvents,
        StageInputs,
        StageJournal,
        StageModels,
        StageOutputs,
    )
    from fusion.stages.feed import Feed
    from fusion.stages.fields import Choice, OutputSchema, RoleChoice
    from fusion.stages.items import ItemStage
    from fusion.stages.simulation import Chance, Estimate, Spread

_HOMES = (
    "fusion.core.errors",
    "fusion.core.types",
    "fusion.stages.feed",
    "fusion.stages.fields",
    "fusion.stages.context",
    "fusion.stages.simulation",
    "fusion.stages.base",
    "fusion.stages.answer",
    "fusion.stages.items",
)
"""Modules of the public names, the lowest first."""

__all__ = [
    "Answer",
    "AnswerStage",
    "Ask",
    "BudgetError",
    "Chance",
    "Choice",
    "Estimate",
    "ExpressionUse",
    "Feed",
    "Following",
    "Item",
    "ItemStage",
    "Message",
    "ModelError",
    "ModelStage",
    "Outcome",
    "OutputField",
    "OutputSchema",
    "PipelineUse",
    "Producer",
    "PromptUse",
    "Prompted",
    "RoleChoice",
    "Room",
    "Shaped",
    "Spread",
    "Stage",
    "StageContext",
    "StageError",
    "StageEvents",
    "StageInputs",
    "StageJournal",
    "StageModels",
    "StageOutputs",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `import fusion.stages` itself loads nothing."""
    from importlib import import_module

    for home in _HOMES if name in __all__ else ():
        module = import_module(home)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'fusion.stages' has no attribute {name!r}")
