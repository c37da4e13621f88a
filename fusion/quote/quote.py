"""A quote: what a run will probably cost and take, and what it can cost at most, before any call is made."""

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from random import Random
from typing import Final, TypeVar

from fusion.core.result import ReceiptLine
from fusion.core.statistics import quantile
from fusion.core.types import Limits, Money, Value
from fusion.engine.run_spec import Subject
from fusion.pipeline.dataflow import edges_of, stage_order
from fusion.quote.bounds import Bound, bounds, within
from fusion.quote.simulate import Supposed, in_no_time, suppose
from fusion.stages.base import Stage
from fusion.stages.simulation import Chance, evenly

T = TypeVar("T", float, Decimal)

_MOST_RUNS: Final = 120
_FEWEST_RUNS: Final = 12
_CALLS: Final = 3000  # that all supposed runs together make, about
_MOST_WAYS: Final = 8
_SHARES: Final = (0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91)  # of the supposed runs, that lie from `low` to `high`
_LEAST_SHARE: Final = 0.9
_WIDEST: Final = 4  # times the mean: a range that goes beyond says nothing
_DOUBT: Final = "0.3"  # what is supposed may itself be off by so much, in every run alike
_CENTS: Final = Decimal("0.000001")


class Quantity(Value):
    """A number of calls or tokens. `likely` is the mean of the supposed runs; from low to high lie 90 to 97 of 100,
    and what is three tenths beyond them.

    `most` is never passed, but for attempts that are made again, which are no calls; None where there is no bound.
    """

    low: int
    likely: int
    high: int
    most: int | None = None


class Dollars(Value):
    """US dollars, as far as prices are known. `cap` is what can never be passed; None where there is no bound."""

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
    """What one stage spends on one model: `calls`, tokens of `input` and `output`, and dollars.

    `usd` is None where the model's price is unknown; `price_source` says where that comes from. `stage` is its path,
    of a nested pipeline's `stage/theirs`.
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
    """A stage with all within it. `reads` is what it reads: `plan.subtasks =>` flows, `plan.goal ->` does not."""

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
    """What a run may come to, and the stages in the order in which they read each other.

    `limits` is the budget. `unpriced` names the models whose price nobody knows: they are counted in calls and tokens
    and in no dollars. `notes` say what the figures do not.

    It rests on `runs` runs that were supposed: the engine itself, on models that say something of the size, and take
    the time, that is to be expected of them.
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


def quoted(subject: Subject) -> Quote:
    """The quote of a run. It takes a moment of computing, and no call is made."""
    runs: list[Supposed] = in_no_time(lambda: _runs(subject))
    worst: list[Supposed] = in_no_time(lambda: _worst(subject))
    return _Summary(subject, runs, bounds(subject, worst)).quote()


async def _runs(subject: Subject) -> list[Supposed]:
    """Runs by chance, the more the smaller they are; how much is said in them is spread evenly over all."""
    first = await suppose(subject, Chance("0"))
    calls = max(first.result.receipt.calls, 1)
    count = max(_FEWEST_RUNS, min(_MOST_RUNS, _CALLS // calls))
    lies = evenly(count, Random(0))  # noqa: S311 - a quote is the same each time
    return [await suppose(subject, Chance(str(number), lie=lie)) for number, lie in enumerate(lies, start=1)]


async def _worst(subject: Subject) -> list[Supposed]:
    ways = max((len(stage.inner()) + len(list(stage.roles())) for stage in _choosing(subject)), default=1)
    turns = range(2 * min(ways, _MOST_WAYS))
    return [await suppose(subject, Chance(f"worst {turn}", worst=True, turn=turn)) for turn in turns]


def _choosing(subject: Subject) -> Iterable[Stage]:
    return (stage for stage in subject.stages.values() if stage.inner_key)


class _Summary:
    """Puts a quote together out of supposed runs and bounds."""

    def __init__(self, subject: Subject, runs: Sequence[Supposed], bounds: dict[str, Bound]) -> None:
        self._subject = subject
        self._limits = subject.limits
        self._runs = runs
        self._bounds = bounds
        self._whole = within(bounds.values(), subject.limits, subject.roles.models.values())

    def quote(self) -> Quote:
        subject = self._subject
        lines = [one.result.receipt.lines for one in self._runs]
        calls, taken, given, usd = self._amounts(lines, self._whole)
        return Quote(
            pipeline=subject.pipeline.name,
            profile=subject.profile,
            roles={role: one.models[0].id for role, one in subject.roles.all.items()},
            limits=self._limits,
            calls=calls,
            input=taken,
            output=given,
            usd=usd,
            seconds=self._seconds([one.seconds for one in self._runs], self._limits.seconds),
            stages=tuple(self._stage(name) for name in stage_order(subject.pipeline, subject.prompts)),
            unpriced=tuple(sorted(name for name, info in subject.roles.models.items() if info.price is None)),
            notes=tuple(self._notes()),
            runs=len(self._runs),
        )

    def _stage(self, name: str) -> QuotedStage:
        stage = self._subject.pipeline.stages[name]
        edges = [one for one in edges_of(self._subject.pipeline, self._subject.prompts) if one.target == name]
        lines = [[line for line in one.result.receipt.lines if _within(line, name)] for one in self._runs]
        calls, taken, given, usd = self._amounts(lines, self._bounds[name].under(self._limits))
        items = [one.items.get(name, 0) for one in self._runs]
        return QuotedStage(
            name=name,
            kind=stage.kind,
            reads=tuple(f"{edge.source}.{edge.field} {'=>' if edge.flows else '->'}" for edge in edges),
            when=stage.when,
            items=_counted(items) if any(items) else None,
            calls=calls,
            input=taken,
            output=given,
            usd=usd,
            seconds=self._seconds([_took(one, name) for one in self._runs], self._limits.seconds),
            lines=tuple(self._line(*key, lines) for key in dict.fromkeys(_key(one) for run in lines for one in run)),
        )

    def _line(self, stage: str, role: str, model: str, runs: Sequence[Sequence[ReceiptLine]]) -> QuotedLine:
        lines = [[line for line in run if _key(line) == (stage, role, model)] for run in runs]
        calls, taken, given, usd = self._amounts(lines, None)
        source = next(line.price_source for run in lines for line in run)
        return QuotedLine(
            stage=stage,
            role=role,
            model=model,
            calls=calls,
            input=taken,
            output=given,
            usd=None if source == "unknown" else usd,
            price_source=source,
        )

    def _amounts(
        self, runs: Sequence[Sequence[ReceiptLine]], bound: Bound | None
    ) -> tuple[Quantity, Quantity, Quantity, Dollars]:
        """Calls, tokens in, tokens out and dollars, over all runs."""

        def of(amount: Callable[[ReceiptLine], int]) -> list[int]:
            return [sum(map(amount, run)) for run in runs]

        costs = [sum((line.cost.usd for line in run), Decimal(0)) for run in runs]
        return (
            _counted(of(lambda line: line.calls), None if bound is None else bound.calls),
            _measured(of(lambda line: line.usage.input), None if bound is None else bound.tokens),
            _measured(of(lambda line: line.usage.output), None if bound is None else bound.tokens),
            _dollars(costs, None if bound is None else bound.usd),
        )

    def _seconds(self, runs: Sequence[float], most: float | None) -> Seconds:
        low, likely, high = (round(min(one, most) if most else one, 1) for one in _doubted(runs))
        return Seconds(low=low, likely=likely, high=high)

    def _notes(self) -> Iterable[str]:
        yield from self._subject.roles.notes
        stops = [error for one in self._runs if (error := one.result.error) and error.reason == "BudgetError"]
        if stops:
            yield f"{len(stops)} of {len(self._runs)} supposed runs end at a limit, such as: {stops[0].message}"
        if self._whole.usd is None:
            why = next((bound.why for bound in self._bounds.values() if bound.why), "")
            yield f"no bound in dollars: {why}; `budget.usd` sets one"
        for name in () if stops else self._never_asked():
            yield f"{name!r} could not be supposed: what it costs is in none of the figures but the cap"

    def _never_asked(self) -> Iterable[str]:
        """Stages that call a model, and that no supposed run has reached."""
        asked = {line.stage.partition("/")[0] for one in self._runs for line in one.result.receipt.lines}
        for name, stage in self._subject.pipeline.stages.items():
            calls = any(stage.roles()) or name in self._subject.nested
            if calls and name not in asked and not self._is_empty(name, stage):
                yield name

    def _is_empty(self, name: str, stage: Stage) -> bool:
        """True where a stage has nothing to do: it is skipped, or there are no items for it."""
        statuses = {one.result.stages[name].status for one in self._runs if name in one.result.stages}
        follows = any(use.flows for use in stage.expressions())
        return (stage.when is not None and statuses <= {"skipped"}) or (
            follows and statuses <= {"ok"} and not any(one.items.get(name) for one in self._runs)
        )


def _within(line: ReceiptLine, name: str) -> bool:
    return line.stage == name or line.stage.startswith(f"{name}/")


def _key(line: ReceiptLine) -> tuple[str, str, str]:
    return line.stage, line.role, line.model


def _took(one: Supposed, name: str) -> float:
    begun = one.began.get(name)
    return 0.0 if begun is None else one.ended.get(name, one.seconds) - begun


def _counted(counts: Sequence[int], most: int | None = None) -> Quantity:
    """How many items or calls: the engine counts them, and there is no doubt beyond what it was supposed to meet."""
    return _quantity(_of_supposed([float(count) for count in counts]), most)


def _measured(tokens: Sequence[int], most: int | None = None) -> Quantity:
    """How many tokens: how long texts are can be off as a whole."""
    return _quantity(_doubted([float(count) for count in tokens]), most)


def _quantity(of: tuple[float, float, float], most: int | None) -> Quantity:
    low, likely, high = (round(one) for one in of)
    if most is not None:
        low, likely, high = min(low, most), min(likely, most), min(high, most)
    return Quantity(low=low, likely=likely, high=high, most=most)


def _dollars(costs: Sequence[Decimal], cap: Decimal | None) -> Dollars:
    low, likely, high = (one if cap is None else min(one, cap) for one in _doubted(costs))
    most, likely = _WIDEST * likely, likely.quantize(_CENTS)
    shown = high.quantize(_CENTS)
    if high <= most:  # and no rounding is to make it more
        shown = min(shown, _WIDEST * likely)
    return Dollars(low=low.quantize(_CENTS), likely=likely, high=shown, cap=cap)


def _doubted(values: Sequence[T]) -> tuple[T, T, T]:
    """The range in which nearly all supposed values lie, on both sides wider by what supposing may be off; the mean.

    Where there is one value only, nothing is supposed. The range does not end beyond four times the mean.
    """
    low, mean, high = _of_supposed(values)
    if low == high:
        return low, mean, high
    doubt = type(mean)(_DOUBT)
    return low * (1 - doubt), mean, max(high, min(high * (1 + doubt), _WIDEST * mean))


def _of_supposed(values: Sequence[T]) -> tuple[T, T, T]:
    """A range in which nearly all values lie, and in the middle their mean.

    97 of 100 lie in it, as many below it as above; fewer, down to 90, as long as it ends beyond four times the mean;
    if it does so even then, it is the shortest one with 90 of 100.
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
