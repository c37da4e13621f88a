"""Check of a subtask's value against what its worker was shown."""

from typing import Any

from fusion.core.types import Item, JsonSchema
from fusion.stages.context import StageContext
from fusion.stages.subtasks.combine import is_shown, value_kind, value_schema


def checked_value(ctx: StageContext, item: Item, reply: dict[str, Any], shown: str | None) -> dict[str, Any]:
    """Return the reply of a worker, without a number that is not in what it was shown."""
    checked = dict(reply)
    for key in ("value", "other"):
        number = reply.get(key)
        if isinstance(number, (int, float)) and not isinstance(number, bool) and not _is_shown(number, shown):
            ctx.events.note(f"its {key} {number} is not in what it was shown, and is left out", item=item.index)
            checked[key] = None
    return checked


def shape_of_repair(item: Item, schema: JsonSchema | None) -> JsonSchema | None:
    """Return the shape of a repaired value: the writer's `schema`, or that of a subtask with a value of its own."""
    return value_schema(item) if schema is None and _has_value(item) else schema


def repaired_value(ctx: StageContext, item: Item, schema: JsonSchema | None, value: Any) -> Any:
    """Return a repaired value; that of a subtask is checked against what its worker was shown."""
    return checked_value(ctx, item, value, item.shown) if schema is None and _has_value(item) else value


def _has_value(item: Item) -> bool:
    return isinstance(item.value, dict) and value_kind(item) is not None


def _is_shown(number: float, shown: str | None) -> bool:
    return shown is None or is_shown(number, shown)
