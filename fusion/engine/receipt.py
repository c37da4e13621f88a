"""Adds up a run's events: what was called, served, spent and tried again."""

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
    """Tokens and dollars, added up."""

    input: int = 0
    cached_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    usd: Decimal = Decimal(0)
    unknown: int = 0

    def add(self, usage: Usage, cost: Decimal | None) -> None:
        self.input += usage.input
        self.cached_read += usage.cached_read
        self.cache_write += usage.cache_write
        self.output += usage.output
        self.reasoning += usage.reasoning
        if cost is None:
            self.unknown += 1
        else:
            self.usd += cost

    def add_line(self, line: Line) -> None:
        self.input += line.input
        self.cached_read += line.cached_read
        self.cache_write += line.cache_write
        self.output += line.output
        self.reasoning += line.reasoning
        self.usd += line.usd
        self.unknown += line.unknown

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
    calls: int = 0
    failed: int = 0
    retries: int = 0
    fallbacks: int = 0
    cancelled: int = 0
    reused: int = 0
    measured: _Sum = field(default_factory=_Sum)
    estimated: _Sum = field(default_factory=_Sum)
    charged: _Sum = field(default_factory=_Sum)
    saved: _Sum = field(default_factory=_Sum)


class Before(NamedTuple):
    """What a store knows of a run: its finished calls, added up, and the events that tell the rest."""

    lines: Sequence[Line] = ()
    events: Sequence[EventBase] = ()


class _Key(NamedTuple):
    """What a line is about: a stage, a role, the model that was called, and the one it took over from."""

    stage: str
    role: str
    model: str
    asked: str | None = None


class Accounts:
    """A sink that keeps one line for each stage, role and model, whatever the number of calls."""

    def __init__(self, price_sources: dict[str, str]) -> None:
        self._price_sources = price_sources
        self._lines: dict[_Key, _Line] = {}
        self._key_of: dict[tuple[str, str, str], _Key] = {}
        self._served: dict[tuple[str, str, str, str | None], int] = {}
        self.notes: list[str] = []
        self.decisions: dict[str, Decided] = {}
        self._entries: dict[type[EventBase], Callable[[Any], None]] = {
            CallFinished: self._finished,
            CallFailed: self._failed,
            AttemptFailed: self._tried_again,
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
        """Begin with what was called and spent before."""
        for line in before.lines:
            of = self._line(_Key(line.stage, line.role, line.model, line.asked))
            if line.reused:
                of.reused += line.calls
                of.saved.add_line(line)
            else:
                of.calls += line.calls
                (of.measured if line.source == "measured" else of.estimated).add_line(line)
            by = line.model if line.asked else None
            self._count_served((line.role, line.asked or line.model, line.served, by), line.calls)
        for event in before.events:
            self(event)

    def receipt(self, seconds: float, tags: Mapping[str, str] = _NO_TAGS) -> Receipt:
        """The receipt as of now."""
        lines = tuple(
            ReceiptLine(
                stage=stage,
                role=role,
                model=model,
                asked=asked,
                calls=line.calls,
                failed=line.failed,
                retries=line.retries,
                fallbacks=line.fallbacks,
                cancelled=line.cancelled,
                reused=line.reused,
                saved=line.saved.spent("measured"),
                measured=line.measured.spent("measured"),
                estimated=line.estimated.spent("estimated"),
                charged=line.charged.spent("estimated"),
                price_source=self._price_sources.get(model, "unknown"),
            )
            for (stage, role, model, asked), line in self._lines.items()
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
        """Which model was asked for and which one answered, by role."""
        return tuple(
            Served(role=role, asked=asked, served=served, by=by, calls=calls)
            for (role, asked, served, by), calls in sorted(self._served.items(), key=repr)
        )

    def _failed(self, event: CallFailed) -> None:
        self._line(_Key(event.stage, event.role, event.model)).failed += 1

    def _fell_back(self, event: FallbackTaken) -> None:
        self._of_attempt(event, event.failed).fallbacks += 1
        asked = self._key(event, event.asked)
        if event.model != event.asked:
            key = asked._replace(model=event.model, asked=event.asked)
            self._key_of[event.stage, event.role, event.model] = key

    def _tried_again(self, event: AttemptFailed) -> None:
        if event.wait is not None:
            self._of_attempt(event, event.model).retries += 1

    def _noted(self, event: Noted) -> None:
        self.notes.append(f"{event.stage}: {event.message}" if event.stage else event.message)

    def _decided(self, event: Decided) -> None:
        self.decisions[event.stage] = event

    def _finished(self, event: CallFinished) -> None:
        if event.reused == "journal":  # it was counted when it was made
            return
        line = self._line(_Key(event.stage, event.role, event.by or event.asked, event.by and event.asked))
        if event.reused is None:
            line.calls += 1
            (line.measured if event.usage.source == "measured" else line.estimated).add(event.usage, event.cost)
        else:
            line.reused += 1
            line.saved.add(event.usage, event.cost)
        self._count_served((event.role, event.asked, event.served, event.by), 1)

    def _count_served(self, key: tuple[str, str, str, str | None], calls: int) -> None:
        self._served[key] = self._served.get(key, 0) + calls

    def _cancelled(self, event: CallCancelled) -> None:
        self._line(_Key(event.stage, event.role, event.model)).cancelled += 1

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
    """What was called and spent in a run until now, attempts that were lost with a process in full.

    With `open_too`, those that are not over yet count in full as well.
    """
    adapter = event_adapter()
    events = [adapter.validate_python({"run_id": run_id, **body}) for body in store.events(run_id)]
    unsettled: tuple[AttemptState, ...] = ("lost", "open") if open_too else ("lost",)
    charged = (_charged(attempt) for attempt, _ in store.attempts(run_id, states=unsettled))
    return Before(tuple(store.lines(run_id)), (*events, *charged))


def _charged(attempt: Attempt) -> AttemptCharged:
    """An attempt that has no end, charged with its worst case."""
    return AttemptCharged(
        run_id=attempt.run_id,
        stage=attempt.stage,
        item=attempt.item,
        role=attempt.role,
        model=attempt.model,
        usage=Usage(input=attempt.tokens, source="estimated"),
        cost=attempt.usd,
    )
