"""Pipelines without a review: a stage that reviews or verifies passes on what it gets, and no judge is asked."""

from collections.abc import Callable, Iterator
from typing import Any

from fusion.core.types import Item
from fusion.pipeline.spec import Pipeline
from fusion.stages.base import ExpressionUse, PromptUse, Stage
from fusion.stages.context import StageContext
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.kinds.judge import Judge
from fusion.stages.kinds.review import Review
from fusion.stages.kinds.verify import Verify
from fusion.stages.text.checks import Checks
from fusion.stages.tiers.spec import Accept, Tiered


def unreviewed(pipeline: Pipeline) -> dict[str, Stage]:
    """Return for each reviewing stage of a pipeline the stage that replaces it in the pipeline without its review."""
    found = {name: _without_review(stage) for name, stage in pipeline.stages.items()}
    return {name: stage for name, stage in found.items() if stage is not None}


def _without_review(stage: Stage) -> Stage | None:
    """Return the stage without its review; None if it has none."""
    if isinstance(stage, Review):
        return _PassedOn.model_construct(stage.model_fields_set, **{**dict(stage), "batch": 1})
    if isinstance(stage, Judge):
        return stage.model_copy(update={"when": "false"})
    if isinstance(stage, Cascade) and any(accept.judge is not None for _, accept in stage.accepts()):
        return _unjudged(stage)
    if isinstance(stage, Verify):
        return stage.unchecked
    return None


class _PassedOn(Review):
    """A review that is left out: its items are those that it gets."""

    def prompts(self) -> Iterator[PromptUse]:
        yield from ()

    def roles(self) -> Iterator[tuple[str, str]]:
        yield from ()

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from ()

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from (use for use in super().expressions() if use.key in ("over", "when"))

    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        return item


def _unjudged(stage: Tiered) -> Stage:
    """Return tiers whose answers are accepted by their other conditions; without others, always."""
    changed: Callable[[Accept | None], Accept | None] = lambda accept: accept and _without_judge(accept)  # noqa: E731
    tiers = tuple(tier.model_copy(update={"accept": changed(tier.accept)}) for tier in stage.tiers)
    return stage.model_copy(update={"accept": changed(stage.accept), "tiers": tiers})


def _without_judge(accept: Accept) -> Accept:
    if accept.judge is None:
        return accept
    calibration = None if accept.confidence is not None else accept.calibration
    checks = accept.checks or (Checks() if accept.agree is None else None)
    own = {"judge": None, "confidence": None, "calibration": calibration, "checks": checks}
    return accept.model_copy(update=own)
