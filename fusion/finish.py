"""`on_budget: finish`: what is held back from the start, so that the last stages can still write the answer."""

from decimal import Decimal
from typing import TYPE_CHECKING

from fusion.budget import Amount, Budget, Hold
from fusion.prompts import Prompts
from fusion.spec import Pipeline
from fusion.stages.base import Stage
from fusion.types import Limits
from fusion.wiring import Wiring, output_wiring

if TYPE_CHECKING:
    from fusion.context import RunParts

__all__ = ["held_back", "last_stages"]

_BYTES_PER_TOKEN = 4
_TEMPLATE_BYTES = 4_000
_MOST_PART = Decimal("0.5")


def last_stages(pipeline: Pipeline, prompts: Prompts) -> list[str]:
    """The stages that the pipeline's output reads."""
    return list(dict.fromkeys(name for parts in output_wiring(pipeline, prompts).values() for name in parts))


def held_back(pipeline: Pipeline, run: "RunParts", budget: Budget) -> dict[str, Hold]:
    """For each last stage a budget of its own, that nothing else can use up; none under `on_budget: fail`.

    It is the worst case of one call over all that the stage may have to read, but at most half of each limit,
    shared by the last stages: the rest is there to do the work.
    """
    limits = budget.limits
    if pipeline.on_budget != "finish" or (limits.usd, limits.tokens, limits.calls) == (None, None, None):
        return {}
    stages = [name for name in last_stages(pipeline, run.prompts) if any(pipeline.stages[name].roles())]
    return {name: budget.hold(_worst_case(name, run, limits, len(stages)), name) for name in stages}


def _worst_case(name: str, run: "RunParts", limits: Limits, sharing: int) -> Amount:
    stage = run.pipeline.stages[name]
    models = run.roles[next(iter(stage.roles()))[1]].models
    taken, given = _input_bound(run.wirings[name], run), run.max_tokens(stage, None)
    tokens = taken + given
    usd = max((model.price.bound(taken, given) for model in models if model.price is not None), default=Decimal(0))
    part = _MOST_PART / sharing
    return Amount(
        usd=min(usd, limits.usd * part) if limits.usd is not None else usd,
        tokens=min(tokens, int(limits.tokens * part)) if limits.tokens is not None else tokens,
        calls=min(1, int(limits.calls * part)) if limits.calls is not None else 1,
    )


def _input_bound(wiring: Wiring, run: "RunParts") -> int:
    """Bytes that the stage may have to read: its template, the request, and what the stages before it can write."""
    read = {*wiring.waits, *(flow.stage for flow in wiring.flows.values())}
    written = sum(_written(run.pipeline.stages[name], run) for name in read)
    return _TEMPLATE_BYTES + len(run.request.encode()) + written * _BYTES_PER_TOKEN


def _written(stage: Stage, run: "RunParts") -> int:
    """Tokens that a stage can write at most: one call, or one for each subtask of the plans before it."""
    widths = [width for other in run.pipeline.stages.values() if (width := getattr(other, "max_subtasks", None))]
    many = any(output.feed for output in stage.outputs)
    return run.max_tokens(stage, None) * (max(widths, default=1) if many else 1)
