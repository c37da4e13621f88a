"""Field types that kinds share: a name, a choice of roles, one text or several, a pattern, a shape."""

import re
from collections.abc import Callable
from decimal import Decimal
from math import ceil
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from fusion.core.bounded.patterns import compiled
from fusion.core.validation import Authored

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST: Final = 10 * 366 * 86400
_DURATION: Final = re.compile(r"^(\d{1,9}(\.\d{1,3})?[smhdw])+$")
RESERVED = frozenset({"inputs", "item", "items", "needed", "request", "run", "stages", "loop"})
"""Names that stages and inputs cannot have: templates and results use them."""

OF_JINJA = frozenset(
    {"and", "dict", "else", "false", "if", "in", "is", "namespace", "none", "not", "or", "range", "true"}
)
NAME = re.compile(r"[a-z][a-z0-9_]*")


def _free_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"invalid name {name!r}: use lowercase letters, digits and _, starting with a letter")
    if name in RESERVED:
        raise ValueError(f"reserved name {name!r}: templates and results use it; choose another")
    if name in OF_JINJA:
        raise ValueError(f"reserved name {name!r}: it is a keyword of expressions; choose another")
    return name


Name = Annotated[str, AfterValidator(_free_name)]
"""A name that stages and inputs may have."""


class Choice(Authored):
    """One line of a choice: `use` applies if the expression `when` is true, or always without `when`."""

    when: str | None = Field(default=None, description="An expression; without it the line always applies.")
    use: str = Field(description="The value if it is true.")


def short_form(key: str) -> Callable[[Any], Any]:
    """Return a function that reads a text alone as a mapping with this key."""
    return lambda given: {key: given} if isinstance(given, str) else given


def _choices(given: Any) -> Any:
    return ({"use": given},) if isinstance(given, str) else given


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _last_is_plain(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    if not choices or choices[-1].when is not None or any(choice.when is None for choice in choices[:-1]):
        raise ValueError("every line but the last has a `when`, and the last has none: [{when: …, use: a}, {use: b}]")
    return choices


def _compiles(pattern: str) -> str:
    compiled(pattern)
    return pattern


def _enough(given: Any) -> int | str:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if isinstance(given, str) and re.fullmatch(r"\d{1,3}(\.\d{1,4})?%", given) and Decimal(given[:-1]) <= 100:
        return given
    raise ValueError("give a count such as 8, or a share such as 95%")


def _seconds(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    if not _DURATION.fullmatch(given):
        raise ValueError("give seconds, or a text such as 90m, 36h, 3d or 1d12h")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", given)
    return float(sum(Decimal(number) * _UNITS[unit] for number, unit in parts))


def _bounded(seconds: float) -> float:
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"expected more than 0 and at most 10 years, got {seconds:g} s")
    return seconds


def enough(wanted: int | str, of: int) -> int:
    """Return the count that is enough: `wanted` itself, or its share of `of`, rounded up."""
    return wanted if isinstance(wanted, int) else ceil(Decimal(wanted[:-1]) * of / 100)


Enough = Annotated[
    int | str,
    PlainValidator(_enough),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,4})?%$"}]}
    ),
]
"""A count of usable items, or a share of them: `8`, `95%`."""

RoleChoice = Annotated[
    tuple[Choice, ...],
    BeforeValidator(_choices),
    AfterValidator(_last_is_plain),
    PlainSerializer(
        lambda choices: choices[0].use if len(choices) == 1 else [c.model_dump(exclude_none=True) for c in choices]
    ),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"when": {"type": "string"}, "use": {"type": "string"}},
                        "required": ["use"],
                        "additionalProperties": False,
                    },
                },
            ]
        }
    ),
]
"""A role's name, or `[{when, use}, …, {use}]`: the first line whose `when` is true."""

OutputSchema = Annotated[
    dict[str, Any] | str,
    WithJsonSchema({"type": ["object", "string"], "description": "Short types, a JSON Schema, or a file of one."}),
]

Texts = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
"""One text or a list of texts."""

Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    AfterValidator(_bounded),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": _DURATION.pattern}]}
    ),
]
"""A time in seconds: a number, or a text such as `90m`, `36h`, `3d` or `1d12h`."""

Pattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression."""
