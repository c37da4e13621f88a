"""`fusion quote`: the likely cost and time of a run, and its cap, without a call."""

import sys
from typing import TYPE_CHECKING

from fusion.cli.options import QuoteOptions, with_options

if TYPE_CHECKING:
    from fusion.quote.quote import Dollars, Quantity, Quote, QuotedLine, QuotedStage, Seconds

_HEAD = ["stage", "reads", "role", "model", "calls", "tokens in", "out", "cost", "time"]
_RIGHT = frozenset({4, 5, 6, 7, 8})


@with_options
def quote(options: QuoteOptions) -> None:
    """Quote the cost and time of a run; make no call.

    Prints low, likely and high figures, and the cap that no run can exceed.
    """
    from fusion.cli.session import quote_of
    from fusion.cli.terminal import is_live, write

    quoted = quote_of(options)
    if options.json:
        write(f"{quoted.model_dump_json(indent=2)}\n")
    elif is_live(sys.stdout):
        _draw(quoted)
    else:
        write("\n".join(quote_lines(quoted)) + "\n")


def quote_lines(quote: "Quote") -> list[str]:
    """Format the quote: a table of stages, roles and models, and the sums below it."""
    from fusion.cli.terminal import table

    return [_first(quote), "", *table([_HEAD, *_rows(quote)], right=_RIGHT), "", *_sums(quote)]


def _draw(quote: "Quote") -> None:
    """Draw the quote on a terminal, with a table that fits it."""
    from rich.console import Console
    from rich.table import Table

    from fusion.cli.terminal import printable

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(_HEAD):
        drawn.add_column(name, justify="right" if at in _RIGHT else "left", overflow="fold")
    for row in _rows(quote):
        drawn.add_row(*map(printable, row))
    console = Console(markup=False, highlight=False)
    console.print(printable(_first(quote)), "")
    console.print(drawn)
    console.print("", *map(printable, _sums(quote)), sep="\n")


def _first(quote: "Quote") -> str:
    roles = ", ".join(f"{role}={model}" for role, model in quote.roles.items()) or "no model is called"
    return f"{quote.pipeline}: profile {quote.profile}; {roles}"


def _rows(quote: "Quote") -> list[list[str]]:
    return [row for stage in quote.stages for row in _rows_of(stage, quote)]


def _rows_of(stage: "QuotedStage", quote: "Quote") -> list[list[str]]:
    reads = ", ".join(stage.reads)
    rows: list[list[str]] = []
    for line in stage.lines:
        amounts = [_number(line.calls), _number(line.input), _number(line.output), _cost_of(line)]
        rows.append([line.stage, reads if not rows else "", line.role, line.model, *amounts, ""])
    if not rows:
        rows.append([stage.name, reads, "-", "-", "-", "-", "-", "-", ""])
    rows[0][-1] = _time(stage.seconds)
    return rows


def _cost_of(line: "QuotedLine") -> str:
    if line.price_source.startswith("local"):
        return "free (local)"
    return "unknown" if line.usd is None else _cost(line.usd)


def _sums(quote: "Quote") -> list[str]:
    most = "" if quote.calls.most is None else f", at most {quote.calls.most:,}"
    paid = any(not line.price_source.startswith("local") for stage in quote.stages for line in stage.lines)
    lines = [
        f"In all: {_number(quote.calls)} call{'s' * (quote.calls.high != 1)}{most}; "
        f"{_number(quote.input)} tokens in, {_number(quote.output)} out; {_time(quote.seconds)}",
        f"Cost: {_cost(quote.usd)}; {_cap(quote)}" if paid else "Cost: none, all models are local",
    ]
    if quote.unpriced:
        lines.append(f"Unknown price, not in the cost: {', '.join(quote.unpriced)}")
    return [*lines, *(f"Note: {note}" for note in quote.notes)]


def _cap(quote: "Quote") -> str:
    """Describe the cap of the cost, and its origin."""
    from fusion.cli.views.lines import dollars

    if quote.usd.cap is None:
        return "no cap"
    limited = quote.limits.usd is not None and quote.usd.cap == quote.limits.usd
    return f"never more than {dollars(quote.usd.cap)}, {'the budget' if limited else 'the sum of all worst cases'}"


def _number(of: "Quantity") -> str:
    return f"{of.likely:,}" if of.low == of.high else f"{of.likely:,} ({of.low:,}-{of.high:,})"


def _cost(of: "Dollars") -> str:
    from fusion.cli.views.lines import dollars

    return dollars(of.likely) if of.low == of.high else f"{dollars(of.likely)} ({dollars(of.low)}-{dollars(of.high)})"


def _time(of: "Seconds") -> str:
    from fusion.cli.views.lines import seconds

    return seconds(of.likely) if of.low == of.high else f"{seconds(of.likely)} ({seconds(of.low)}-{seconds(of.high)})"
