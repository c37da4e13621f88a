"""Check of a subtask's value against what its worker was shown."""

from typing import Any, Final

from fusion.core.types import Item, JsonSchema
from fusion.stages.context import StageContext
from fusion.stages.subtasks.combine import is_shown, value_kind, value_schema

_DIGITS: Final = 12
"""Digits of a number that a model means; small ones write 453.0000000000000453, or 8.000000000000001."""


def checked_value(ctx: StageContext, item: Item, reply: dict[str, Any], shown: str | None) -> dict[str, Any]:
    """Return the reply of a worker with its numbers as it was shown them, and without one that it was not shown."""
    checked = dict(reply)
    for key in ("value", "other"):
        number = reply.get(key)
        if shown is None or not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        checked[key] = next((one for one in (number, _meant(number)) if is_shown(one, shown)), None)
        if checked[key] is None:
            ctx.events.note(f"its {key} {number} is not in what it was shown, and is left out", item=item.index)
    return checked


def shape_of_repair(item: Item, schema: JsonSchema | None) -> JsonSchema | None:
    """Return the shape of a repaired value: the writer's `schema`, or that of a subtask with a value of its own."""
    return value_schema(item) if schema is None and _has_value(item) else schema


def repaired_value(ctx: StageContext, item: Item, schema: JsonSchema | None, value: Any) -> Any:
    """Return a repaired value; that of a subtask is checked against what its worker was shown."""
    return checked_value(ctx, item, value, item.shown) if schema is None and _has_value(item) else value


def _has_value(item: Item) -> bool:
    return isinstance(item.value, dict) and value_kind(item) is not None


def _meant(number: float) -> float:
    """Return a number without the digits that a model did not mean."""
    return float(f"{number:.{_DIGITS}g}") if isinstance(number, float) else number
