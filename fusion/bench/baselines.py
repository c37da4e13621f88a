"""Self-consistency: the best cheap model, asked as often as a pipeline's money lasts, and its commonest answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from statistics import fmean
from typing import Any, Final, NamedTuple

from fusion.bench.arms.base import Contestant
from fusion.bench.arms.pipeline import Runs
from fusion.bench.experiment import Prepared
from fusion.bench.runner import Done
from fusion.bench.tasks import Task
from fusion.core.params import Defaults
from fusion.core.result import Result
from fusion.core.types import as_text
from fusion.pipeline.spec import Pipeline
from fusion.stages.kinds.panel import Panel, PanelMember
from fusion.stages.text.extract import Extractor

SELF_CONSISTENCY: Final = "self-consistency"
_MOST: Final = 20
_TEMPERATURE: Final = 0.7
_GRACE: Final = 600.0
"""Seconds that the slowest sample has behind the others: none is given up for being slow."""


class Wanted(NamedTuple):
    """The baseline and what is to be said of it, or why there is none."""

    contestant: Runs | None
    note: str


class _Point(NamedTuple):
    accuracy: float
    cost: Decimal | None


def self_consistency(ready: Prepared, done: Mapping[tuple[str, str, int], Done]) -> Wanted:
    """Self-consistency of the best single model that can be asked twice for what the best pipeline costs.

    Wang et al. 2023, arXiv:2203.11171. Asked for the same dollars, in whole answers, rounded down.
    """
    points = {one.record.name: _point(one, done) for one in ready.contestants}
    pipelines = [one for one in ready.contestants if one.record.kind == "pipeline"]
    singles = [one for one in ready.contestants if one.record.kind == "model" and isinstance(one, Runs)]
    if not pipelines or not singles:
        return Wanted(None, "")
    best = max(pipelines, key=lambda one: (points[one.record.name].accuracy, -_usd(points[one.record.name])))
    name, money = best.record.name, points[best.record.name].cost
    closed = [name for name, one in ready.scorers.items() if getattr(one, "extractor", None) is not None]
    open_ones = [name for name in ready.suite.tasks if name not in closed]
    if open_ones:
        return Wanted(None, f"there is nothing to count in the answers of {', '.join(open_ones)}")
    if not money:
        return Wanted(None, f"the cost of {name} is not known or nothing, so that there is no equal")
    cheap = [one for one in singles if 0 < 2 * _usd(points[one.record.name]) <= money]
    if not cheap:
        return Wanted(None, f"no single model can be asked twice for what {name} costs")
    sampling = [one for one in cheap if all(info.provider != "replay" for info in one.models.values())]
    if not sampling:
        return Wanted(None, "the answers of the cheap models are recorded, one to each item")
    one = max(sampling, key=lambda one: (points[one.record.name].accuracy, -_usd(points[one.record.name])))
    samples = min(_MOST, int(money // _usd(points[one.record.name])))
    label = f"{SELF_CONSISTENCY}, {samples} of {one.record.name}"
    note = f"{SELF_CONSISTENCY.capitalize()} is of {samples} answers of {one.record.name}, for what {name} costs."
    return Wanted(_sampled(ready, one, samples, label), note)


def commonest(texts: Sequence[str], extractor: Extractor) -> str:
    """The first of the texts whose answer comes most often; the first of all where none has an answer."""
    keys = [found.key if (found := extractor.extract(text)) is not None else None for text in texts]
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return texts[0] if texts else ""
    most = max(counts.values())
    return next(text for text, key in zip(texts, keys, strict=True) if key is not None and counts[key] == most)


def _sampled(ready: Prepared, one: Runs, samples: int, name: str) -> Runs:
    extractors = {
        question.task.id: ready.scorers[question.record.task_set].extractor  # type: ignore[attr-defined] # looked up above
        for question in ready.questions
    }

    def chosen(task: Task, result: Result) -> tuple[str, Any]:
        texts = [as_text(item.value) for item in result.items if item.ok]
        return commonest(texts, extractors[task.id]), None

    model = one.record.models[0]
    return ready.entrants.several(name, model, lambda alone: _panel(alone, samples), chosen)


def _panel(alone: Pipeline, samples: int) -> Pipeline:
    """The same asked several times in place of once."""
    answer = alone.stages["answer"]
    panel = Panel(
        members=(PanelMember(role="model", samples=samples),),
        prompt=answer.prompt,  # type: ignore[attr-defined] # a Generate
        max_tokens=answer.max_tokens,  # type: ignore[attr-defined] # a Generate
        grace=_GRACE,
    )
    defaults = Defaults(temperature=_TEMPERATURE)
    return alone.model_copy(update={"stages": {"panel": panel}, "output": "panel", "defaults": defaults})


def _usd(point: _Point) -> Decimal:
    return point.cost or Decimal(0)


def _point(one: Contestant, done: Mapping[tuple[str, str, int], Done]) -> _Point:
    own = [found for key, found in done.items() if key[0] == one.record.name]
    costs = [found.answered.cost for found in own]
    known = None if None in costs or not costs else sum((cost for cost in costs if cost is not None), Decimal(0))
    return _Point(fmean(found.score.value for found in own) if own else 0.0, known)
