"""Accounts: adds up the events of a run to its receipt."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from fusion.core.events import (
    AttemptCharged,
    AttemptFailed,
    CallCancelled,
    CallFailed,
    CallFinished,
    Decided,
    EventBase,
    FallbackTaken,
    Noted,
    OfCall,
    event_adapter,
)
from fusion.core.result import Cost, Receipt, ReceiptLine, Served, Spent
from fusion.core.types import Usage
from fusion.store.base import Store
from fusion.store.rows import Attempt, AttemptState, Line

_NO_TAGS: Final[Mapping[str, str]] = {}


@dataclass
class _Sum:
    """Total of tokens and dollars."""

    input: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    usd: Decimal = Decimal(0)
    unknown: int = 0

    def add(self, tokens: Usage | Line, usd: Decimal | None, unknown: int = 0) -> None:
        self.input += tokens.input
        self.cached_read += tokens.cached_read
        self.cache_write += tokens.cache_write
        self.output += tokens.output
        self.reasoning += tokens.reasoning
        self.usd += usd or 0
        self.unknown += unknown + (usd is None)

    def spent(self, source: Literal["measured", "estimated"]) -> Spent:
        if self == _Sum():
            return Spent()
        usage = Usage(
            input=self.input,
            cached_read=self.cached_read,
            cache_write=self.cache_write,
            output=self.output,
            reasoning=self.reasoning,
            source=source,
        )
        return Spent(usage=usage, cost=Cost(usd=self.usd, unknown_calls=self.unknown))


@dataclass
class _Line:
    """Counts and totals of one line; the names are those of a ReceiptLine."""

    counts: Counter[str] = field(default_factory=Counter)
    measured: _Sum = field(default_factory=_Sum)
    estimated: _Sum = field(default_factory=_Sum)
    charged: _Sum = field(default_factory=_Sum)
    saved: _Sum = field(default_factory=_Sum)


class Before(NamedTuple):
    """Earlier part of a run, from a store: totals of its finished calls, and events for the rest."""

    lines: Sequence[Line] = ()
    events: Sequence[EventBase] = ()


class _Key(NamedTuple):
    """Key of a line: a stage, a role, the model that was called, and the model that it replaced, if any."""

    stage: str
    role: str
    model: str
    asked: str | None = None


class Accounts:
    """A sink that adds up events: one line for each stage, role and model."""

    def __init__(self, price_sources: dict[str, str]) -> None:
        self._price_sources = price_sources
        self._lines: dict[_Key, _Line] = {}
        self._key_of: dict[tuple[str, str, str], _Key] = {}
        self._served: Counter[tuple[str, str, str, str | None]] = Counter()
        self.notes: list[str] = []
        self.decisions: dict[str, Decided] = {}
        self._entries: dict[type[EventBase], Callable[[Any], None]] = {
            CallFinished: self._finished,
            CallFailed: self._failed,
            AttemptFailed: self._retried,
            AttemptCharged: self._charged,
            CallCancelled: self._cancelled,
            FallbackTaken: self._fell_back,
            Decided: self._decided,
            Noted: self._noted,
        }

    def __call__(self, event: EventBase) -> None:
        entry = self._entries.get(type(event))
        if entry is not None:
            entry(event)

    def take_up(self, before: Before) -> None:
        """Add the calls and the spending of earlier sessions."""
        for line in before.lines:
            of = self._line(_Key(line.stage, line.role, line.model, line.asked))
            of.counts["reused" if line.reused else "calls"] += line.calls
            total = of.saved if line.reused else of.measured if line.source == "measured" else of.estimated
            total.add(line, line.usd, line.unknown)
            by = line.model if line.asked else None
            self._served[line.role, line.asked or line.model, line.served, by] += line.calls
        for event in before.events:
            self(event)

    def receipt(self, seconds: float, tags: Mapping[str, str] = _NO_TAGS) -> Receipt:
        """Return the receipt as of now."""
        lines = tuple(
            ReceiptLine(
                **key._asdict(),
                **line.counts,
                saved=line.saved.spent("measured"),
                measured=line.measured.spent("measured"),
                estimated=line.estimated.spent("estimated"),
                charged=line.charged.spent("estimated"),
                price_source=self._price_sources.get(key.model, "unknown"),
            )
            for key, line in self._lines.items()
        )
        cascades = [event.escalated for event in self.decisions.values() if event.escalated is not None]
        return Receipt(
            lines=lines,
            seconds=seconds,
            tags=dict(tags),
            cascades=len(cascades),
            escalated=sum(cascades),
            escalation_rate=sum(cascades) / len(cascades) if cascades else None,
        )

    def served(self) -> tuple[Served, ...]:
        """Return the models that were requested and those that answered, by role."""
        return tuple(
            Served(role=role, asked=asked, served=served, by=by, calls=calls)
            for (role, asked, served, by), calls in sorted(self._served.items(), key=repr)
        )

    def _failed(self, event: CallFailed) -> None:
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
        self.decisions[event.stage] = event

    def _finished(self, event: CallFinished) -> None:
        if event.reused == "journal":  # an earlier session counted it
            return
        line = self._line(_Key(event.stage, event.role, event.by or event.asked, event.by and event.asked))
        line.counts["calls" if event.reused is None else "reused"] += 1
        if event.reused is not None:
            total = line.saved
        else:
            total = line.measured if event.usage.source == "measured" else line.estimated
        total.add(event.usage, event.cost)
        self._served[event.role, event.asked, event.served, event.by] += 1

    def _cancelled(self, event: CallCancelled) -> None:
        self._line(_Key(event.stage, event.role, event.model)).counts["cancelled"] += 1

    def _charged(self, event: AttemptCharged) -> None:
        self._of_attempt(event, event.model).charged.add(event.usage, event.cost)

    def _of_attempt(self, event: OfCall, model: str) -> _Line:
        return self._line(self._key(event, model))

    def _key(self, event: OfCall, model: str) -> "_Key":
        return self._key_of.get((event.stage, event.role, model)) or _Key(event.stage, event.role, model)

    def _line(self, key: "_Key") -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line


def before(store: Store, run_id: str, *, open_too: bool = False) -> Before:
    """Return the calls and the spending of a run so far. Attempts lost with their process count in full.

    With `open_too`, attempts under way count in full as well.
    """
    adapter = event_adapter()
    events = [adapter.validate_python({"run_id": run_id, **body}) for body in store.events(run_id)]
    unsettled: tuple[AttemptState, ...] = ("lost", "open") if open_too else ("lost",)
    charged = (_charged(attempt) for attempt, _ in store.attempts(run_id, states=unsettled))
    return Before(tuple(store.lines(run_id)), (*events, *charged))


def _charged(attempt: Attempt) -> AttemptCharged:
    """Charge an unsettled attempt with its worst case."""
    return AttemptCharged(
        run_id=attempt.run_id,
        stage=attempt.stage,
        item=attempt.item,
        role=attempt.role,
        model=attempt.model,
        usage=Usage(input=attempt.tokens, source="estimated"),
        cost=attempt.usd,
    )
