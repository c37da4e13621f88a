"""Receipt as text: spend of each stage on each role, measured, estimated and unknown."""

from collections.abc import Iterable, Mapping

from fusion.cli.terminal import table, wrapped
from fusion.cli.views.lines import cost_words, dollars, price_days, seconds, times_words, use_words
from fusion.core.result import Cost, Receipt, ReceiptLine, Result, Spent

_HEAD = ["stage", "role", "model", "calls", "retries", "tokens in", "out", "cost", "time"]
_RIGHT = frozenset({3, 4, 5, 6, 7, 8})
_RETRIES = 4
_DISPENSABLE = (_RETRIES, 1)
"""Columns dropped on a narrow terminal, in this order: retries if there are none, then the role."""
_SHORTEST = 0.05
"""Seconds from which on saved time is shown."""
_LOCAL = "local"  # prefix of the price source of local models


def receipt_lines(result: Result, *, width: int | None = None) -> list[str]:
    """Format the receipt in `width` columns; one line if no model was called."""
    times = {name: stage.seconds for name, stage in result.stages.items()}
    return receipt_rows(result.receipt, times, width=width)


def receipt_rows(receipt: Receipt, times: Mapping[str, float], *, width: int | None = None) -> list[str]:
    """Format a receipt with the seconds of its stages."""
    budgets = [line for one in receipt.budgets for line in wrapped(use_words(one), width)]
    if not receipt.lines:
        return [f"no model was called; {seconds(receipt.seconds)}", *budgets]
    rows = [_row(line, times.get(line.stage)) for line in receipt.lines]
    retried = any(line.retries for line in receipt.lines)
    lines = table([_HEAD, *rows], right=_RIGHT, width=width, spared=_DISPENSABLE[retried:])
    return [*lines, *wrapped(_total(receipt), width), *budgets]


def _row(line: ReceiptLine, took: float | None) -> list[str]:
    about = "~" if line.usage.source == "estimated" else ""
    return [
        line.stage,
        line.role,
        _model(line),
        _calls(line),
        str(line.retries),
        f"{about}{line.usage.input:,}",
        f"{about}{line.usage.output:,}",
        _cost(line),
        "" if took is None else seconds(took),
    ]


def _model(line: ReceiptLine) -> str:
    """Name the model of a line, and its part: a fallback, or attempts that a hedge has beaten."""
    asked = "" if line.asked is None else f" (for {line.asked})"
    return f"{line.model}{asked}{' (hedged)' if line.hedge else ''}"


def _calls(line: ReceiptLine) -> str:
    """Count answered calls, and the others by outcome: `3 (1 failed, 2 reused)`."""
    others = {
        "failed": line.failed,
        "passed on": line.fallbacks,
        "cancelled": line.cancelled,
        "reused": line.reused,
        "in batch": line.batched,
    }
    named = ", ".join(f"{count} {what}" for what, count in others.items() if count)
    return f"{line.calls} ({named})" if named else str(line.calls)


def _cost(line: ReceiptLine) -> str:
    if line.price_source.startswith(_LOCAL):
        return "free (local)"
    cost = line.cost
    if cost.unknown_calls and not cost.usd:
        return "unknown"
    about = "" if line.estimated == line.charged == Spent() else "~"
    return f"{about}{dollars(cost.usd)}" + (f" + {cost.unknown_calls} unknown" if cost.unknown_calls else "")


def _total(receipt: Receipt) -> str:
    usage = receipt.usage
    retries = sum(line.retries for line in receipt.lines)
    calls = f"{receipt.calls} call{'s' * (receipt.calls != 1)}"
    again = f", {retries} retr{'ies' if retries != 1 else 'y'}" if retries else ""
    cancelled = sum(line.cancelled for line in receipt.lines)
    given_up = f", {cancelled} cancelled" if cancelled else ""
    about = "~" if usage.source == "estimated" else ""
    tokens = f"{about}{usage.input:,} tokens in{_of_caches(receipt)}, {about}{usage.output:,} out"
    made = f"{calls}{again}{given_up}{_reused(receipt)}"
    time = f"{seconds(receipt.seconds)}{times_words(receipt.times)}"
    return f"{made}; {tokens}; {_money(receipt)}{_batched(receipt)}{_cached(receipt)}; {_escalated(receipt)}{time}"


def _reused(receipt: Receipt) -> str:
    """Count calls answered by the cache or another run, and the cost saved."""
    if not receipt.reused:
        return ""
    time = f" and {seconds(receipt.saved_seconds)}" if receipt.saved_seconds >= _SHORTEST else ""
    return f", {receipt.reused} reused (saved {cost_words(receipt.saved.usd, receipt.saved.unknown_calls)}{time})"


def _of_caches(receipt: Receipt) -> str:
    """Count the tokens read from and written to prompt caches, if any."""
    counts = {"from caches": receipt.usage.cached_read, "written to them": receipt.usage.cache_write}
    named = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f" ({named})" if named else ""


def _batched(receipt: Receipt) -> str:
    """Count the calls that came in batches, and tell what that saved."""
    if not receipt.batched:
        return ""
    return f", {receipt.batched} in batch saved {dollars(receipt.batch_saved)}"


def _cached(receipt: Receipt) -> str:
    """Tell what prompt caches saved, or cost."""
    if not receipt.cached:
        return ""
    return f", caches {'saved' if receipt.cached > 0 else 'cost'} {dollars(abs(receipt.cached))}"


def _escalated(receipt: Receipt) -> str:
    """Count escalated cascades, if there are cascades."""
    if not receipt.cascades:
        return ""
    return f"{receipt.escalated} of {receipt.cascades} cascade{'s' * (receipt.cascades != 1)} escalated; "


def _money(receipt: Receipt) -> str:
    """List measured, estimated, charged and unknown cost."""
    paid = [line for line in receipt.lines if not line.price_source.startswith(_LOCAL)]
    if not paid:
        return "free (local)"
    parts = [
        _part("{} measured", (line.measured for line in paid)),
        _part("{} estimated", (line.estimated for line in paid)),
        _part("at most {} for attempts without a reply", (line.charged for line in paid)),
    ]
    unknown = sum(line.cost.unknown_calls for line in paid)
    if unknown:
        parts.append(f"{unknown} call{'s' * (unknown != 1)} of unknown cost")
    said = [part for part in parts if part] or [f"{dollars(Cost().usd)} measured"]
    days = price_days(line.price_source for line in paid)
    return ", ".join([*said, days] if days else said)


def _part(words: str, spent: Iterable[Spent]) -> str:
    """Format the dollars of one kind; empty without a paid call of known price."""
    parts = [part for part in spent if part != Spent()]
    known = [part.cost.usd for part in parts if part.cost.usd or not part.cost.unknown_calls]
    return words.format(dollars(sum(known, Cost().usd))) if known else ""
