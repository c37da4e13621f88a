"""Adds up a run's events: what was called, served, spent and tried again."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from fusion.events import (
    AttemptCharged,
    AttemptFailed,
    CallFailed,
    CallFinished,
    CallStarted,
    Decided,
    EventBase,
    FallbackTaken,
    Noted,
)
from fusion.result import Cost, Receipt, ReceiptLine, Served, Spent
from fusion.types import Usage

__all__ = ["Accounts"]


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
    measured: _Sum = field(default_factory=_Sum)
    estimated: _Sum = field(default_factory=_Sum)
    charged: _Sum = field(default_factory=_Sum)


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
        self._key_of: dict[tuple[str, str], _Key] = {}
        self._served: dict[tuple[str, str, str, str | None], int] = {}
        self.notes: list[str] = []
        self.decisions: dict[str, Decided] = {}
        self._entries: dict[type[EventBase], Callable[[Any], None]] = {
            CallStarted: self._started,
            CallFinished: self._finished,
            CallFailed: self._failed,
            AttemptFailed: self._tried_again,
            AttemptCharged: self._charged,
            FallbackTaken: self._fell_back,
            Decided: self._decided,
            Noted: self._noted,
        }

    def __call__(self, event: EventBase) -> None:
        entry = self._entries.get(type(event))
        if entry is not None:
            entry(event)

    def receipt(self, seconds: float) -> Receipt:
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

    def _started(self, event: CallStarted) -> None:
        self._key_of[event.stage, event.model] = _Key(event.stage, event.role, event.model)

    def _failed(self, event: CallFailed) -> None:
        self._line(_Key(event.stage, event.role, event.model)).failed += 1

    def _fell_back(self, event: FallbackTaken) -> None:
        self._of_attempt(event.stage, event.failed).fallbacks += 1
        asked = self._key(event.stage, event.asked)
        if event.model != event.asked:
            self._key_of[event.stage, event.model] = asked._replace(model=event.model, asked=event.asked)

    def _tried_again(self, event: AttemptFailed) -> None:
        if event.wait is not None:
            self._of_attempt(event.stage, event.model).retries += 1

    def _noted(self, event: Noted) -> None:
        self.notes.append(f"{event.stage}: {event.message}" if event.stage else event.message)

    def _decided(self, event: Decided) -> None:
        self.decisions[event.stage] = event

    def _finished(self, event: CallFinished) -> None:
        line = self._line(_Key(event.stage, event.role, event.by or event.asked, event.by and event.asked))
        line.calls += 1
        (line.measured if event.usage.source == "measured" else line.estimated).add(event.usage, event.cost)
        key = (event.role, event.asked, event.served, event.by)
        self._served[key] = self._served.get(key, 0) + 1

    def _charged(self, event: AttemptCharged) -> None:
        self._of_attempt(event.stage, event.model).charged.add(event.usage, event.cost)

    def _of_attempt(self, stage: str, model: str) -> _Line:
        return self._line(self._key(stage, model))

    def _key(self, stage: str, model: str) -> "_Key":
        return self._key_of.get((stage, model)) or _Key(stage, "", model)

    def _line(self, key: "_Key") -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        return line
