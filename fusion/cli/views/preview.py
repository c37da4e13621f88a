"""Previews and quotes as text: the calls of each stage, their bounds and cost."""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from fusion.cli.terminal import table, wrapped
from fusion.cli.views.lines import dollars, price_origins, role_words, seconds
from fusion.core.types import Limits, Message
from fusion.quote.drill import Drill, Scenario
from fusion.quote.preview import Preview, PreviewedCall, PreviewedStage
from fusion.quote.quote import Dollars, Quantity, Quote, QuotedLine, QuotedStage, Seconds

_SHOWN_AT_MOST = 1200
_HEAD = ["stage", "reads", "role", "model", "calls", "tokens in", "out", "cost", "time"]
_RIGHT = frozenset({4, 5, 6, 7, 8})
_SPARED = (1, 2)
_DRILL_HEAD = ["stage", "without it", "before", "instead", "cost", "after"]
_LAST = (6, 5)
"""Columns left out on a narrow terminal, in this order; tokens only if folded cells do not fit."""


def preview_lines(preview: Preview, given: str) -> list[str]:
    """Format every stage with models, bounds and first prompt; `given` is the pipeline as named by the user."""
    lines = [f"{preview.pipeline}: profile {preview.profile}; {role_words(preview.roles)}"]
    for stage in preview.stages:
        lines += ["", *_stage_lines(stage, given)]
    lines += ["", *(f"Note: {note}" for note in preview.notes)] if preview.notes else []
    return [*lines, "", f"In all: {_sum(preview)}", f"Limits: {_limits(preview.limits)}"]


def message_lines(messages: Sequence[Message], *, most: int | None = None) -> list[str]:
    """Format messages, each under its role."""
    lines = []
    for message in messages:
        lines += [f"--- {message.role} ---", _cut("".join(map(str, message.parts)), most)]
    return lines


def call_words(call: PreviewedCall) -> str:
    """Describe a call: `work 1 by local/small (bulk): about 90 tokens in, at most 1,500 out`."""
    place = call.stage if call.item is None else f"{call.stage} {call.item + 1}"
    return f"{place} by {call.model} ({call.role}): about {call.tokens:,} tokens in, at most {call.max_tokens:,} out"


def _stage_lines(stage: PreviewedStage, pipeline: str) -> Iterator[str]:
    roles = ", ".join(f"{role}={model}" for role, model in stage.roles.items())
    yield f"{stage.name} ({stage.kind}){f': {roles}' if roles else ''}"
    yield f"  {_bounds(stage)}"
    if stage.when is not None:
        yield f"  only when {stage.when}"
    if stage.missing:
        yield from _missing_lines(stage, pipeline)
    elif stage.note:
        yield f"  no call: {stage.note}"
    for call in stage.calls[:1]:
        yield f"  {call_words(call)}"
        yield from (
            f"  {line}" for text in message_lines(call.messages, most=_SHOWN_AT_MOST) for line in text.split("\n")
        )


def _missing_lines(stage: PreviewedStage, pipeline: str) -> Iterator[str]:
    words = f"  depends on {', '.join(stage.missing)}, which a run makes first"
    if stage.within:
        yield words
        return
    yield f"{words}; to see its prompt anyway:"
    given = " ".join(f"--with {name}=@FILE" for name in stage.missing)
    yield f"  fusion render {pipeline} {stage.name} … {given}"


def _bounds(stage: PreviewedStage) -> str:
    items = "" if stage.items is None else f"at most {_counted(stage.items, 'item')}, "
    if stage.most_calls == 0:
        return f"{items}no call"
    calls = "number of calls depends on results" if stage.most_calls is None else _most(stage.most_calls)
    return f"{items}{calls}, each answered in at most {stage.max_tokens:,} tokens"


def _sum(preview: Preview) -> str:
    if preview.most_calls is None or preview.most_output is None:
        return "number of calls depends on results; `--budget calls=…` bounds it"
    known = sum(call.tokens for stage in preview.stages for call in stage.calls)
    return (
        f"{_most(preview.most_calls)}, retries not counted; at most {preview.most_output:,} tokens out; "
        f"the calls shown have about {known:,} tokens in"
    )


def _most(calls: int) -> str:
    return f"at most {_counted(calls, 'call')}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _limits(limits: Limits) -> str:
    given = limits.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "none"


def _cut(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    return f"{text[:most]}\n[{len(text) - most:,} more characters]"


# Quotes.


def quote_lines(quote: Quote, width: int | None = None) -> list[str]:
    """Format the quote: a table of stages, roles and models, and the sums below it."""
    rows = table([_HEAD, *_rows(quote)], right=_RIGHT, width=width, spared=_SPARED, last=_LAST)
    first, sums = wrapped(_first(quote), width), [part for line in _sums(quote) for part in wrapped(line, width)]
    return [*first, "", *rows, "", *sums]


def _first(quote: Quote) -> str:
    return f"{quote.pipeline}: profile {quote.profile}; {role_words(quote.roles)}"


def _rows(quote: Quote) -> list[list[str]]:
    return [row for stage in quote.stages for row in _rows_of(stage, quote)]


def _rows_of(stage: QuotedStage, quote: Quote) -> list[list[str]]:
    reads = ", ".join(stage.reads)
    rows: list[list[str]] = []
    for line in stage.lines:
        amounts = [_range(line.calls), _range(line.input), _range(line.output), _cost_of(line)]
        rows.append([line.stage, reads if not rows else "", line.role, line.model, *amounts, ""])
    if not rows:
        amounts = [_range(stage.calls), "-", "-", _range(stage.usd, dollars)] if stage.calls.high else ["-"] * 4
        rows.append([stage.name, reads, "-", "-", *amounts, ""])
    rows[0][-1] = _range(stage.seconds, seconds)
    return rows


def _cost_of(line: QuotedLine) -> str:
    if line.price_source.startswith("local"):
        return "free (local)"
    return "unknown" if line.usd is None else _range(line.usd, dollars)


def _sums(quote: Quote) -> list[str]:
    most = "" if quote.calls.most is None else f", at most {quote.calls.most:,}"
    paid = any(not line.price_source.startswith("local") for stage in quote.stages for line in stage.lines)
    lines = [
        f"In all: {_range(quote.calls)} call{'s' * (quote.calls.high != 1)}{most}; "
        f"{_range(quote.input)} tokens in, {_range(quote.output)} out; {_range(quote.seconds, seconds)}",
        f"Cost: {_range(quote.usd, dollars)}; {_cap(quote)}" if paid else "Cost: none, all models are local",
    ]
    if quote.unpriced:
        lines.append(f"Unknown price, not in the cost: {', '.join(quote.unpriced)}")
    origins = price_origins(line.price_source for stage in quote.stages for line in stage.lines)
    prices = [f"Prices: {origins}"] if origins else []
    return [*lines, *prices, *(f"Note: {note}" for note in quote.notes)]


def _cap(quote: Quote) -> str:
    """Describe the cap of the cost, and its origin."""
    if quote.usd.cap is None:
        return "no cap"
    limited = quote.limits.usd is not None and quote.usd.cap == quote.limits.usd
    return f"never more than {dollars(quote.usd.cap)}, {'the budget' if limited else 'the sum of all worst cases'}"


def _range(of: Quantity | Dollars | Seconds, form: Callable[[Any], str] = "{:,}".format) -> str:
    return form(of.likely) if of.low == of.high else f"{form(of.likely)} ({form(of.low)}-{form(of.high)})"


# Drills.


def drill_lines(drill: Drill, width: int | None = None) -> list[str]:
    """Format a drill: a table of stages for one scenario, a line for each of several."""
    one = len(drill.scenarios) == 1
    body = _scenario(drill.scenarios[0], width) if one else _scenarios(drill, width)
    first = f"{drill.pipeline}: profile {drill.profile}; no call is made"
    notes = [part for note in drill.notes for part in wrapped(f"Note: {note}", width)]
    return [*wrapped(first, width), "", *body, *notes]


def _scenario(scenario: Scenario, width: int | None) -> list[str]:
    rows = [
        [
            stage.name,
            stage.fate,
            ", ".join(stage.models) or "-",
            ", ".join(stage.instead) or "-",
            _likely(stage.usd),
            "-" if stage.fate in ("dies", "not reached") else _likely(stage.usd_after),
        ]
        for stage in scenario.stages
    ]
    lines = [
        f"Without {', '.join(scenario.without)}: {', '.join(scenario.lost) or 'no model of this pipeline'}",
        _verdict(scenario),
    ]
    return [
        *table([_DRILL_HEAD, *rows], right={4, 5}, width=width, spared=(2,)),
        "",
        *(part for line in lines for part in wrapped(line, width)),
    ]


def _scenarios(drill: Drill, width: int | None) -> list[str]:
    rows = [[f"without {', '.join(one.without)}", _verdict(one)] for one in drill.scenarios]
    return table(rows, width=width) if rows else ["no model is called"]


def _verdict(scenario: Scenario) -> str:
    price = f"{_likely(scenario.usd)} before, {_likely(scenario.usd_after)} after"
    if not scenario.dead:
        return f"every stage goes on; likely cost {price}"
    hint = "a model of another provider in its chain keeps a stage alive"
    return (
        f"{len(scenario.dead)} of {len(scenario.stages)} stages would not go on: {', '.join(scenario.dead)}; {hint}"
    )


def _likely(usd: Decimal | None) -> str:
    return "unknown" if usd is None else dollars(usd)
