"""Lines on kept budgets that stopped a run or a map."""

from collections.abc import Iterable, Iterator

from fusion.client.budgets import account_of
from fusion.core.budget import passed
from fusion.core.config import Settings

_LEVEL = "budgets."


def spent_lines(settings: Settings, messages: Iterable[str], places: str) -> Iterator[str]:
    """Say how each kept budget that the messages of errors name has room again. `places` are options of commands."""
    for limit, level in dict.fromkeys(found for message in messages if (found := passed(message)) is not None):
        name = level.removeprefix(_LEVEL)
        table = settings.budgets.get(name) if level.startswith(_LEVEL) else None
        if table is None or table.per is None:
            continue
        opens = account_of(name, table).opens
        wait = f"wait until {opens}" if opens else f"begin it anew: fusion budgets --clear {name}{places}"
        yield f"the budget {name!r} has no room left: raise `{level}.{limit}` in {table.file}, or {wait}"
