"""Lines on budgets of the settings that stopped a run or a map."""

from collections.abc import Iterable, Iterator

from fusion.client.budgets import account_of
from fusion.core.budget import passed
from fusion.core.config import Settings

_LEVEL = "budgets."


def stopped_by(message: str) -> tuple[str, str] | None:
    """Return the limit and the name of the budget of the settings that the message of an error says is spent."""
    limit, level = passed(message) or ("", "")
    return (limit, level.removeprefix(_LEVEL)) if level.startswith(_LEVEL) else None


def spent_lines(settings: Settings, messages: Iterable[str], places: str) -> Iterator[str]:
    """Say how each kept budget that the messages of errors name has room again. `places` are options of commands."""
    for limit, name in dict.fromkeys(found for message in messages if (found := stopped_by(message)) is not None):
        table = settings.budgets.get(name)
        if table is None or table.per is None:
            continue
        opens = account_of(name, table).opens
        wait = f"wait until {opens}" if opens else f"begin it anew: fusion budgets --clear {name}{places}"
        yield f"the budget {name!r} has no room left: raise `{_LEVEL}{name}.{limit}` in {table.file}, or {wait}"
