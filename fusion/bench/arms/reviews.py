"""Reviews of an answer: the verdicts of its reviewing stages, the results that they judged, and their cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fusion.bench.report.results import Reviewed, Reviewing, total_cost
from fusion.core.events import AttemptCharged, CallFailed, CallFinished, EventBase
from fusion.core.result import Judged, Result, StageResult
from fusion.core.types import Money, Usage, Value
from fusion.models.base import Price

_KINDS: Final = ("review", "judge")
"""Kinds that do nothing but review."""
_OF_JUDGE: Final = "-judge"
"""End of the step of a judge's call within a stage that also answers."""


class Draft(Value):
    """A result that a stage judged, and the result that it passed on in its place; `passed` if it passed one on."""

    stage: str
    item: int
    tier: int | None = None
    draft: Any = None
    passed: bool = False
    final: Any = None


@dataclass
class _Calls:
    calls: int = 0
    seconds: float = 0.0
    costs: list[Money | None] = field(default_factory=list)


class ReviewLog:
    """A sink of a run's events that adds up the calls of its reviews. `prices` replace those of the events."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = prices
        self._calls: dict[tuple[str, bool], _Calls] = {}

    def __call__(self, event: EventBase) -> None:
        if isinstance(event, CallFinished):
            calls = self._of(event.stage, event.step)
            calls.calls += 1
            calls.seconds += event.latency
            calls.costs.append(self._cost(event.by or event.asked, event.usage, event.cost))
        elif isinstance(event, CallFailed):
            self._of(event.stage, event.step).calls += 1
        elif isinstance(event, AttemptCharged) and not self._prices.get(event.model):
            self._of(event.stage).costs.append(event.cost)  # it has no step, so that tiers leave it out

    def reviews(self, result: Result) -> tuple[Reviewing, ...]:
        """Return the reviews of a run by stage."""
        return tuple(
            self._review(path, stage)
            for path, stage in result.stages.items()
            if stage.verdicts or stage.kind in _KINDS
        )

    def _review(self, path: str, stage: StageResult) -> Reviewing:
        found = [calls for (name, judge), calls in self._calls.items() if name == path and (judge or _only(stage))]
        return Reviewing(
            stage=path,
            kind=stage.kind,
            calls=sum(one.calls for one in found),
            seconds=sum(one.seconds for one in found),
            cost=total_cost(cost for one in found for cost in one.costs),
            verdicts=tuple(map(_reviewed, stage.verdicts)),
        )

    def _of(self, stage: str, step: str = "") -> _Calls:
        return self._calls.setdefault((stage, step.endswith(_OF_JUDGE)), _Calls())

    def _cost(self, model: str, usage: Usage, cost: Money | None) -> Money | None:
        price = self._prices.get(model)
        return cost if price is None else price.of(usage)


def _only(stage: StageResult) -> bool:
    """True if all calls of the stage are of its review: it is no stage of tiers."""
    return all(one.tier is None for one in stage.verdicts)


def _reviewed(one: Judged) -> Reviewed:
    return Reviewed(item=one.item, tier=one.tier, verdict=one.verdict, by=one.by, confidence=one.confidence)


def drafts_of(result: Result) -> tuple[Draft, ...]:
    """Return the items that were judged, each with what became of it."""
    return tuple(
        _draft(path, stage, one)
        for path, stage in result.stages.items()
        for one in stage.verdicts
        if one.item is not None
    )


def _draft(path: str, stage: StageResult, one: Judged) -> Draft:
    assert one.item is not None
    after = next((item for item in stage.items if item.index == one.item and item.ok), None)
    final = None if after is None else after.value
    return Draft(stage=path, item=one.item, tier=one.tier, draft=one.draft, passed=after is not None, final=final)
