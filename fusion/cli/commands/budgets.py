"""`fusion budgets`: list the budgets that are kept in the store, or begin one anew."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fusion.cli.options.base import AsJson, Config, StoreFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusion.core.types import Balance

_HEAD: Final = ["budget", "period", "limit", "spent", "leased", "left", "opens again (UTC)"]
_RIGHT: Final = frozenset({2, 3, 4, 5})
_SPARED: Final = (4, 6)
"""Columns left out on a narrow terminal: the leased amount, the next period."""


def budgets(
    clear: Annotated[
        str | None, typer.Option("--clear", metavar="NAME", help="Forget what was spent of this budget.")
    ] = None,
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List budgets that all runs of the store share.

    They are those of the settings with a period.

    A leased amount is reserved by a process that runs now, or died and is not settled yet; it counts as spent.
    """
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import complain, write
    from fusion.client.budgets import balances, begin_anew
    from fusion.store.lookup import resolve_store

    settings = read_settings(config)
    kept, _ = resolve_store(True if store is None else store, settings)
    assert kept is not None
    try:
        if clear is not None:
            begin_anew(kept, settings, clear)
            complain(f"budget {clear!r} begins anew; what runs now keeps its leases")
            return
        found = balances(kept, settings)
    finally:
        kept.close()
    if as_json:
        write(_json(found))
    else:
        write("\n".join(_lines(found)) + "\n")


def _json(found: "Sequence[Balance]") -> str:
    import json

    return json.dumps([one.model_dump(mode="json") for one in found], indent=2) + "\n"


def _lines(found: "Sequence[Balance]") -> "Iterator[str]":
    from fusion.cli.terminal import printable, table, width_of

    if not found:
        yield 'no budget of your settings has a period; `[budgets.team]`, `usd = 5` and `per = "day"` declare one'
        return
    rows = [row for one in found for row in _rows(one)]
    for line in table([_HEAD, *rows], right=_RIGHT, width=width_of(sys.stdout), spared=_SPARED):
        yield printable(line)


def _rows(one: "Balance") -> "Iterator[list[str]]":
    """Yield a row for each limit of a budget."""
    from fusion.cli.views.lines import amount_words

    opens = "" if one.opens is None else f"{one.opens:%Y-%m-%d %H:%M}"
    for unit, amounts in one.limits.items():
        yield [
            one.name,
            one.period or "all",
            *(amount_words(unit, part) for part in (amounts.limit, amounts.spent, amounts.leased, amounts.left)),
            opens,
        ]
