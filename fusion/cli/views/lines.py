"""Events as lines of text, and the formats of amounts, times and failures."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fusion.cli.terminal import one_line
from fusion.core.events import (
    AttemptFailed,
    CallCancelled,
    CallFailed,
    CallFinished,
    CommandFinished,
    EventBase,
    FallbackTaken,
    GateAnswered,
    GateOpened,
    HedgeSent,
    ItemFinished,
    Noted,
    OutageChanged,
    Paused,
    RoundStarted,
    RunFinished,
    RunStarted,
    StageFinished,
    StageGrew,
    StageStarted,
    ToolFinished,
)
from fusion.core.params import NO_MODEL
from fusion.core.result import BudgetUse, FailedPart, Result, Times
from fusion.core.types import Balance, Failure, Waited, as_text, ended, pattern

if TYPE_CHECKING:
    from fusion.client.history.run_types import RunSummary

_ANSWERED_BY = {
    "journal": "finished before",
    "other run": "answered by its parent run",
    "cache": "answered by the cache",
}
_SMALLEST = Decimal("0.0001")
_TITLES_AT_MOST = 20
_FOLDED_AT_MOST = 60
_NAMED_AT_MOST = 3
_TITLE_AT_MOST = 40
_DAY: Final = re.compile(r", (?:built|fetched|installed) (\d{4}-\d\d-\d\d)\b")
_UNNAMED: Final[Mapping[tuple[str, int], str]] = {}
_WAITS: Final = {
    "library": "loading",
    "budget": "budget",
    "slot": "slots",
    "pause": "pauses",
    "failed": "failed attempts",
    "batch": "batches",
}
_TIMES: Final = {"model": "models", "tools": "tools", **_WAITS, "own": "other"}
_SHOWN_FROM: Final = 0.05
"""Seconds from which on a part of a time is shown."""
_LONG: Final = 7200
"""Seconds from which on a time is in hours."""
_ATTEMPT = " attempt"
_OUTAGES = {"open": "down, and asked again in", "probing": "asked again after", "closed": "back after"}
_FEW = 2
_LASTING = frozenset({"PromptError", "InputError", "InputTooLongError", "BadRequestError"})
"""Failures that the same pipeline with the same inputs and models meets again."""


def first_line(event: RunStarted, settings: Sequence[Path] = ()) -> str:
    """Name the pipeline, run, profile, the model of every role, and the files of settings."""
    roles = role_words(event.roles)
    again = f", resumed ({event.session - 1})" if event.session > 1 else ""
    parent = f", from {event.parent}" if event.parent is not None and event.session == 1 else ""
    files = f"; settings {', '.join(map(str, settings))}" if settings else ""
    line = f"{event.pipeline}: run {event.run_id}{again}{parent}; profile {event.profile}; {roles}{files}"
    line += "".join(f"; {left_words(one)}" for one in event.budgets)
    return " ".join(line.split())


def left_words(budget: Balance) -> str:
    """Say what is left of a budget in its period."""
    parts = (amount_words(unit, share.left) for unit, share in budget.limits.items())
    return f"{budget.name}: {', '.join(parts)} left{_in_period(budget)}"


def standing_words(budget: Balance) -> str:
    """Say what is spent of a budget in its period by all that it covers, and what is left."""
    spent = (
        f"{f'${one.spent:.4f}' if unit == 'usd' else f'{one.spent:,}'} of {amount_words(unit, one.limit)}"
        for unit, one in budget.limits.items()
    )
    left = (amount_words(unit, one.left) for unit, one in budget.limits.items())
    return f"budget {budget.name}: {', '.join(spent)} spent; {', '.join(left)} left{_in_period(budget)}"


def use_words(budget: BudgetUse) -> str:
    """Say what a run spent of a budget, and what is left of it."""
    spent = ", ".join(amount_words(unit, one.spent) for unit, one in budget.limits.items())
    left = ", ".join(amount_words(unit, one.left) for unit, one in budget.limits.items() if one.left is not None)
    return f"budget {budget.name}: {spent} spent{f', {left} left' if left else ''}{_in_period(budget)}"


def amount_words(unit: str, amount: Decimal | int) -> str:
    """Format an amount of a limit: dollars, tokens or calls."""
    return f"${amount:.4f}" if unit == "usd" else f"{amount:,} {unit if amount != 1 else unit[:-1]}"


def _in_period(budget: Balance | BudgetUse) -> str:
    return f" in {budget.period}" if budget.period else ""


def role_words(roles: Mapping[str, str]) -> str:
    """Name the model of every role; of one that is `none`, what becomes of its items."""
    words = (f"{role}={model}{' (unreviewed)' if model == NO_MODEL else ''}" for role, model in roles.items())
    return ", ".join(words) or "no model is called"


def ended_words(run: "RunSummary", *, whole: bool) -> str:
    """Describe the progress of a run that is resumed; `whole` is True for one that has its whole answer."""
    if whole:
        return f"run {run.run_id} has its answer ({run.status}); nothing to run"
    calls = f"{run.calls} call{'s' * (run.calls != 1)}"
    spent = cost_words(run.cost.usd, run.cost.unknown_calls)
    state = "is being run" if run.status == "running" else run.status
    return f"run {run.run_id}: {state} after {calls} and {spent}; finished calls are reused"


def milestone(event: EventBase, items: int, failed: int) -> str | None:
    """Describe the start or end of a stage, or of a round of it.

    `items` and `failed` count its items, or the subtasks of a plan.
    """
    match event:
        case StageStarted():
            return f"{event.stage}: started ({event.kind})"
        case StageFinished(status="waiting"):
            return f"{event.stage}: waits for a person"
        case RoundStarted():
            return f"{event.stage}: round {event.number} of {event.most}"
        case StageFinished(status="failed"):
            return f"{event.stage}: failed after {seconds(event.seconds)}"  # the end of the run gives the reason
        case StageFinished(status="skipped", failure=Failure() as failure):
            return f"{event.stage}: skipped after {seconds(event.seconds)}: {reason(failure)}"
        case StageFinished():
            what = "subtask" if event.kind == "plan" else "item"
            made = f", {items} {what}{'s' * (items != 1)}" if items else ""
            without = f", {failed} failed" if failed else ""
            return f"{event.stage}: {event.status}{made}{without}, {seconds(event.seconds)}"
    return None


def title_line(event: EventBase) -> str | None:
    """Name a subtask of a plan, up to the twentieth."""
    match event:
        case StageGrew(title=str() as title, known=number) if title and number <= _TITLES_AT_MOST:
            return f"{event.stage} {number}: {one_line(title)}"
    return None


def happening(event: EventBase) -> str | None:
    """Describe a failed item, a retry, a fallback, a rate limit, an outage or a note."""
    told = None if isinstance(event, (CallFailed, CallCancelled)) else _told(event)
    if told is None:
        return None
    what, why = told
    place = f"{_place(event)}: " if event.stage else ""
    if isinstance(event, AttemptFailed):
        again = f"again in {seconds(event.wait)}" if event.wait is not None and event.wait >= 0.05 else "again"
        what = f"attempt {event.attempt} failed, {again}: "
    elif isinstance(event, Paused):
        rate = "" if event.rate is None else f", {event.rate:.3g} requests a second"
        what = f"{event.model}: rate limit{rate}, next call in {seconds(event.wait)}"
    elif isinstance(event, OutageChanged):
        what = f"{event.model} is {_OUTAGES[event.state]} {seconds(event.seconds)}{': ' if why else ''}"
    return f"{place}{what}{why}"


def folded_lines(parts: Iterable[FailedPart], names: Mapping[tuple[str, int], str] = _UNNAMED) -> list[str]:
    """List failed stages and items, those with equal failures as one line: `work 1, 2, 3 and 197 more: …`.

    `names` are titles of items, by stage and index.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    first: dict[str, str] = {}
    for part in parts:
        why = reason(part.failure)
        first.setdefault(pattern(why), why)
        items = alike.setdefault((part.stage, pattern(why)), [])
        if part.item is not None:
            name = names.get((part.stage, part.item))
            items.append(f"{part.item + 1}{'' if name is None else f' ({name})'}")
    return [f"{' '.join([stage, *_listed(items)])}: {first[why]}" for (stage, why), items in alike.items()]


def item_names(result: Result) -> dict[tuple[str, int], str]:
    """Return the titles of the items of a run, or the beginnings of their sources, by stage and index."""
    return {
        (name, item.index): title
        for name, stage in result.stages.items()
        for item in stage.items
        if item.failure is not None and (title := _title(item.source))
    }


def _title(source: Any) -> str:
    if isinstance(source, Mapping):
        source = source.get("title") or source.get("name") or next(iter(source.values()), "")
    text = one_line(as_text(source)) if source is not None else ""
    return text if len(text) <= _TITLE_AT_MOST else f"{text[: _TITLE_AT_MOST - 1]}…"


def _listed(items: Sequence[str]) -> list[str]:
    more = len(items) - _NAMED_AT_MOST
    named = ", ".join(items[:_NAMED_AT_MOST])
    return [f"{named} and {more:,} more" if more > 0 else named] if items else []


def way_on(run_id: str, reason: str, options: str = "", *, whole: bool = True) -> str:
    """Return the command that goes on with a failed run; `whole` is False where only an edited pipeline can."""
    if whole and reason not in _LASTING:
        return f"to go on: fusion resume {run_id}{options}"
    return f"edit the pipeline, then: fusion resume {run_id} --pipeline FILE{options}"


def _told(event: EventBase) -> tuple[str, str] | None:
    """Return the incident that an event reports and its reason, the same for equal faults."""
    match event:
        case ItemFinished(failure=Failure() as failure):
            return "failed: ", reason(failure)
        case AttemptFailed(wait=float()):
            return f"{event.model}{_ATTEMPT}", reason(event.failure)
        case CallFailed():
            return f"call to {event.model} failed: ", reason(event.failure)
        case CallCancelled():
            return f"call to {event.model} cancelled", ""
        case FallbackTaken():
            return f"{event.failed} cannot answer, going on with {event.model}: ", reason(event.failure)
        case ToolFinished(status="failed", failure=Failure() as failure):
            return f"{event.tool}: ", one_line(failure.message)
        case Noted():
            return "", one_line(event.message)
        case CommandFinished(stopped_by=str(), reused=False):
            return f"{one_line(event.program)} in the sandbox {ended(event.code, event.stopped_by)}", ""
    return _told_of_person(event) or _told_of_model(event)


def _told_of_person(event: EventBase) -> tuple[str, str] | None:
    """Return what an event reports of a person: a question, or an answer."""
    match event:
        case GateOpened():
            who = f" ({event.who})" if event.who else ""
            return f"asks a person{who}", f": {event.title}" if event.title else ""
        case GateAnswered():
            return f"{event.answer} by {event.by}", ""
    return None


def _told_of_model(event: EventBase) -> tuple[str, str] | None:
    """Return what an event reports of a model: a second request, a rate limit, an outage."""
    match event:
        case HedgeSent():
            return f"{event.model} takes long, asking {event.rival} too", ""
        case Paused():
            return f"{event.model}: rate limit", ""
        case OutageChanged(state="open", failure=Failure() as failure):
            return f"{event.model} is {_OUTAGES[event.state]}: ", reason(failure)
        case OutageChanged():
            return f"{event.model} is {_OUTAGES[event.state]}", ""
    return None


@dataclass
class _Fold:
    """Equal incidents: how often, and the line of the last one that was held back."""

    count: int = 0
    held: str = ""


class Incidents:
    """Folds equal incidents of a stage: the first is a line at once, the others one line with their count.

    Figures and ids in a reason make no difference. `verbose` adds calls that failed or were cancelled.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._seen: dict[tuple[str, str, str], tuple[_Fold, str]] = {}
        self._outages = Outages()

    def lines(self, event: EventBase) -> list[str]:
        """Return the lines of an event; the end of a stage or run gives the counts."""
        if isinstance(event, (StageFinished, RunFinished)):
            return self._counts(event)
        if isinstance(event, OutageChanged):
            return self._outages.lines(event)
        call = call_line(event) if self._verbose and isinstance(event, (CallFailed, CallCancelled)) else None
        line, told = call or happening(event), _told(event)
        if line is None or told is None:
            return []
        what, why = told
        key = event.stage, what, why if isinstance(event, Noted) else pattern(why)
        fold, _ = self._seen.setdefault(key, (_Fold(), why))
        fold.count += 1
        if fold.count > 1:
            fold.held = line
        return [] if fold.held else [line]

    def _counts(self, event: EventBase) -> list[str]:
        over = [key for key in self._seen if isinstance(event, RunFinished) or key[0] == event.stage]
        folds = [(key, *self._seen.pop(key)) for key in over]
        return [
            fold.held
            if fold.count == _FEW and not key[1].endswith(_ATTEMPT)
            else _more_line(*key[:2], why, fold.count)
            for key, fold, why in folds
            if fold.held
        ]


class Outages:
    """Outages of models: a line at the start, one for the first probe and one for the end."""

    def __init__(self) -> None:
        self._probed: dict[str, bool] = {}

    def lines(self, event: OutageChanged) -> list[str]:
        """Return the lines of a change."""
        line, probed = happening(event), self._probed.get(event.model)
        if event.state == "closed":
            self._probed.pop(event.model, None)
        else:
            self._probed[event.model] = bool(probed) or event.state == "probing"
        repeated = probed is not None if event.state == "open" else event.state == "probing" and probed
        return [] if repeated or line is None else [line]


def _more_line(stage: str, what: str, why: str, count: int) -> str:
    place = f"{stage}: " if stage else ""
    shown = why if len(why) <= _FOLDED_AT_MOST else f"{why[: _FOLDED_AT_MOST - 1]}…"
    if what.endswith(_ATTEMPT):
        return f"{place}{what.removesuffix(_ATTEMPT)}: {shown}, {count:,} attempts"
    return f"{place}{count - 1:,} more times: {what}{shown}"


def folded_texts(texts: Iterable[str]) -> list[str]:
    """Return texts without repetition; one that comes more than once has its count."""
    return [f"{text} ({count:,} times)" if count > 1 else text for text, count in Counter(texts).items()]


def reply_line(event: EventBase) -> str | None:
    """Describe a finished call of a model or tool, or a finished command."""
    if isinstance(event, ToolFinished):
        return tool_line(event)
    return call_line(event) if isinstance(event, (CallFinished, CommandFinished)) else None


def tool_line(event: ToolFinished) -> str:
    """Describe a call of a tool that has ended."""
    what = f"{_place(event)}: {event.step} calls {event.tool} {one_line(event.arguments)}".rstrip()
    if event.reused:
        return f"{what}: {_ANSWERED_BY['journal']}"
    size = f", {event.size:,} characters" if event.status == "ok" else ""
    return f"{what}: {event.status}{size}, {seconds(event.seconds)}"


def call_line(event: EventBase) -> str | None:
    """Describe a finished, failed or cancelled call, or a command in the sandbox."""
    match event:
        case CallFinished():
            writer = event.asked if event.by is None else f"{event.by} in place of {event.asked}"
            served = "" if event.served in (event.by or event.asked, "") else f" (served by {event.served})"
            tokens = f"{event.usage.input:,} in, {event.usage.output:,} out"
            cost = "cost unknown" if event.cost is None else dollars(event.cost)
            if event.reused is not None:
                saved = "" if event.cost is None else f", {dollars(event.cost)} saved"
                return f"{_place(event)}: {event.step} by {writer}: {_ANSWERED_BY[event.reused]}{saved}"
            return (
                f"{_place(event)}: {event.step} by {writer}{served}: {tokens}, {cost}, "
                f"{seconds(event.latency)}{'' if event.finish_reason == 'stop' else f', {event.finish_reason}'}"
                f"{waited_words(event.waited)}"
            )
        case CallFailed():
            return f"{_place(event)}: {event.step} by {event.model} failed: {reason(event.failure)}"
        case CallCancelled():
            return f"{_place(event)}: {event.step} by {event.model} cancelled"
        case CommandFinished():
            time = "ran before" if event.reused else seconds(event.seconds)
            how = ended(event.code, event.stopped_by)
            return f"{_place(event)}: {one_line(event.program)} in {event.by}: {how}, {time}"
    return None


def reason(failure: Failure) -> str:
    """Format the type and message of a failure as one line."""
    return f"{failure.reason}: {one_line(failure.message)}"


def seconds(value: float) -> str:
    """Format a time: 0.8 s, 34 s, 2 min 05 s, 3 h 20 min."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole >= _LONG:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


def waited_words(waited: Waited | None) -> str:
    """Format the waits of a call: `, waited 4.0 s (slots)`; empty for short ones."""
    parts = _parts(waited, _WAITS)
    if not parts:
        return ""
    named = ", ".join(f"{name} {seconds(value)}" for name, value in parts.items())
    return f", waited {seconds(sum(parts.values()))} ({named if len(parts) > 1 else next(iter(parts))})"


def times_words(times: Times) -> str:
    """Format the split of a time: ` (models 32 s, slots 6.0 s)`; empty if models took nearly all of it."""
    parts = _parts(times, _TIMES)
    if not parts.keys() - {"models"}:
        return ""
    return f" ({', '.join(f'{name} {seconds(value)}' for name, value in parts.items())})"


def _parts(of: Waited | Times | None, names: Mapping[str, str]) -> dict[str, float]:
    """Return the parts of a time that are long enough to be shown."""
    found = {} if of is None else {name: float(getattr(of, part)) for part, name in names.items()}
    return {name: value for name, value in found.items() if value >= _SHOWN_FROM}


def dollars(usd: Decimal) -> str:
    """Format an amount to a hundredth of a cent; a smaller one as <$0.0001."""
    return f"${usd:.4f}" if not usd or usd >= _SMALLEST else f"<${_SMALLEST}"


def cost_words(usd: Decimal, unknown: int) -> str:
    """Format dollars, and the count of calls of unknown cost."""
    if not unknown:
        return dollars(usd)
    return f"{dollars(usd)} + {unknown} unknown" if usd else "cost unknown"


def price_days(sources: Iterable[str]) -> str:
    """Name the days of the price files that prices are from: `prices of 2026-11-20`; empty without any."""
    days = sorted({found[1] for source in sources if (found := _DAY.search(source))})
    return f"prices of {' and '.join(days)}" if days else ""


def price_origins(sources: Iterable[str]) -> str:
    """Name the price files that prices are from, with their ages; empty without any."""
    found = {source[: match.end()]: match[1] for source in sources if (match := _DAY.search(source))}
    return "; ".join(f"{name} ({_age(date.fromisoformat(day))})" for name, day in sorted(found.items()))


def _age(day: date) -> str:
    days = (datetime.now(UTC).date() - day).days
    return f"{days:,} day{'s' * (days != 1)} old"


def _place(event: EventBase) -> str:
    return event.stage if event.item is None else f"{event.stage} {event.item + 1}"
