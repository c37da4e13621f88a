"""Fields that all dialects read: options of the answer, the field `fusion`, and those without an effect."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from fusion.core.errors import FusionError, PipelineError
from fusion.core.params import AnswerOptions
from fusion.core.types import Limits
from fusion.server.base import RefusedError

FUSION: Final = ("fusion", "extra_body", "max_cost")
"""Fields of a body that are Fusion's own."""
_MOST_TAGS: Final = 16
_LONGEST: Final = 256
_OWN: Final = ("inputs", "budget", "tags", "max_cost")


def wanted(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], words: str) -> Any:
    """Return a field of a body, None if it is missing or null. Raises RefusedError for another type."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RefusedError(f"{name!r} must be {words}", param=name)
    return value


def answer_options(names: Mapping[str, str], **given: Any) -> AnswerOptions:
    """Return the options of the answer; None is left out. Raises RefusedError, with the field's name in `names`."""
    try:
        return AnswerOptions(**{name: value for name, value in given.items() if value is not None})
    except PipelineError as error:
        problem = error.problems[0]
        field = problem.where.partition(".")[0]
        param = names.get(field, field) or None
        where = f"{param!r}: " if param else ""
        raise RefusedError(f"{where}{problem.message}", param=param) from error


def fusion_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `inputs`, `budget` and `tags` of a body, from `fusion` and `max_cost`. Raises RefusedError."""
    extra = wanted(body, "extra_body", dict, "an object") or {}
    given = wanted(body, "fusion", dict, "an object") or wanted(extra, "fusion", dict, "an object") or {}
    unknown = next((name for name in given if name not in _OWN), None)
    if unknown is not None:
        raise RefusedError(
            f"'fusion' has no field {unknown!r}; there are: {', '.join(_OWN)}", param=f"fusion.{unknown}"
        )
    inputs = wanted(given, "inputs", dict, "an object of values by name") or {}
    tags = _tags(wanted(given, "tags", dict, "an object of texts") or {})
    budget = _limits(given.get("budget"), "fusion.budget")
    for field, cost in (("max_cost", body.get("max_cost")), ("fusion.max_cost", given.get("max_cost"))):
        if cost is not None:
            budget = _limits({"usd": cost}, field).tighter(budget or Limits())
    return {"inputs": inputs, "tags": tags, "budget": budget}


def ignored(body: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """Return the fields of a body without an effect, in order; null is no field."""
    return tuple(name for name, value in body.items() if value is not None and name not in known)


def _tags(given: Mapping[str, Any]) -> Mapping[str, str]:
    if len(given) > _MOST_TAGS or not all(
        isinstance(value, str) and len(name) <= _LONGEST and len(value) <= _LONGEST for name, value in given.items()
    ):
        raise RefusedError(
            f"'fusion.tags' must be at most {_MOST_TAGS} texts of up to {_LONGEST} characters", param="fusion.tags"
        )
    return given


def _limits(given: Any, field: str) -> Any:
    if given is None:
        return None
    try:
        return Limits.model_validate(given)
    except (ValueError, FusionError) as error:
        words = "an object with positive usd, tokens, calls or seconds" if "budget" in field else "positive dollars"
        raise RefusedError(f"{field!r} must be {words}", param=field) from error
