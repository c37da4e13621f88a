"""`fusion doctor`: checks of the installation, keys, servers, store and settings, one line each."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.exits import OK, USAGE
from fusion.cli.options.base import AsJson, Config, StoreFile

if TYPE_CHECKING:
    from fusion.client.doctor import Check


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask the providers whose keys are set for their models; it is free.")
    ] = False,
    json: AsJson = False,
    config: Config = None,
    store: StoreFile = None,
) -> None:
    """Check the installation, and say what to do.

    Checks Python, packages, keys (by name), endpoints, clock, store, weights, settings, policy and prices. Exit code
    2 if there is a problem. Nothing is changed, and no model is called.
    """
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.terminal import write
    from fusion.client.doctor import examine

    with Interrupts():
        found = examine(config=config, store=store, online=online)
    write(_as_json(found) if json else "\n".join(_lines(found)) + "\n")
    raise typer.Exit(USAGE if any(one.state == "problem" for one in found) else OK)


def _as_json(found: "list[Check]") -> str:
    from json import dumps

    return dumps([one.model_dump() for one in found], indent=2, ensure_ascii=False) + "\n"


def _lines(found: "list[Check]") -> list[str]:
    from fusion.cli.terminal import printable, table, width_of

    rows = [[one.state, one.name, "; ".join(filter(None, [one.words, one.advice]))] for one in found]
    counts = {state: sum(one.state == state for one in found) for state in ("problem", "warning")}
    total = ", ".join(f"{count} {state}{'s' * (count != 1)}" for state, count in counts.items())
    return [printable(line) for line in [*table(rows, width=width_of(sys.stdout)), total]]
