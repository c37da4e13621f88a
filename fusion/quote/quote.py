"""Quote: the likely cost and time of a run, from simulated runs, and its upper bound, without any call."""

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from random import Random
from typing import Any, Final, TypeVar

from fusion.core.result import ReceiptLine
from fusion.core.statistics import quantile
from fusion.core.types import Limits, Money, Value
from fusion.engine.budgets.holdback import Bound, least
from fusion.engine.run_spec import RunSpec
from fusion.quote.bounds import bounds, within
from fusion.quote.simulate import Simulated, in_virtual_time, simulate
from fusion.stages.base import Stage
from fusion.stages.simulation import Chance, evenly

T = TypeVar("T", float, Decimal)

_MOST_RUNS: Final = 120
_FEWEST_RUNS: Final = 12
_CALLS: Final = 3000  # of all simulated runs together, about
_MOST_WAYS: Final = 8
_SHARES: Final = (0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91)  # of the simulated runs, from `low` to `high`
_LEAST_SHARE: Final = 0.9
_WIDEST: Final = 4  # times the mean: a wider range is useless
_DOUBT: Final = "0.3"  # the error of the assumptions themselves, common to all runs
_CENTS: Final = Decimal("0.000001")
_UNBOUNDED: Final = Bound(None, None, None)


class Quantity(Value):
    """A number of calls or tokens. `likely` is the mean of the simulated runs.

    90 to 97 of 100 runs are from `low` to `high`, which are widened by three tenths for tokens. `most` is an upper
    bound, in which retries are not counted as calls; None without one.
    """

    low: int
    likely: int
    high: int
    most: int | None = None


class Dollars(Value):
    """US dollars, for models of known price. `cap` is never exceeded; None without a bound."""

    low: Money
    likely: Money
    high: Money
    cap: Money | None = None


class Seconds(Value):
    """Seconds from the start of a run or from a stage's first input."""

    low: float
    likely: float
    high: float


class QuotedLine(Value):
    """The calls, tokens and dollars of one stage on one model.

    `usd` is None if the model's price is unknown; `price_source` names its source. `stage` is a path, `outer/inner`
    for a nested pipeline.
    """

    stage: str
    role: str
    model: str
    calls: Quantity
    input: Quantity
    output: Quantity
    usd: Dollars | None
    price_source: str


class QuotedStage(Value):
    """A stage with its inner stages. `reads` lists its reads: `plan.subtasks =>` flows, `plan.goal ->` does not."""

    name: str
    kind: str
    reads: tuple[str, ...]
    when: str | None
    items: Quantity | None
    calls: Quantity
    input: Quantity
    output: Quantity
    usd: Dollars
    seconds: Seconds
    lines: tuple[QuotedLine, ...]


class Quote(Value):
    """The likely calls, tokens, cost and time of a run, with its stages in order.

    `limits` is the budget. `unpriced` names the models of unknown price: they count in calls and tokens, not in
    dollars. `notes` add what the figures leave out.

    The figures come from `runs` simulated runs, on models that answer with the expected length and pace.
    """

    pipeline: str
    profile: str
    roles: dict[str, str]
    limits: Limits
    calls: Quantity
    input: Quantity
    output: Quantity
    usd: Dollars
    seconds: Seconds
    stages: tuple[QuotedStage, ...]
    unpriced: tuple[str, ...]
    notes: tuple[str, ...]
    runs: int


def quoted(spec: RunSpec, *, most_runs: int = _MOST_RUNS) -> Quote:
    """Return the quote of a run, from so many simulated runs at most. It computes for a moment and makes no call."""
    runs: list[Simulated] = in_virtual_time(lambda: _runs(spec, most_runs))
    worst: list[Simulated] = in_virtual_time(lambda: _worst(spec))
    return _Summary(spec, runs, bounds(spec, worst)).quote()


async def _runs(spec: RunSpec, most: int) -> list[Simulated]:
    """Simulate random runs, more of smaller ones; the lengths of answers are spread evenly over them."""
    first = await simulate(spec, Chance("0"))
    calls = max(first.result.receipt.calls, 1)
    count = max(_FEWEST_RUNS, min(most, _CALLS // calls))
    lies = evenly(count, Random(0))  # noqa: S311 - a quote is the same each time
    return [await simulate(spec, Chance(str(number), lie=lie)) for number, lie in enumerate(lies, start=1)]


async def _worst(spec: RunSpec) -> list[Simulated]:
    choosing = [stage for stage in spec.loaded.stages.values() if stage.inner_key]
    ways = max((len(stage.inner()) + len(list(stage.roles())) for stage in choosing), default=1)
    turns = range(2 * min(ways, _MOST_WAYS))
    return [await simulate(spec, Chance(f"worst {turn}", worst=True, turn=turn)) for turn in turns]


class _Summary:
    """Builds a quote from simulated runs and bounds."""

    def __init__(self, spec: RunSpec, runs: Sequence[Simulated], bounds: dict[str, Bound]) -> None:
        self._spec = spec
        self._limits = spec.limits
        self._runs = runs
        self._bounds = bounds
        self._whole = within(bounds.values(), spec.limits, spec.roles.models.values())
        results = (one.result for one in runs)
        self._stops = [error for result in results if (error := result.error) and error.reason == "BudgetError"]
        self._unreached = () if self._stops else tuple(self._never_asked())

    def quote(self) -> Quote:
        spec = self._spec
        return Quote(
            pipeline=spec.pipeline.name,
            profile=spec.profile,
            roles={role: one.models[0].id for role, one in spec.roles.all.items()},
            limits=self._limits,
            **self._covering(
                self._amounts([one.result.receipt.lines for one in self._runs], self._whole), self._unreached
            ),
            seconds=self._seconds([one.seconds for one in self._runs]),
            stages=tuple(self._stage(name) for name in spec.loaded.dataflow.order),
            unpriced=tuple(sorted(name for name, info in spec.roles.models.items() if info.price is None)),
            notes=tuple(self._notes()),
            runs=len(self._runs),
        )

    def _stage(self, name: str) -> QuotedStage:
        stage = self._spec.pipeline.stages[name]
        edges = [one for one in self._spec.loaded.dataflow.edges if one.target == name]
        lines = [[line for line in one.result.receipt.lines if _within(line, name)] for one in self._runs]
        items = [float(one.items.get(name, 0)) for one in self._runs]
        return QuotedStage(
            name=name,
            kind=stage.kind,
            reads=tuple(f"{edge.source}.{edge.field} {'=>' if edge.flows else '->'}" for edge in edges),
            when=stage.when,
            items=_quantity(_interval(items)) if any(items) else None,
            **self._covering(
                self._amounts(lines, self._bounds[name].under(self._limits)), {name}.intersection(self._unreached)
            ),
            seconds=self._seconds([_took(one, name) for one in self._runs]),
            lines=tuple(
                self._line(*key, lines) for key in dict.fromkeys(self._key(one) for run in lines for one in run)
            ),
        )

    def _line(self, stage: str, role: str, model: str, runs: Sequence[Sequence[ReceiptLine]]) -> QuotedLine:
        lines = [[line for line in run if self._key(line) == (stage, role, model)] for run in runs]
        amounts = self._amounts(lines, _UNBOUNDED)
        source = next(line.price_source for run in lines for line in run)
        if source == "unknown":
            amounts["usd"] = None
        return QuotedLine(stage=stage, role=role, model=model, **amounts, price_source=source)

    def _keys(self, runs: Sequence[Sequence[ReceiptLine]]) -> Iterable[tuple[str, str, str]]:
        return dict.fromkeys(self._key(line) for run in runs for line in run)

    def _key(self, line: ReceiptLine) -> tuple[str, str, str]:
        """Return stage, role and model of a line; all rounds of a loop are one line."""
        return self._spec.loaded.path_of(line.stage), line.role, line.model

    def _amounts(self, runs: Sequence[Sequence[ReceiptLine]], bound: Bound) -> dict[str, Any]:
        """Return calls, input tokens, output tokens and dollars over all runs; only calls are counted exactly."""
        calls = [float(sum(line.calls for line in run)) for run in runs]
        taken = [float(sum(line.usage.input for line in run)) for run in runs]
        given = [float(sum(line.usage.output for line in run)) for run in runs]
        costs = [sum((line.cost.usd for line in run), Decimal(0)) for run in runs]
        return {
            "calls": _quantity(_interval(calls), bound.calls),
            "input": _quantity(_widened(taken), bound.tokens),
            "output": _quantity(_widened(given), bound.tokens),
            "usd": _dollars(costs, bound.usd),
        }

    def _covering(self, amounts: dict[str, Any], unreached: Iterable[str]) -> dict[str, Any]:
        """Extend the ranges of calls and dollars by the most of stages that no simulated run reached."""
        calls, usd = amounts["calls"], amounts["usd"]
        for bound in (self._bounds[name].under(self._limits) for name in unreached):
            most = None if bound.calls is None else calls.high + bound.calls
            dear = None if bound.usd is None else usd.high + bound.usd
            calls = calls.model_copy(update={"high": least(most, calls.most) or calls.high})
            usd = usd.model_copy(update={"high": (least(dear, usd.cap) or usd.high).quantize(_CENTS)})
        return {**amounts, "calls": calls, "usd": usd}

    def _seconds(self, runs: Sequence[float]) -> Seconds:
        most = self._limits.seconds
        low, likely, high = (round(min(one, most) if most else one, 1) for one in _widened(runs))
        return Seconds(low=low, likely=likely, high=high)

    def _notes(self) -> Iterable[str]:
        yield from self._spec.notes
        if any(self._batched(stage) for stage in self._spec.loaded.stages.values()):
            yield "calls in batches take up to 24 hours each, one stage after the other: the time leaves that out"
        if self._stops:
            count = f"{len(self._stops)} of {len(self._runs)} simulated runs"
            yield f"{count} end at a limit, such as: {self._stops[0].message}"
        if self._whole.usd is None:
            why = next((bound.why for bound in self._bounds.values() if bound.why), "")
            yield f"no bound in dollars: {why}; `budget.usd` sets one"
        for name in self._unreached:
            yield f"no simulated run reaches {name!r}: only the upper end of the cost includes it"

    def _batched(self, stage: Stage) -> bool:
        roles = dict.fromkeys(role for _, role in stage.roles())
        return any(self._spec.batch_price(stage, role) is not None for role in roles)

    def _never_asked(self) -> Iterable[str]:
        """Yield the stages with models that no simulated run reached."""
        asked = {line.stage.partition("/")[0] for one in self._runs for line in one.result.receipt.lines}
        for name, stage in self._spec.pipeline.stages.items():
            calls = any(stage.roles()) or name in self._spec.loaded.nested
            if calls and name not in asked and not self._is_empty(name, stage):
                yield name

    def _is_empty(self, name: str, stage: Stage) -> bool:
        """True if a stage has no work: it is skipped, or has no items."""
        statuses = {one.result.stages[name].status for one in self._runs if name in one.result.stages}
        follows = self._spec.loaded.dataflow.wirings[name].over is not None
        return (stage.when is not None and statuses <= {"skipped"}) or (
            follows
            and statuses <= {"ok"}
            and not any(one.items.get(name) for one in self._runs)
            and self._is_dry(name)
        )

    def _is_dry(self, name: str) -> bool:
        """True if the inputs alone leave a stage without items, rather than answers."""
        wiring = self._spec.loaded.dataflow.wirings[name]
        return self._is_dry(wiring.flow.stage) if wiring.flow is not None else not wiring.over


def _within(line: ReceiptLine, name: str) -> bool:
    return line.stage == name or line.stage.startswith(f"{name}/")


def _took(one: Simulated, name: str) -> float:
    begun = one.began.get(name)
    return 0.0 if begun is None else one.ended.get(name, one.seconds) - begun


def _quantity(of: tuple[float, float, float], most: int | None = None) -> Quantity:
    low, likely, high = (round(one) for one in of)
    if most is not None:
        low, likely, high = min(low, most), min(likely, most), min(high, most)
    return Quantity(low=low, likely=likely, high=high, most=most)


def _dollars(costs: Sequence[Decimal], cap: Decimal | None) -> Dollars:
    low, likely, high = (one if cap is None else min(one, cap) for one in _widened(costs))
    most, likely = _WIDEST * likely, likely.quantize(_CENTS)
    shown = high.quantize(_CENTS)
    if high <= most:  # rounding must not exceed it
        shown = min(shown, _WIDEST * likely)
    return Dollars(low=low.quantize(_CENTS), likely=likely, high=shown, cap=cap)


def _widened(values: Sequence[T]) -> tuple[T, T, T]:
    """Return (low, mean, high): the interval of the values, widened by the error of the assumptions.

    A single value is not widened. The interval ends at four times the mean at the latest.
    """
    low, mean, high = _interval(values)
    if low == high:
        return low, mean, high
    doubt = type(mean)(_DOUBT)
    return low * (1 - doubt), mean, min(high * (1 + doubt), _WIDEST * mean)


def _interval(values: Sequence[T]) -> tuple[T, T, T]:
    """Return (low, mean, high) with 97 of 100 values from low to high, as many below as above.

    If high exceeds four times the mean, the share shrinks to 90 of 100; then the shortest such interval is taken.
    """
    ordered = sorted(values)
    mean = sum(ordered, type(ordered[0])(0)) / len(ordered)
    for share in _SHARES:
        high = quantile(ordered, (1 + share) / 2)
        if high <= _WIDEST * mean:
            return quantile(ordered, (1 - share) / 2), mean, high
    count = math.ceil(_LEAST_SHARE * len(ordered))
    starts = range(len(ordered) - count + 1)
    at = min(starts, key=lambda start: ordered[start + count - 1] - ordered[start])
    return ordered[at], mean, ordered[at + count - 1]
