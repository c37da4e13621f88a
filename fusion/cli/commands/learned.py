"""`fusion models learned`: list or remove the figures of models that benchmarks have measured."""

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fusion.cli.options.base import AsJson, Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fusion.models.catalog.learned import Figures, Learned, Lessons

_HEAD: Final = ["label", "model", "right", "95%", "an item", "cost", "latency", "items", "day", "from"]
_RIGHT: Final = frozenset({2, 3, 4, 6, 7})
_SPARED: Final = (9, 5, 6, 8)
"""Columns left out on a narrow terminal: the suite, the source of the cost, the latency, the day."""


def learned(
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="LABEL", help="Only this label; repeatable.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Only this model; repeatable.")
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Remove the figures of --label and --model.")] = False,
    json: AsJson = False,
    config: Config = None,
) -> None:
    """List what benchmarks learned about models.

    Accuracy, cost and latency of each model, by label: a task set of `fusion bench` or `fusion tune`. One label
    alone also shows which models agree. Of two measurements the one of more items counts, then the later one.
    """
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import write
    from fusion.models.catalog.learned import learned_file

    path = learned_file(read_settings(config))
    if forget:
        write(f"{_forgotten(path, labels or [], models or [])}\n")
        return
    found = _chosen(path, labels or [], models or [])
    write(f"{found.model_dump_json(indent=2)}\n" if json else "\n".join(_lines(found, path)) + "\n")


def _forgotten(path: "Path", labels: "Sequence[str]", models: "Sequence[str]") -> str:
    from itertools import product

    from fusion.core.errors import UsageError
    from fusion.models.catalog.learned import forget_learned

    if not (labels or models):
        raise UsageError("--forget removes the figures of a --label, a --model, or both; name one")
    chosen = product(list[str | None](labels) or [None], list[str | None](models) or [None])
    removed = sum(forget_learned(path, label=label, model=model) for label, model in chosen)
    return f"{removed:,} figure{'s' * (removed != 1)} removed"


def _chosen(path: "Path", labels: "Sequence[str]", models: "Sequence[str]") -> "Learned":
    """Return the figures of these labels and models. Raises UsageError for one without any."""
    from fusion.models.catalog.learned import Learned, check_known, read_learned

    found = read_learned(path)
    for label in labels:
        check_known(found, label=label)
    for model in models:
        check_known(found, model=model)
    kept = {name: one for name, one in found.labels.items() if not labels or name in labels}
    return Learned(labels=kept).of(models) if models else Learned(labels=kept)


def _lines(found: "Learned", path: "Path") -> "Iterator[str]":
    from fusion.cli.terminal import printable, table, width_of, wrapped

    width = width_of(sys.stdout)
    if not found.labels:
        yield "nothing is learned yet; `fusion bench` and `fusion tune` measure models"
        return
    rows = [_row(label, model, one) for label, of in found.labels.items() for model, one in of.models.items()]
    yield from (printable(line) for line in table([_HEAD, *rows], right=_RIGHT, width=width, spared=_SPARED))
    yield ""
    if len(found.labels) == 1:
        yield from (printable(line) for line in _agreements(next(iter(found.labels.values())), width))
    else:
        yield "agreement of the models: --label LABEL"
    yield from wrapped(printable(f"kept in {path}"), width)


def _row(label: str, model: str, one: "Figures") -> list[str]:
    from fusion.cli.views.lines import seconds

    low, high = one.interval
    return [
        label,
        model,
        f"{100 * one.accuracy:.1f}%",
        f"{100 * low:.1f} to {100 * high:.1f}",
        "unknown" if one.usd is None else f"${one.usd.quantize(Decimal('0.000001'))}",
        "" if one.usd is None else one.cost,
        "" if one.seconds is None else seconds(one.seconds),
        f"{one.n:,}",
        one.day.isoformat(),
        one.run,
    ]


def _agreements(of: "Lessons", width: int | None) -> "Iterator[str]":
    """Format the share of equal answers of each two models."""
    from fusion.cli.terminal import table

    rows = [[*one.models, f"{100 * one.share:.1f}%", f"{one.n:,}"] for one in of.agreements]
    if rows:
        yield from table([["model", "agrees with", "equal", "items"], *rows], right={2, 3}, width=width)
        yield ""
