"""Quote of a map as text: the rows that would run, and their likely cost."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fusion.cli.views.lines import dollars, left_words, role_words, seconds
from fusion.core.types import Balance

if TYPE_CHECKING:
    from fusion.bulk.quote import MapQuote

_KINDS: Final = {
    "new": "new",
    "changed": "changed since the last pass",
    "unfinished": "unfinished",
    "again": "to ask again",
    "done": "done",
    "failed": "failed (`--retry-failed` asks again)",
}


def map_quote_lines(quote: "MapQuote") -> Iterator[str]:
    """Format the quote of a map."""
    roles = role_words(quote.roles)
    yield f"{quote.pipeline}: profile {quote.profile}; {roles}"
    counts = ", ".join(f"{getattr(quote, kind):,} {words}" for kind, words in _KINDS.items() if getattr(quote, kind))
    yield f"Rows: {quote.rows:,} from {quote.source}: {counts or 'none'}"
    if not quote.to_run:
        yield "Nothing to run"
        return
    whole = quote.sampled >= quote.to_run
    sample = "all rows to run" if whole else f"{quote.sampled:,} of the {quote.to_run:,} rows to run"
    yield f"Quoted: {sample}{', at the price of batches' if quote.batch else ''}"
    yield (
        f"In all: {_range(quote.calls)} calls; {_range(quote.input)} tokens in, {_range(quote.output)} out; "
        f"{_range(quote.seconds, seconds)}"
    )
    yield f"Cost: {_range(quote.usd, dollars)}; {_cap(quote)}"
    yield from (_budget(quote, budget) for budget in quote.budgets)
    if quote.unpriced:
        yield f"Unknown price, not in the cost: {', '.join(quote.unpriced)}"
    yield from (f"Note: {note}" for note in quote.notes)


def _cap(quote: "MapQuote") -> str:
    if quote.usd.cap is not None:
        return f"never more than {dollars(quote.usd.cap)}, the budget"
    worst = "" if quote.most is None else f"; the worst cases come to about {dollars(quote.most)}"
    return f"no cap without `--budget`{worst}"


def _budget(quote: "MapQuote", budget: Balance) -> str:
    """Say what is left of a budget that the store keeps, and if the likely cost passes it."""
    lacks = quote.lacks(budget)
    stops = f": the map is likely to stop at its {' and '.join(lacks)} limit" if lacks else ""
    return f"Budget {left_words(budget)}{stops}"


def _range(of: Any, form: Callable[[Any], str] = "{:,}".format) -> str:
    return form(of.likely) if of.low == of.high else f"{form(of.likely)} ({form(of.low)}-{form(of.high)})"
