"""Written: what a model may have written of all that a template reads."""

from fusion.pipeline.dataflow import ALWAYS, Stages, uses_of
from fusion.prompts.template import Path, Prompts
from fusion.stages.base import Stage

_BY_STAGES = ("value", "shown")
"""Fields of an item that stages fill."""


def is_written(path: Path, stage: Stage, stages: Stages, prompts: Prompts) -> bool:
    """Return True if a model may have written what a path of a stage's template reads."""
    if path[0] != "item":
        return path[0] not in ALWAYS
    return len(path) < 2 or path[1] in _BY_STAGES or _sources_are_written(stage, stages, prompts)


def _sources_are_written(stage: Stage, stages: Stages, prompts: Prompts, seen: frozenset[str] = frozenset()) -> bool:
    """Return True if a model may have written the sources of a stage's items."""
    if stage.plans or (any(stage.roles()) and not (stage.passes_on or stage.keeps_sources)):
        return True
    uses = uses_of(stage, prompts, lambda key, message: None)
    read = {path[0] for use in uses if use.listed or not stage.follows for path in use.paths}
    before = (stages.keys() & read) - seen
    return any(_sources_are_written(stages[name], stages, prompts, seen | before) for name in before)
