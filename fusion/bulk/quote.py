"""Quote of a map: the likely cost of its rows, scaled from the quotes of a sample, without any call."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from heapq import heappush, heappushpop
from itertools import islice
from statistics import fmean, stdev
from typing import Final, Literal, NamedTuple

from fusion.bulk.planner import Pass, Planned, Planner
from fusion.bulk.sources import RowSource, SourceRow
from fusion.core.errors import InputError, UsageError
from fusion.core.types import Balance, Limits, Value
from fusion.engine.run_spec import RunSpec
from fusion.quote.quote import Dollars, Quantity, Quote, Seconds, quoted
from fusion.store.base import Store

SAMPLE: Final = 20
_RUNS: Final = 24
"""Simulated runs of each row of the sample."""
_AT_ONCE: Final = 256
_DOUBT: Final = 0.3
"""Error of the assumptions of a quote, common to all rows."""
_SIGMAS: Final = 2.0
_CENTS: Final = Decimal("0.000001")
RowKind = Literal["new", "changed", "unfinished", "again", "done", "failed"]


class MapQuote(Value):
    """The likely cost and time of a map, scaled from the quotes of `sampled` of its rows.

    Of its `rows`, `to_run` would run: `new` ones, `changed` ones whose inputs or pipeline differ, `unfinished` ones,
    and with `retry_failed` those to ask `again`. `done` and `failed` ones stay as they are.

    `usd` is for all rows to run: `low` to `high` covers the error of the sample and that of the assumptions. `cap` is
    the limit of the budget, if one is given; without it, no bound is known for rows that were not sampled. `most` is
    the sum of all worst cases, scaled. With `batch`, prices are those of the providers' batches where known.

    `budgets` are those of the store that cover the map, with what is left of them in their present periods.

    `seconds` counts the rows that run at once. `unpriced` names the models of unknown price.
    """

    pipeline: str
    profile: str
    roles: dict[str, str]
    source: str
    rows: int
    to_run: int
    new: int = 0
    changed: int = 0
    unfinished: int = 0
    again: int = 0
    done: int = 0
    failed: int = 0
    sampled: int
    batch: bool
    limits: Limits
    budgets: tuple[Balance, ...] = ()
    calls: Quantity
    input: Quantity
    output: Quantity
    usd: Dollars
    most: Decimal | None
    seconds: Seconds
    unpriced: tuple[str, ...]
    notes: tuple[str, ...]

    def lacks(self, budget: Balance) -> tuple[str, ...]:
        """Return the limits of a budget that the likely cost would pass: usd, tokens, calls."""
        tokens = self.input.likely + self.output.likely
        likely: dict[str, Decimal | int] = {"usd": self.usd.likely, "tokens": tokens, "calls": self.calls.likely}
        return tuple(unit for unit, share in budget.limits.items() if likely[unit] > share.left)


class _Priced(NamedTuple):
    """Dollars of one quoted row."""

    low: float
    likely: float
    high: float
    cap: float | None

    @classmethod
    def of(cls, usd: Dollars) -> "_Priced":
        cap = None if usd.cap is None else float(usd.cap)
        return cls(float(usd.low), float(usd.likely), float(usd.high), cap)


@dataclass
class _Survey:
    """Rows counted by kind, and a sample of the specs of those that would run."""

    most: int
    counts: Counter[RowKind] = field(default_factory=Counter)
    sample: list[tuple[int, int, RunSpec]] = field(default_factory=list)

    def add(self, key: str, kind: RowKind, spec: RunSpec | None) -> None:
        self.counts[kind] += 1
        if spec is None:
            return
        rank = -int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        one = (rank, -self.counts.total(), spec)
        if len(self.sample) < self.most:
            heappush(self.sample, one)
        else:
            heappushpop(self.sample, one)


def quoted_map(
    one: Pass,
    source: RowSource,
    rows: Iterator[SourceRow],
    store: Store | None,
    *,
    limits: Limits,
    budgets: Sequence[Balance],
    concurrency: int,
    sample: int = SAMPLE,
) -> MapQuote:
    """Return the quote of a map, from one pass over its rows. Raises UsageError if no row can be read."""
    survey = _Survey(sample)
    for key, kind, spec in _planned(one, rows, store):
        survey.add(key, kind, spec)
    quotes = [quoted(spec, most_runs=_RUNS) for _, _, spec in sorted(survey.sample, key=lambda entry: entry[:2])]
    counts = survey.counts
    to_run = counts["new"] + counts["changed"] + counts["unfinished"] + counts["again"]
    scaled = _scaled(one, source, quotes, counts, to_run, limits=limits, concurrency=concurrency)
    return scaled.model_copy(update={"budgets": tuple(budgets)})


def _planned(
    one: Pass, rows: Iterator[SourceRow], store: Store | None
) -> Iterator[tuple[str, RowKind, RunSpec | None]]:
    """Yield the key, the kind and the spec of each row; nothing is written."""
    if store is None:
        for at, row in enumerate(rows):
            try:
                yield f"{row.path or at}", "new", one.spec.with_inputs(one.columns.inputs(row))
            except InputError:
                yield f"{at}", "failed", None
        return
    planner = Planner(store, one)
    while some := list(islice(rows, _AT_ONCE)):
        for row, planned in zip(some, planner.planned(some)[0], strict=True):
            kind, spec = _kind(planned), planned.spec
            if spec is None and kind in ("unfinished", "again"):  # as if none of its calls were finished
                spec = one.spec.with_inputs(one.columns.inputs(row))
            yield planned.key, kind, spec


def _kind(planned: Planned) -> RowKind:
    run = planned.run
    if run is None:
        return "failed" if planned.status == "failed" else "done"
    if run.sessions == 0 and run.parent is None and planned.spec is not None:
        return "new"
    if planned.spec is not None:
        return "changed"
    return "again" if run.ended is not None and run.status in ("failed", "partial") else "unfinished"


def _scaled(
    one: Pass,
    source: RowSource,
    quotes: Sequence[Quote],
    counts: Counter[RowKind],
    to_run: int,
    *,
    limits: Limits,
    concurrency: int,
) -> MapQuote:
    spec = one.spec
    priced = [_Priced.of(quote.usd) for quote in quotes]
    cap = limits.usd
    low, likely, high = (
        min(Decimal(value).quantize(_CENTS), cap or Decimal("Infinity"))
        for value in _interval([(one.low, one.likely, one.high) for one in priced], to_run)
    )
    worst = [one.cap for one in priced if one.cap is not None]
    most = Decimal(fmean(worst) * to_run).quantize(_CENTS) if worst and len(worst) == len(priced) else None
    notes = dict.fromkeys(note for quote in quotes for note in quote.notes)
    return MapQuote(
        pipeline=spec.pipeline.name,
        profile=spec.profile,
        roles={role: model.models[0].id for role, model in spec.roles.all.items()},
        source=source.name,
        rows=counts.total(),
        to_run=to_run,
        **{str(kind): count for kind, count in counts.items()},
        sampled=len(quotes),
        batch=spec.batch,
        limits=limits,
        calls=_quantity((quote.calls for quote in quotes), to_run),
        input=_quantity((quote.input for quote in quotes), to_run),
        output=_quantity((quote.output for quote in quotes), to_run),
        usd=Dollars(low=low, likely=likely, high=high, cap=cap),
        most=most if cap is None or most is None else min(most, cap),
        seconds=_seconds(quotes, to_run, concurrency),
        unpriced=tuple(sorted({name for quote in quotes for name in quote.unpriced})),
        notes=(*one.columns.notes, *notes),
    )


def _interval(values: Sequence[tuple[float, float, float]], rows: int) -> tuple[float, float, float]:
    """Return (low, likely, high) of the sum over so many rows, from quotes (low, likely, high) of a sample of them.

    Three errors add up: that of the assumptions, that of the sample, and the spread of single rows, which averages
    out over many.
    """
    if not values or not rows:
        return 0.0, 0.0, 0.0
    likely = fmean(one[1] for one in values)
    if not likely:
        return 0.0, 0.0, fmean(one[2] for one in values) * rows
    count = len(values)
    spread = stdev([one[1] for one in values]) if count > 1 else 0.0
    of_sample = _SIGMAS * spread / math.sqrt(count) / likely * math.sqrt(max(0.0, 1 - count / rows))
    single = fmean((one[2] - one[0]) / 2 for one in values) / likely / math.sqrt(rows)
    width = math.sqrt(_DOUBT**2 + of_sample**2 + single**2)
    return max(0.0, likely * rows * (1 - width)), likely * rows, likely * rows * (1 + width)


def _quantity(values: Iterable[Quantity], rows: int) -> Quantity:
    low, likely, high = (round(one) for one in _interval([(one.low, one.likely, one.high) for one in values], rows))
    return Quantity(low=low, likely=likely, high=high)


def _seconds(quotes: Sequence[Quote], rows: int, concurrency: int) -> Seconds:
    values = [(one.seconds.low, one.seconds.likely, one.seconds.high) for one in quotes]
    at_once = max(1, min(concurrency, rows))
    low, likely, high = (round(one / at_once, 1) for one in _interval(values, rows))
    return Seconds(low=low, likely=likely, high=high)


def checked_source(source: RowSource) -> RowSource:
    """Return a source that can be read more than once. Raises UsageError."""
    if not source.rewindable:
        raise UsageError(f"{source.name} can be read only once, by the map itself; give a file for a quote")
    return source
