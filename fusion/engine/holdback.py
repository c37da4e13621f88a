"""`on_budget: finish`: what is held back from the start, so that the last stages can still write the answer."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from fusion.core.budget import Amount, Budget, Hold
from fusion.core.types import Limits
from fusion.engine.run_spec import RunSpec
from fusion.stages.base import Stage

_BYTES_PER_TOKEN = 4
_TEMPLATE_BYTES = 4_000
_MOST_PART = Decimal("0.5")
_FREE = Decimal(0)
_NOTHING = Amount(_FREE, tokens=0, calls=0)


class Caps(NamedTuple):
    """What there is at most of each amount; None where nothing bounds it."""

    usd: Decimal | None
    tokens: int | None
    calls: int | None

    @classmethod
    def of(cls, limits: Limits) -> "Caps":
        return cls(limits.usd, limits.tokens, limits.calls)

    def within(self, around: "Caps") -> "Caps":
        """These where they are given, else those around."""
        return Caps(
            around.usd if self.usd is None else self.usd,
            around.tokens if self.tokens is None else self.tokens,
            around.calls if self.calls is None else self.calls,
        )


def held_back(spec: RunSpec, budget: Budget, caps: Caps) -> dict[str, Hold]:
    """For each last stage a budget of its own, that nothing else can use up; none under `on_budget: fail`.

    It is the worst case of one call over all that the stage may have to read, of a nested pipeline that of one call
    of each of its stages; but at most half of each cap, shared by the last stages: the rest is there to do the work.
    """
    if spec.pipeline.on_budget != "finish" or caps == (None, None, None):
        return {}
    needs = {name: _worst_case(name, spec, 0) for name in spec.loaded.dataflow.last}
    asking = {name: need for name, need in needs.items() if need.calls}
    return {name: budget.hold(_capped(need, caps, len(asking)), name) for name, need in asking.items()}


def _capped(need: Amount, caps: Caps, sharing: int) -> Amount:
    """What is needed, up to the part of each cap that may be held back."""
    part = _MOST_PART / sharing
    usd = need.usd or _FREE
    return Amount(
        usd=usd if caps.usd is None else min(usd, caps.usd * part),
        tokens=need.tokens if caps.tokens is None else min(need.tokens, int(caps.tokens * part)),
        calls=need.calls if caps.calls is None else min(need.calls, int(caps.calls * part)),
    )


def _worst_case(name: str, spec: RunSpec, reads: int) -> Amount:
    """The worst case of one call of a stage that reads so many bytes beside what its own pipeline gives it to read.

    A stage that runs another pipeline needs what that one does; of several that it may run, the dearest counts.
    """
    stage = spec.pipeline.stages[name]
    taken = reads + _input_bound(name, spec)
    own = _one_call(stage, spec, taken) if any(stage.roles()) else _NOTHING
    inner = [
        _whole(spec.within(path, spec.request, spec.inputs), taken)
        for path in spec.loaded.nested
        if path.partition("/")[0] == name
    ]
    return _plus(own, _dearest(inner))


def _whole(spec: RunSpec, reads: int) -> Amount:
    """The worst case of one call of each stage of a pipeline."""
    total = _NOTHING
    for name in spec.pipeline.stages:
        total = _plus(total, _worst_case(name, spec, reads))
    return total


def _one_call(stage: Stage, spec: RunSpec, taken: int) -> Amount:
    models = spec.roles[next(iter(stage.roles()))[1]].models
    given = spec.max_tokens(stage)
    usd = max((model.price.bound(taken, given) for model in models if model.price is not None), default=Decimal(0))
    return Amount(usd=usd, tokens=taken + given, calls=1)


def _plus(one: Amount, other: Amount) -> Amount:
    usd = (one.usd or _FREE) + (other.usd or _FREE)
    return Amount(usd, one.tokens + other.tokens, one.calls + other.calls)


def _dearest(amounts: Sequence[Amount]) -> Amount:
    """The most of each of them."""
    return Amount(
        usd=max((amount.usd or _FREE for amount in amounts), default=_FREE),
        tokens=max((amount.tokens for amount in amounts), default=0),
        calls=max((amount.calls for amount in amounts), default=0),
    )


def _input_bound(name: str, spec: RunSpec) -> int:
    """Bytes that the stage may have to read: its template, the request, and what the stages before it can write."""
    sources = spec.loaded.dataflow.wirings[name].sources
    written = sum(_written(spec.pipeline.stages[source], spec) for source in sources)
    return _TEMPLATE_BYTES + len(spec.request.encode()) + written * _BYTES_PER_TOKEN


def _written(stage: Stage, spec: RunSpec) -> int:
    """Tokens that a stage can write at most: one call, or one for each subtask of the plans before it."""
    widths = [width for other in spec.pipeline.stages.values() if (width := getattr(other, "max_subtasks", None))]
    many = any(output.feed for output in stage.outputs)
    return spec.max_tokens(stage) * (max(widths, default=1) if many else 1)
