"""Preview of a map: the rows that would run, and their likely cost, without a call."""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fusion.bulk.quote import SAMPLE, MapQuote
from fusion.cli.arguments import limits_of, pairs_of
from fusion.cli.map_session import fusion_of, given, inputs_given
from fusion.cli.terminal import printable, width_of, wrapped, write
from fusion.cli.views.lines import dollars, seconds
from fusion.core.errors import UsageError

if TYPE_CHECKING:
    from fusion.bulk.fusion import Fusion
    from fusion.cli.options import MapOptions, QuoteOptions

_KINDS: Final = {
    "new": "new",
    "changed": "changed since the last pass",
    "unfinished": "unfinished",
    "again": "to ask again",
    "done": "done",
    "failed": "failed (`--retry-failed` asks again)",
}


def print_preview(fusion: "Fusion", options: "MapOptions") -> None:
    """Print the quote of a map with these options."""
    print_quote(fusion.quote_map(inputs_given(options), **given(options, fusion)), as_json=options.json)


def print_map_quote(options: "QuoteOptions") -> None:
    """Print the quote of a map from the options of `fusion quote`."""
    if options.prompt is not None:
        raise UsageError("PROMPT is for a run; the rows of --map fill the inputs, so leave it out")
    with fusion_of(options) as fusion:
        columns = dict(pairs_of("-i", options.inputs, "name=column with --map, such as text=body"))
        quote = fusion.quote_map(
            options.of_map or "",
            quoted=options.sample or SAMPLE,
            pipeline=options.pipeline,
            columns=columns,
            budget=limits_of(options.budget),
            batch=options.batch,
        )
    print_quote(quote, as_json=options.json)


def print_quote(quote: MapQuote, *, as_json: bool) -> None:
    """Print the quote of a map."""
    if as_json:
        write(f"{quote.model_dump_json(indent=2)}\n")
        return
    width = width_of(sys.stdout)
    write("\n".join(part for line in map_quote_lines(quote) for part in wrapped(printable(line), width)) + "\n")


def map_quote_lines(quote: MapQuote) -> Iterator[str]:
    """Format the quote of a map."""
    roles = ", ".join(f"{role}={model}" for role, model in quote.roles.items()) or "no model is called"
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
    if quote.unpriced:
        yield f"Unknown price, not in the cost: {', '.join(quote.unpriced)}"
    yield from (f"Note: {note}" for note in quote.notes)


def _cap(quote: MapQuote) -> str:
    if quote.usd.cap is not None:
        return f"never more than {dollars(quote.usd.cap)}, the budget"
    worst = "" if quote.most is None else f"; the worst cases come to about {dollars(quote.most)}"
    return f"no cap without `--budget`{worst}"


def _range(of: Any, form: Callable[[Any], str] = "{:,}".format) -> str:
    return form(of.likely) if of.low == of.high else f"{form(of.likely)} ({form(of.low)}-{form(of.high)})"
