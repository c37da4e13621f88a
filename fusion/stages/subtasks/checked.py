"""Check of a subtask's value against what its worker was shown."""

from typing import Any

from fusion.core.types import Item
from fusion.stages.context import StageContext
from fusion.stages.subtasks.combine import is_shown


def checked_value(ctx: StageContext, item: Item, reply: dict[str, Any], shown: str | None) -> dict[str, Any]:
    """Return the reply of a worker, without a number that is not in what it was shown."""
    checked = dict(reply)
    for key in ("value", "other"):
        number = reply.get(key)
        if isinstance(number, (int, float)) and not isinstance(number, bool) and not _is_shown(number, shown):
            ctx.events.note(f"its {key} {number} is not in what it was shown, and is left out", item=item.index)
            checked[key] = None
    return checked


def _is_shown(number: float, shown: str | None) -> bool:
    return shown is None or is_shown(number, shown)
