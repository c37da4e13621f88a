"""Accounts: adds up the events of a run to its receipt."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from fusion.core.budget import Draws
from fusion.core.events import (
    AttemptCharged,
    AttemptFailed,
    BatchAttempt,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    CommandFinished,
    Decided,
    EventBase,
    FallbackTaken,
    ItemFinished,
    Noted,
    OfCall,
    ToolFinished,
)
from fusion.core.result import BudgetUse, Cost, Receipt, ReceiptLine, Served, Spent
from fusion.core.types import Money, Usage
from fusion.engine.receipt.budgets import Drawn, drawn_before, uses
from fusion.engine.receipt.path import CriticalPath, Upstreams
from fusion.models.base import Price
from fusion.store.base import Store
from fusion.store.lookup import kept_events
from fusion.store.rows import Attempt, AttemptState, Line, Timing

_ZERO: Final = Decimal(0)
_NO_TAGS: Final[Mapping[str, str]] = {}
_NO_PRICES: Final[Mapping[str, Price | None]] = {}


@dataclass(slots=True)
class _Sum:
    """Total of tokens and dollars."""

    input: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    usd: Decimal = _ZERO
    unknown: int = 0

    def add(self, tokens: Usage | Line, usd: Decimal | None, unknown: int = 0) -> None:
        self.input += tokens.input
        self.cached_read += tokens.cached_read
        self.cache_write += tokens.cache_write
        self.output += tokens.output
        self.reasoning += tokens.reasoning
        self.usd += usd or 0
        self.unknown += unknown + (usd is None)

    def take(self, tokens: Usage, usd: Decimal | None) -> None:
        """Take back what `add` added."""
        self.input -= tokens.input
        self.output -= tokens.output
        self.usd -= usd or 0
        self.unknown -= usd is None

    def spent(self, source: Literal["measured", "estimated"]) -> Spent:
        usage = Usage(
            input=self.input,
            cached_read=self.cached_read,
            cache_write=self.cache_write,
            output=self.output,
            reasoning=self.reasoning,
            source=source,
        )
        return Spent(usage=usage, cost=Cost(usd=self.usd, unknown_calls=self.unknown))


_Total = Literal["saved", "measured", "estimated", "charged"]
"""Totals of a line; all but the measured ones are estimates."""


class _Line:
    """Counts and totals of one line; the names are those of a ReceiptLine."""

    __slots__ = ("batch_saved", "cached", "counts", "totals")

    def __init__(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.totals: dict[_Total, _Sum] = {}
        self.cached: Money = _ZERO
        self.batch_saved: Money = _ZERO

    def total(self, name: _Total) -> _Sum:
        found = self.totals.get(name)
        if found is None:
            found = self.totals[name] = _Sum()
        return found

    def spent(self) -> dict[str, Spent]:
        """Return the totals by name; those of nothing are left out."""
        return {name: one.spent(_SOURCES[name]) for name, one in self.totals.items() if one != _NOTHING}


_NOTHING: Final = _Sum()
_SOURCES: Final[Mapping[_Total, Literal["measured", "estimated"]]] = {
    "saved": "measured",
    "measured": "measured",
    "estimated": "estimated",
    "charged": "estimated",
}


class Before(NamedTuple):
    """Earlier part of a run, from a store: totals and times of its calls, draws on budgets, events for the rest."""

    lines: Sequence[Line] = ()
    events: Sequence[EventBase] = ()
    timings: Sequence[Timing] = ()
    drawn: Sequence[Drawn] = ()


class _Key(NamedTuple):
    """Key of a line: a stage, a role, the model that was called, and the model that it replaced, if any.

    Attempts that lost against a hedge have lines of their own.
    """

    stage: str
    role: str
    model: str
    asked: str | None = None
    hedge: bool = False


class Accounts:
    """A sink that adds up events: one line for each stage, role and model, and the times of the critical path.

    `prices` are those of the models, for the savings of prompt caches. `upstreams` are the stages before each stage.
    """

    def __init__(
        self,
        price_sources: Mapping[str, str],
        prices: Mapping[str, Price | None] = _NO_PRICES,
        upstreams: Upstreams = dict,
    ) -> None:
        self._price_sources = price_sources
        self._prices = prices
        self._path = CriticalPath(upstreams)
        self._lines: dict[_Key, _Line] = {}
        self._key_of: dict[tuple[str, str, str], _Key] = {}
        self._served: Counter[tuple[str, str, str, str | None]] = Counter()
        self.notes: list[str] = []
        self.decisions: dict[str, Decided] = {}
        self._drawn: Sequence[Drawn] = ()
        self._uses: Callable[[Sequence[Drawn]], tuple[BudgetUse, ...]] = uses
        self._escalated: dict[tuple[str, int | None], bool] = {}

    def __call__(self, event: EventBase) -> None:
        entry = _ENTRIES.get(type(event))
        if entry is not None:
            entry(self, event)

    def take_up(self, before: Before) -> None:
        """Add the calls and the spending of earlier sessions."""
        self._drawn = before.drawn
        for line in before.lines:
            of = self._line(_Key(line.stage, line.role, line.model, line.asked))
            of.counts["reused" if line.reused else "calls"] += line.calls
            of.total("saved" if line.reused else line.source).add(line, line.usd, line.unknown)
            if line.batched and not line.reused:
                of.counts["batched"] += line.batched
                of.batch_saved += line.batch_saved
            by = line.model if line.asked else None
            self._served[line.role, line.asked or line.model, line.served, by] += line.calls
        acts = [event for event in before.events if isinstance(event, ToolFinished | CommandFinished)]
        for event in before.events:
            if not isinstance(event, ToolFinished | CommandFinished):
                self(event)
        self._take_up_times(before.timings, acts)

    def draw_on(self, draws: Draws, names: Collection[str]) -> None:
        """Take what the budget of the run draws on the kept budgets of these names into its receipt."""
        self._uses = partial(uses, draws=draws, names=names)

    def _take_up_times(self, calls: Sequence[Timing], acts: Sequence[ToolFinished | CommandFinished]) -> None:
        """Add the times of calls and tools, in the order of their starts and ends."""
        moments: list[tuple[float, int, Timing | ToolFinished | CommandFinished]] = [
            (moment, at, call) for call in calls for at, moment in ((0, call.started), (1, call.ended))
        ]
        moments += [(act.at.timestamp(), 1, act) for act in acts]
        for moment, at, one in sorted(moments, key=lambda one: one[:2]):
            if not isinstance(one, Timing):
                self._acted(one)
            elif at == 0:
                self._path.begin((one.stage, one.item, one.step), moment)
            else:
                self._path.finish((one.stage, one.item, one.step), moment, one.waited, one.latency, reused=one.reused)
        for call in calls:
            if not call.reused and (call.cached_read or call.cache_write):
                usage = Usage(input=call.input, cached_read=call.cached_read, cache_write=call.cache_write)
                key = _Key(call.stage, call.role, call.model, call.asked)
                self._line(key).cached += self._saved_on(call.model, usage)

    def receipt(self, seconds: float, tags: Mapping[str, str] = _NO_TAGS) -> Receipt:
        """Return the receipt as of now."""
        lines = tuple(
            ReceiptLine(
                stage=key.stage,
                role=key.role,
                model=key.model,
                asked=key.asked,
                hedge=key.hedge,
                **line.counts,
                **line.spent(),
                cached=line.cached,
                batch_saved=line.batch_saved,
                price_source=self._price_sources.get(key.model, "unknown"),
            )
            for key, line in self._lines.items()
        )
        return Receipt(
            lines=lines,
            seconds=seconds,
            times=self._path.times(seconds),
            saved_seconds=self._path.saved,
            tags=dict(tags),
            cascades=len(self._escalated),
            escalated=sum(self._escalated.values()),
            escalation_rate=sum(self._escalated.values()) / len(self._escalated) if self._escalated else None,
            budgets=self._uses(self._drawn),
        )

    def served(self) -> tuple[Served, ...]:
        """Return the models that were requested and those that answered, by role."""
        return tuple(
            Served(role=role, asked=asked, served=served, by=by, calls=calls)
            for (role, asked, served, by), calls in sorted(self._served.items(), key=repr)
        )

    def _started(self, event: CallStarted) -> None:
        self._path.begin((event.stage, event.item, event.step), event.at.timestamp())

    def _failed(self, event: CallFailed) -> None:
        self._ended(event, 0.0)
        self._line(_Key(event.stage, event.role, event.model)).counts["failed"] += 1

    def _fell_back(self, event: FallbackTaken) -> None:
        self._of_attempt(event, event.failed).counts["fallbacks"] += 1
        asked = self._key(event, event.asked)
        if event.model != event.asked:
            key = asked._replace(model=event.model, asked=event.asked)
            self._key_of[event.stage, event.role, event.model] = key

    def _retried(self, event: AttemptFailed) -> None:
        if event.wait is not None:
            self._of_attempt(event, event.model).counts["retries"] += 1

    def _noted(self, event: Noted) -> None:
        self.notes.append(f"{event.stage}: {event.message}" if event.stage else event.message)

    def _decided(self, event: Decided) -> None:
        if event.item is None:
            self.decisions[event.stage] = event
        if event.escalated is not None:
            self._escalated[event.stage, event.item] = event.escalated

    def _settled(self, event: ItemFinished) -> None:
        if event.tier is not None:
            self._escalated[event.stage, event.item] = event.tier > 1

    def _ended(self, event: CallFinished | CallFailed | CallCancelled, latency: float | None) -> None:
        reused = isinstance(event, CallFinished) and event.reused in ("cache", "other run")
        place = (event.stage, event.item, event.step)
        self._path.finish(place, event.at.timestamp(), event.waited, latency, reused=reused)

    def _acted(self, event: ToolFinished | CommandFinished) -> None:
        if not event.reused:
            self._path.act(event.stage, event.item, event.at.timestamp(), event.seconds)

    def _saved_on(self, model: str, usage: Usage) -> Money:
        """Return the dollars that a prompt cache saved."""
        price = self._prices.get(model)
        if price is None or not (usage.cached_read or usage.cache_write):
            return _ZERO
        return price.uncached(usage) - price.of(usage)

    def _finished(self, event: CallFinished) -> None:
        self._ended(event, event.latency)
        if event.reused == "journal":  # an earlier session counted it
            return
        line = self._line(_Key(event.stage, event.role, event.by or event.asked, event.by and event.asked))
        line.counts["calls" if event.reused is None else "reused"] += 1
        total = line.total(event.usage.source if event.reused is None else "saved")
        if event.reused is None:
            line.cached += self._saved_on(event.by or event.asked, event.usage)
            if event.batch_saved is not None:
                line.counts["batched"] += 1
                line.batch_saved += event.batch_saved
        total.add(event.usage, event.cost)
        self._served[event.role, event.asked, event.served, event.by] += 1

    def _cancelled(self, event: CallCancelled) -> None:
        self._ended(event, None)
        self._line(_Key(event.stage, event.role, event.model)).counts["cancelled"] += 1

    def _charged(self, event: AttemptCharged) -> None:
        line = self._line(self._key(event, event.model)._replace(hedge=event.hedge))
        line.total("charged").add(event.usage, event.cost)
        if event.hedge:
            line.counts["cancelled"] += 1

    def _in_batch(self, event: BatchAttempt) -> None:
        charged = self._of_attempt(event, event.model).total("charged")
        charged.add(event.usage, event.cost) if event.state == "left" else charged.take(event.usage, event.cost)

    def _of_attempt(self, event: OfCall, model: str) -> _Line:
        return self._line(self._key(event, model))

    def _key(self, event: OfCall, model: str) -> "_Key":
        return self._key_of.get((event.stage, event.role, model)) or _Key(event.stage, event.role, model)

    def _line(self, key: "_Key") -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line


_ENTRIES: Final[Mapping[type[EventBase], Callable[[Accounts, Any], None]]] = {
    CallStarted: Accounts._started,
    CallFinished: Accounts._finished,
    CallFailed: Accounts._failed,
    AttemptFailed: Accounts._retried,
    AttemptCharged: Accounts._charged,
    BatchAttempt: Accounts._in_batch,
    CallCancelled: Accounts._cancelled,
    FallbackTaken: Accounts._fell_back,
    Decided: Accounts._decided,
    ItemFinished: Accounts._settled,
    Noted: Accounts._noted,
    ToolFinished: Accounts._acted,
    CommandFinished: Accounts._acted,
}


def before(store: Store, run_id: str, *, open_too: bool = False) -> Before:
    """Return the calls and the spending of a run so far. Attempts lost with their process count in full.

    With `open_too`, attempts under way count in full as well.
    """
    unsettled: tuple[AttemptState, ...] = ("lost", "open") if open_too else ("lost",)
    charged = (_charged(attempt) for attempt, _ in store.attempts(run_id, states=unsettled))
    return Before(
        tuple(store.lines(run_id)),
        (*kept_events(store, run_id), *charged),
        tuple(store.timings(run_id)),
        drawn_before(store, run_id),
    )


def _charged(attempt: Attempt) -> AttemptCharged:
    """Charge an unsettled attempt with its worst case."""
    return AttemptCharged(
        run_id=attempt.run_id,
        stage=attempt.stage,
        item=attempt.item,
        role=attempt.role,
        step=attempt.step,
        model=attempt.model,
        usage=Usage(input=attempt.tokens, source="estimated"),
        cost=attempt.usd,
    )
