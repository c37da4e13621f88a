"""Check of a subtask's value against what its worker was shown."""

from typing import Any

from fusion.core.types import Item
from fusion.stages.context import StageContext
from fusion.stages.subtasks.combine import is_shown


def checked_value(ctx: StageContext, item: Item, reply: dict[str, Any], shown: str | None) -> dict[str, Any]:
    """Return the reply of a worker, without a number that is not in what it was shown."""
    number = reply["value"]
    if isinstance(number, bool) or not isinstance(number, (int, float)) or shown is None or is_shown(number, shown):
        return reply
    ctx.events.note(f"its value {number} is not in what it was shown, and is left out", item=item.index)
    return {**reply, "value": None}
