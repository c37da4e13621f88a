"""Outputs of a stage: the fields that later ones read."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusion.core.events import (
    ItemFinished,
    StageGrew,
)
from fusion.core.result import Judged
from fusion.core.types import Item
from fusion.stages.context import (
    Conclusion,
    StageOutputs,
)
from fusion.stages.feed import Feed

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext


class RunOutputs(StageOutputs):
    """Output fields that later stages read."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx

    @cached_property
    def keeps_shown(self) -> bool:
        return self._ctx.run.spec.loaded.dataflow.keeps_shown(self._ctx.path)

    def feed(self, name: str) -> Feed[Item]:
        return self._ctx.fields.feed(name)

    def give(self, name: str, value: Any) -> None:
        self._ctx.fields.give(name, value)

    def conclude(self, conclusion: Conclusion) -> None:
        if self._ctx.scope is None and not self._ctx.run.step_prefix:
            self._ctx.run.conclusions[self._ctx.place] = conclusion

    def settle(self, item: Item) -> None:
        ctx = self._ctx
        if item.shown is not None and not self.keeps_shown:
            item = item.model_copy(update={"shown": None})
        if ctx.costs is not None:
            item = item.model_copy(update={"cost": ctx.costs.of(item.index)})
        ctx.fields.feed(ctx.fields.first).append(item)
        decided = _decision(item) if ctx.costs is not None else {}
        ctx.emit(
            ItemFinished(run_id=ctx.run.run_id, stage=ctx.place, item=item.index, failure=item.failure, **decided)
        )

    def judged(self, verdict: Judged) -> None:
        ctx = self._ctx
        if ctx.scope is not None and verdict.item is None:
            verdict = verdict.model_copy(update={"item": ctx.scope.index})
        ctx.run.fields[ctx.path].verdicts.append(verdict)

    def grow(self, known: int, *, final: bool = False, title: str = "") -> None:
        ctx = self._ctx
        ctx.single = final and known <= 1
        ctx.emit(StageGrew(run_id=ctx.run.run_id, stage=ctx.place, known=known, final=final, title=title))


def _decision(item: Item) -> dict[str, Any]:
    """Return the fields of an item that tell the decision on it."""
    return {name: getattr(item, name) for name in ("tier", "route", "reason", "confidence", "agreement", "cost")}
