"""Learned: the answers of single models in a benchmark, as the learned figures of this machine count them."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final

from fusion.bench.report.results import ArmRecord, ItemRecord, Outcome, Results
from fusion.core.config import Settings
from fusion.core.errors import UnrecordedError, UsageError
from fusion.core.types import Money
from fusion.models.catalog.learned import Answered, Answers, CostSource, keep_learned, learned_file
from fusion.stages.text.extract import Extractor

_RIGHT: Final = "right"
_TEXT: Final = Extractor()
_SIMULATED: Final = "simulated"


def keep_results(settings: Settings, results: Results, labels: Mapping[str, str] | None = None) -> str:
    """Keep the figures of the single models of a benchmark. Returns a note if they could not be kept, else ""."""
    outcomes = {arm.name: results.by_arm[arm.name] for arm in results.arms}
    return keep_outcomes(settings, results.arms, results.items, outcomes, run=results.name, labels=labels)


def keep_outcomes(
    settings: Settings,
    arms: Iterable[ArmRecord],
    items: Sequence[ItemRecord],
    outcomes: Mapping[str, Mapping[str, Sequence[Outcome]]],
    *,
    run: str,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Keep the figures of single models from their outcomes, by arm and item; `labels` rename task sets.

    Returns a note if they could not be kept, else "".
    """
    answers: dict[str, dict[str, dict[str, Answered]]] = {}
    for arm in arms:
        if arm.kind != "model":
            continue
        given = outcomes.get(arm.name, {})
        for item in items:
            label = (labels or {}).get(item.task_set, item.task_set)
            if item.id in given and not any(map(_is_unrecorded, given[item.id])):
                answers.setdefault(label, {}).setdefault(arm.models[0], {})[item.id] = _answered(arm, given[item.id])
    return keep_answers(settings, answers, run=run)


def _is_unrecorded(one: Outcome) -> bool:
    """True if a recording has no answer to the item, which says nothing of the model."""
    return one.failure is not None and one.failure.reason == UnrecordedError.__name__


def keep_answers(settings: Settings, answers: Mapping[str, Answers], *, run: str) -> str:
    """Keep figures of answers by label, model and item. Returns a note if they could not be kept, else ""."""
    try:
        keep_learned(learned_file(settings), answers, run=run)
    except UsageError as error:
        return f"The learned figures are not kept: {error}."
    return ""


def _answered(arm: ArmRecord, epochs: Sequence[Outcome]) -> Answered:
    first = epochs[0]
    costs = [one.cost for one in epochs if one.cost is not None]
    times = [one.latency for one in epochs if one.timed]
    return Answered(
        score=fmean(one.score for one in epochs),
        usd=sum(costs, Money(0)) / len(costs) if len(costs) == len(epochs) else None,
        seconds=fmean(times) if times else None,
        key=answer_key(first.answer, right=first.score == 1),
        cost=_source(arm, epochs),
    )


def answer_key(answer: str | None, *, right: bool) -> str | None:
    """Return the key by which answers to one item compare equal; None for one that was not extracted."""
    if answer is None:
        return None
    return _RIGHT if right else f"={_TEXT.key(answer)}"


def _source(arm: ArmRecord, epochs: Sequence[Outcome]) -> CostSource:
    if arm.price_source.startswith(_SIMULATED):
        return "simulated"
    return "measured" if all(one.usage.source == "measured" for one in epochs) else "estimated"
