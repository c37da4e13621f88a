"""Self-consistency baseline: the most frequent of several answers of a cheap model, at the cost of a pipeline."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from statistics import fmean
from typing import Any, Final, NamedTuple

from fusion.bench.arms.base import Contestant
from fusion.bench.arms.pipeline import PipelineArm
from fusion.bench.experiment import Experiment
from fusion.bench.report.results import total_cost
from fusion.bench.runner import Scored
from fusion.bench.tasks import Task
from fusion.core.params import Defaults
from fusion.core.result import Result
from fusion.core.types import as_text
from fusion.pipeline.spec import Pipeline
from fusion.stages.kinds.panel import Panel, PanelMember
from fusion.stages.text.extract import Extractor

SELF_CONSISTENCY: Final = "self-consistency"
_MAX_SAMPLES: Final = 20
_TEMPERATURE: Final = 0.7
_GRACE: Final = 600.0
"""Seconds that slow samples have after the others: a sample counts however slow it is."""


class Baseline(NamedTuple):
    """The contestant and its note for the report; without a contestant, the reason."""

    contestant: PipelineArm | None
    note: str


class _Point(NamedTuple):
    accuracy: float
    cost: Decimal | None


def self_consistency(experiment: Experiment, done: Mapping[tuple[str, str, int], Scored]) -> Baseline:
    """Return self-consistency of the best single model that costs at most half as much as the best pipeline.

    Wang et al. 2023, arXiv:2203.11171. It takes as many whole answers as the pipeline's dollars buy.
    """
    points = {one.record.name: _point(one, done) for one in experiment.contestants}
    pipelines = [one for one in experiment.contestants if one.record.kind == "pipeline"]
    singles = [one for one in experiment.contestants if one.record.kind == "model" and isinstance(one, PipelineArm)]
    if not pipelines or not singles:
        return Baseline(None, "")
    best = max(pipelines, key=lambda one: (points[one.record.name].accuracy, -_usd(points[one.record.name])))
    name, money = best.record.name, points[best.record.name].cost
    scorers = experiment.scorers
    open_ones = [name for name in experiment.suite.tasks if not hasattr(scorers.get(name), "extractor")]
    if open_ones:
        return Baseline(None, f"open answers cannot be counted: those of {', '.join(open_ones)}")
    if not money:
        return Baseline(None, f"the cost of {name} is unknown or zero")
    cheap = [one for one in singles if 0 < 2 * _usd(points[one.record.name]) <= money]
    if not cheap:
        return Baseline(None, f"no single model can be asked twice for what {name} costs")
    sampling = [one for one in cheap if all(info.provider != "replay" for info in one.models.values())]
    if not sampling:
        return Baseline(None, "the answers of the cheap models are recorded, one to each item")
    one = max(sampling, key=lambda one: (points[one.record.name].accuracy, -_usd(points[one.record.name])))
    samples = min(_MAX_SAMPLES, int(money // _usd(points[one.record.name])))
    label = f"{SELF_CONSISTENCY}, {samples} of {one.record.name}"
    note = f"{SELF_CONSISTENCY.capitalize()} takes {samples} answers of {one.record.name} for the cost of {name}."
    return Baseline(_sampled(experiment, one, samples, label), note)


def most_frequent(texts: Sequence[str], extractor: Extractor) -> str:
    """Return the first text with the most frequent answer, or the first text if none has an answer."""
    groups = extractor.groups([extractor.extract(text) for text in texts])
    counts = Counter(group for group in groups if group is not None)
    if not counts:
        return texts[0] if texts else ""
    most = max(counts.values())
    return next(
        text for text, group in zip(texts, groups, strict=True) if group is not None and counts[group] == most
    )


def _sampled(experiment: Experiment, one: PipelineArm, samples: int, name: str) -> PipelineArm:
    extractors = {
        question.task.id: experiment.scorers[question.record.task_set].extractor  # type: ignore[attr-defined] # looked up above
        for question in experiment.questions
    }

    def choose(task: Task, result: Result) -> tuple[str, Any]:
        texts = [as_text(item.value) for item in result.items if item.ok]
        return most_frequent(texts, extractors[task.id]), None

    model = one.record.models[0]
    return experiment.factory.baseline(name, model, lambda alone: _panel(alone, samples), choose)


def _panel(alone: Pipeline, samples: int) -> Pipeline:
    """Return the pipeline with a panel in place of its one call."""
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


def _point(one: Contestant, done: Mapping[tuple[str, str, int], Scored]) -> _Point:
    own = [found for key, found in done.items() if key[0] == one.record.name]
    cost = total_cost(found.response.cost for found in own) if own else None
    return _Point(fmean(found.score.value for found in own) if own else 0.0, cost)
