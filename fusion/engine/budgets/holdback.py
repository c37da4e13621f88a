"""Holdback: the worst case of calls, and the amounts held for the last stages under `on_budget: finish`."""

from collections.abc import Iterable
from decimal import Decimal
from functools import reduce
from typing import NamedTuple, TypeVar

from fusion.core.budget import Amount
from fusion.core.types import Limits
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo, tools_bound
from fusion.stages.base import Stage
from fusion.stages.hands.stage import HandedStage

T = TypeVar("T", int, Decimal)

_BYTES_PER_TOKEN = 4
_TEMPLATE_BYTES = 4_000
_MAX_SHARE = Decimal("0.5")


class Bound(NamedTuple):
    """An upper bound on calls, tokens and dollars, each None if unbounded; `why` is the reason for that.

    Retries count in tokens and dollars, not in calls. A model of unknown price counts no dollars.
    """

    calls: int | None = 0
    tokens: int | None = 0
    usd: Decimal | None = Decimal(0)
    why: str = ""

    @classmethod
    def of_call(cls, model: ModelInfo, taken: int, given: int) -> "Bound":
        """Return the bound of one call that reads and writes at most these tokens."""
        usd = Decimal(0) if model.price is None else model.price.bound(taken, given)
        return cls(1, taken + given, usd)

    def plus(self, other: "Bound") -> "Bound":
        return Bound(
            None if self.calls is None or other.calls is None else self.calls + other.calls,
            None if self.tokens is None or other.tokens is None else self.tokens + other.tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
            self.why or other.why,
        )

    def times(self, count: int) -> "Bound":
        return Bound(
            None if self.calls is None else self.calls * count,
            None if self.tokens is None else self.tokens * count,
            None if self.usd is None else self.usd * count,
            self.why,
        )

    def under(self, limits: Limits | None) -> "Bound":
        """Return the bound under the limits of a budget."""
        if limits is None:
            return self
        return Bound(
            least(self.calls, limits.calls),
            least(self.tokens, limits.tokens),
            least(self.usd, limits.usd),
            self.why,
        )


def sum_of(bounds: Iterable[Bound]) -> Bound:
    return reduce(Bound.plus, bounds, Bound())


def most_of(bounds: Iterable[Bound]) -> Bound:
    """The largest of each quantity."""
    every = list(bounds)
    if not every:
        return Bound()
    why = next((one.why for one in every if one.why), "")
    return Bound(
        _most([one.calls for one in every]),
        _most([one.tokens for one in every]),
        _most([one.usd for one in every]),
        why,
    )


def least(one: T | None, other: T | None) -> T | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _most(values: list[T | None]) -> T | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


class Caps(NamedTuple):
    """The most of each amount that a run may spend; None if unlimited."""

    usd: Decimal | None
    tokens: int | None
    calls: int | None

    @classmethod
    def of(cls, limits: Limits) -> "Caps":
        return cls(limits.usd, limits.tokens, limits.calls)

    def within(self, around: "Caps") -> "Caps":
        """Return these caps, with those of `around` where there is none."""
        return Caps(
            around.usd if self.usd is None else self.usd,
            around.tokens if self.tokens is None else self.tokens,
            around.calls if self.calls is None else self.calls,
        )


def needs_of_last(spec: RunSpec, caps: Caps) -> dict[str, Amount]:
    """Return the amount to hold back for each last stage; nothing under `on_budget: fail`.

    It is the worst case of one answer of the stage, or of one call of each stage of the pipeline that it runs.
    With tools an answer takes a call for each step, which reads the results so far. The last stages together hold at
    most half of each cap: the rest pays for the work before them.
    """
    if spec.pipeline.on_budget != "finish" or caps == (None, None, None):
        return {}
    needs = {name: _worst_answer(name, spec) for name in spec.loaded.dataflow.last}
    calling = {name: need for name, need in needs.items() if need.calls}
    return {name: _capped(need, caps, len(calling)) for name, need in calling.items()}


def _capped(need: Bound, caps: Caps, sharing: int) -> Amount:
    """The amount to hold for a stage: its need, up to its share of each cap."""
    share = _MAX_SHARE / sharing
    usd = None if caps.usd is None else caps.usd * share
    tokens = None if caps.tokens is None else int(caps.tokens * share)
    calls = None if caps.calls is None else int(caps.calls * share)
    return Amount(least(need.usd, usd), tokens=least(need.tokens, tokens) or 0, calls=least(need.calls, calls) or 0)


def _worst_case(name: str, spec: RunSpec, reads: int) -> Bound:
    """Return the bound of one call of a stage, which reads these bytes beside the fields of its own pipeline.

    A stage that runs another pipeline needs as much as that one; of several, as much as the dearest.
    """
    stage = spec.pipeline.stages[name]
    taken = reads + _input_bound(name, spec)
    role = next((role for _, role in stage.roles()), None)
    models = () if role is None else spec.roles[role].models
    own = most_of(Bound.of_call(model, taken, _given(name, stage, spec)) for model in models)
    if stage.graph is not None:  # its calls are those of its body
        own = Bound()
    nested = [path for path in spec.loaded.nested if path.partition("/")[0] == name]
    return own.plus(most_of(_whole(spec.within(path, spec.request, spec.inputs), taken) for path in nested))


def _worst_answer(name: str, spec: RunSpec) -> Bound:
    """Return the bound of one answer of a stage: one call, or the calls of all steps with tools."""
    once, stage = _worst_case(name, spec, 0), spec.pipeline.stages[name]
    if not isinstance(stage, HandedStage) or not stage.has_hands:
        return once
    taken, given, advisor = _input_bound(name, spec), _given(name, stage, spec), stage.advisor
    results = stage.max_tool_calls * max((options.max_result for options in stage.tools.values()), default=0)
    advice = Bound()
    if advisor is not None:
        results += advisor.calls * advisor.max_tokens
        advice = _dearest(spec, advisor.role, taken, advisor.max_tokens).times(advisor.calls)
    role = next(role for _, role in stage.roles())
    later = (_dearest(spec, role, taken + results + step * given, given) for step in range(1, stage.max_steps))
    return sum_of((once, advice, *later))


def _dearest(spec: RunSpec, role: str, taken: int, given: int) -> Bound:
    """Return the bound of one call of a role, whose input fits into the context of its model."""
    return most_of(Bound.of_call(model, _fitting(model, taken), given) for model in spec.roles[role].models)


def _fitting(model: ModelInfo, taken: int) -> int:
    """Return the most of these tokens that fit into the context of a model."""
    return taken if model.context is None else min(taken, model.context)


def _given(name: str, stage: Stage, spec: RunSpec) -> int:
    """The most tokens that one call of a stage writes."""
    options = spec.options_of(name)
    own = None if options is None else options.max_tokens
    return spec.max_tokens(stage) if own is None else min(spec.max_tokens(stage), own)


def one_of_each(spec: RunSpec) -> Amount:
    """Return the worst case of one call of each stage of a pipeline; nothing where it has no bound."""
    whole = _whole(spec, 0)
    return Amount(whole.usd or Decimal(0), tokens=whole.tokens or 0, calls=whole.calls or 0)


def _whole(spec: RunSpec, reads: int) -> Bound:
    """Return the bound of one call of each stage of a pipeline."""
    return sum_of(_worst_case(name, spec, reads) for name in spec.pipeline.stages)


def _input_bound(name: str, spec: RunSpec) -> int:
    """The most bytes that a stage reads: its template, request, material, and the output of the stages before it."""
    sources = spec.loaded.dataflow.wirings[name].sources
    written = sum(_written(spec.pipeline.stages[source], spec) for source in sources)
    said = _TEMPLATE_BYTES + len(spec.request.encode()) + _material(name, spec) + written * _BYTES_PER_TOKEN
    return said + _options(name, spec)


def _options(name: str, spec: RunSpec) -> int:
    """The bytes of the options of the answer that its stage reads: schema, tools and turns."""
    options = spec.options_of(name)
    if options is None:
        return 0
    schema = len(repr(options.json_schema)) if options.json_schema else 0
    return tools_bound(options.tools) + schema + sum(message.size for message in options.turns)


def _material(name: str, spec: RunSpec) -> int:
    """The bytes of the material that a stage reads whole."""
    reading = getattr(spec.pipeline.stages[name], "reading", "none")
    if reading not in ("all", "outline") or not spec.loaded.dataflow.wirings[name].shows_material:
        return 0
    whole = spec.material().whole
    return len(whole.encode()) + sum(file.size for file in whole.files)


def _written(stage: Stage, spec: RunSpec) -> int:
    """The most tokens that a stage writes: one call, or one for each subtask of the plans before it."""
    widths = [width for other in spec.pipeline.stages.values() if (width := getattr(other, "max_subtasks", None))]
    many = any(output.feed for output in stage.output_fields)
    return spec.max_tokens(stage) * (max(widths, default=1) if many else 1)
