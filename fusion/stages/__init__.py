"""Stages of pipelines: the classes from which built-in and plug-in kinds are made."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.core.errors import BudgetError as BudgetError, ModelError as ModelError, StageError as StageError
    from fusion.core.types import (
        Item as Item,
        Message as Message,
        ToolCall as ToolCall,
        ToolResult as ToolResult,
        ToolSpec as ToolSpec,
        ToolTerms as ToolTerms,
    )
    from fusion.stages.answer import AnswerStage as AnswerStage
    from fusion.stages.base import (
        ExpressionUse as ExpressionUse,
        Following as Following,
        ModelStage as ModelStage,
        OutputField as OutputField,
        PipelineUse as PipelineUse,
        Prompted as Prompted,
        PromptUse as PromptUse,
        Shaped as Shaped,
        Stage as Stage,
    )
    from fusion.stages.context import (
        Answer as Answer,
        Ask as Ask,
        Outcome as Outcome,
        Producer as Producer,
        Room as Room,
        StageContext as StageContext,
        StageEvents as StageEvents,
        StageInputs as StageInputs,
        StageJournal as StageJournal,
        StageModels as StageModels,
        StageOutputs as StageOutputs,
        StageTools as StageTools,
    )
    from fusion.stages.feed import Feed as Feed
    from fusion.stages.fields import Choice as Choice, OutputSchema as OutputSchema, RoleChoice as RoleChoice
    from fusion.stages.items import ItemStage as ItemStage
    from fusion.stages.simulation import Chance as Chance, Estimate as Estimate, Spread as Spread

_HOMES = {
    "fusion.core.errors": (
        "BudgetError",
        "ModelError",
        "StageError",
    ),
    "fusion.core.types": (
        "Item",
        "Message",
        "ToolCall",
        "ToolResult",
        "ToolSpec",
        "ToolTerms",
    ),
    "fusion.stages.answer": ("AnswerStage",),
    "fusion.stages.base": (
        "ExpressionUse",
        "Following",
        "ModelStage",
        "OutputField",
        "PipelineUse",
        "Prompted",
        "PromptUse",
        "Shaped",
        "Stage",
    ),
    "fusion.stages.context": (
        "Answer",
        "Ask",
        "Outcome",
        "Producer",
        "Room",
        "StageContext",
        "StageEvents",
        "StageInputs",
        "StageJournal",
        "StageModels",
        "StageOutputs",
        "StageTools",
    ),
    "fusion.stages.feed": ("Feed",),
    "fusion.stages.fields": (
        "Choice",
        "OutputSchema",
        "RoleChoice",
    ),
    "fusion.stages.items": ("ItemStage",),
    "fusion.stages.simulation": (
        "Chance",
        "Estimate",
        "Spread",
    ),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `import fusion.stages` itself loads nothing."""
    from fusion.core import load

    return load(__name__, _HOMES, name)
