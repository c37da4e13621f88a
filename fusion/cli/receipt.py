"""The receipt at the end of a run: what each stage spent on each role, and what is measured, estimated, unknown."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from fusion.cli.lines import dollars, seconds
from fusion.cli.terminal import table
from fusion.result import Receipt, ReceiptLine, Result

__all__ = ["receipt_lines"]

_HEAD = ["stage", "role", "model", "calls", "retries", "tokens in", "out", "cost", "time"]
_RIGHT = frozenset({3, 4, 5, 6, 7, 8})
_LOCAL = "local"  # what the source of a local model's price begins with


def receipt_lines(result: Result) -> list[str]:
    """The receipt as lines; one line where no model was called."""
    receipt = result.receipt
    if not receipt.lines:
        return [f"no model was called; {seconds(receipt.seconds)}"]
    rows = [_row(line, result) for line in receipt.lines]
    return [*table([_HEAD, *rows], right=_RIGHT), _total(receipt)]


def _row(line: ReceiptLine, result: Result) -> list[str]:
    stage = result.stages.get(line.stage)
    failed = f" ({line.failed} failed)" if line.failed else ""
    about = "~" if line.usage.source == "estimated" else ""
    return [
        line.stage,
        line.role,
        line.model,
        f"{line.calls}{failed}",
        str(line.retries),
        f"{about}{line.usage.input:,}",
        f"{about}{line.usage.output:,}",
        _cost(line),
        seconds(stage.seconds) if stage else "",
    ]


def _cost(line: ReceiptLine) -> str:
    if line.price_source.startswith(_LOCAL):
        return "free (local)"
    unknown = line.cost.unknown_calls
    if unknown and not line.cost.usd:
        return "unknown"
    about = "~" if line.usage.source == "estimated" else ""
    return f"{about}{dollars(line.cost.usd)}" + (f" + {unknown} unknown" if unknown else "")


def _total(receipt: Receipt) -> str:
    usage = receipt.usage
    retries = sum(line.retries for line in receipt.lines)
    calls = f"{receipt.calls} call{'s' * (receipt.calls != 1)}"
    again = f", {retries} retr{'ies' if retries != 1 else 'y'}" if retries else ""
    about = "~" if usage.source == "estimated" else ""
    tokens = f"{about}{usage.input:,} tokens in, {about}{usage.output:,} out"
    return f"{calls}{again}; {tokens}; {_money(receipt)}; {seconds(receipt.seconds)}"


def _money(receipt: Receipt) -> str:
    """Measured, estimated and unknown cost, each said by itself."""
    paid = [line for line in receipt.lines if not line.price_source.startswith(_LOCAL)]
    if not paid:
        return "free (local)"
    measured = [line for line in paid if line.usage.source == "measured"]
    estimated = [line for line in paid if line.usage.source == "estimated"]
    charged = _sum(line.charged for line in paid)
    unknown = sum(line.cost.unknown_calls for line in paid)
    parts = [f"{dollars(usd)} measured"] if (usd := _known(measured)) is not None else []
    if (usd := _known(estimated)) is not None:
        most = f" (of it at most {dollars(charged)} for attempts without a reply)" if charged else ""
        parts.append(f"{dollars(usd)} estimated{most}")
    if unknown:
        parts.append(f"{unknown} call{'s' * (unknown != 1)} of unknown cost")
    return ", ".join(parts)


def _known(lines: Sequence[ReceiptLine]) -> Decimal | None:
    """What these lines cost as far as it is known; None where nothing of it is."""
    known = [line.cost.usd for line in lines if line.cost.usd or not line.cost.unknown_calls]
    return _sum(known) if known else None


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
