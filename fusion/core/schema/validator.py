"""Validator: holds data to a JSON Schema within a time limit, whatever data and schema are.

JSON Schema draft 2020-12 with its formats; remote references are not fetched.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from fusion.core.bounded import clock
from fusion.core.bounded.patterns import PatternTimeoutError, found
from fusion.core.errors import close_names
from fusion.core.schema.formats import checker
from fusion.core.types import JsonSchema

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SECONDS: Final = 5.0
"""Longest validation of a value."""
_MOST_ERRORS: Final = 200
_MOST_NAMES: Final = 10
_SHOWN: Final = 60


class ClassSchema(dict[str, Any]):
    """JSON Schema of a Python class, with the class's own checks.

    `check` returns the violations of data that holds to the schema. Formats are left to the class, which may accept
    more forms of a date than RFC 3339.
    """

    def __init__(self, schema: Mapping[str, Any], check: Callable[[Any], list[str]]) -> None:
        super().__init__(schema)
        self.check = check


def validate(data: Any, schema: JsonSchema) -> list[str]:
    """Return the violations of `schema` in `data`, each a sentence with its place: `$.rows[2].total: …`.

    Data that takes longer than 5 s to validate is a violation.
    """
    if clock.current() is None:
        with clock.Clock(SECONDS):
            return validate(data, schema)
    own = schema.check if isinstance(schema, ClassSchema) else None
    try:
        errors = list(islice(_validator(json.dumps(schema), own is None).iter_errors(data), _MOST_ERRORS))
    except RecursionError:
        return ["$: the data is nested too deep, or its schema refers to itself without end"]
    except PatternTimeoutError as error:
        return [f"$: {error}"]
    except clock.TimeUpError:
        return ["$: the data takes too long to validate by its schema"]
    errors.sort(key=lambda error: [str(part) for part in error.absolute_path])
    found = list(dict.fromkeys(f"{error.json_path}: {line}" for error in errors for line in words(error)))
    return found if found or own is None else own(data)


@lru_cache(maxsize=256)
def _validator(schema: str, formats: bool) -> "Validator":
    from referencing import Registry

    made: Validator = _draft()(json.loads(schema), registry=Registry(), format_checker=checker() if formats else None)
    return made


@cache
def _draft() -> Any:
    """Return the validator of draft 2020-12, with keywords that ask the clock."""
    from jsonschema import Draft202012Validator, validators

    keywords = {**Draft202012Validator.VALIDATORS, **_KEYWORDS}
    timed = {name: _timed(check) for name, check in keywords.items()}
    return validators.extend(Draft202012Validator, timed)  # type: ignore[no-untyped-call]


Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


def _timed(check: Keyword) -> Keyword:
    def timed(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any] | None:
        clock.check()
        return check(validator, value, instance, schema)

    return timed


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "string") and not found(pattern, instance):
        yield _error(f"{short(instance)} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(instance, "object"):
        for pattern, part in patterns.items():
            for key, value in instance.items():
                if found(pattern, key):
                    yield from validator.descend(value, part, path=key, schema_path=pattern)


def _additional_properties(validator: Any, given: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    extra = unknown_names(instance, schema)
    if validator.is_type(given, "object"):
        for key in extra:
            yield from validator.descend(instance[key], given, path=key)
    elif not given and extra:
        yield _error("additional properties")


def unknown_names(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Return the keys that neither `properties` nor `patternProperties` of the schema declare."""
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    return [key for key in instance if key not in known and not any(found(pattern, key) for pattern in patterns)]


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not wanted or not validator.is_type(instance, "array"):
        return
    seen: set[Any] = set()
    for element in instance:
        clock.check()
        if (key := _comparable(element)) in seen:
            yield _error(f"{short(element)} is in it twice")
            return
        seen.add(key)


def _enum(validator: Any, values: list[Any], instance: Any, schema: Any) -> Iterator[Any]:
    same_type = (value for value in values if isinstance(value, bool) == isinstance(instance, bool))
    if not (
        instance in values if isinstance(instance, str) else _comparable(instance) in map(_comparable, same_type)
    ):
        yield _error("not one of them")


def _comparable(value: Any) -> Any:
    """Return a hashable value that is equal for equal JSON: 1 and 1.0 are equal, 1 and true are not."""
    match value:
        case bool():
            return ("boolean", value)
        case list():
            return ("array", *map(_comparable, value))
        case dict():
            return ("object", frozenset((key, _comparable(part)) for key, part in value.items()))
    return value


def _multiple_of(validator: Any, unit: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Compare in decimals: 1180.55 is a multiple of 0.01, which binary fractions deny."""
    if validator.is_type(instance, "number") and not _is_multiple(instance, unit):
        yield _error(f"{short(instance)} is not a multiple of {unit}")


def _is_multiple(number: Any, unit: Any) -> bool:
    if isinstance(number, int) and isinstance(unit, int):
        return number % unit == 0
    top, bottom = Decimal(str(number)).as_integer_ratio()
    over, under = Decimal(str(unit)).as_integer_ratio()
    return (top * under) % (bottom * over) == 0


_KEYWORDS: Final[dict[str, Keyword]] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "enum": _enum,
    "uniqueItems": _unique_items,
    "multipleOf": _multiple_of,
}


def _error(message: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message)


def words(error: Any) -> list[str]:
    """Return a validation error in short sentences, whatever the size of the data."""
    clock.check()
    given, wanted = error.instance, error.validator_value
    match error.validator:
        case "required":
            return [f"{name!r} is missing" for name in wanted if name not in given]
        case "additionalProperties" if wanted is False:
            known = error.schema.get("properties", {})
            unknown = unknown_names(given, error.schema)[:_MOST_NAMES]
            return [f"{short(name)} is not a field of it{close_names(name[:_SHOWN], known)}" for name in unknown]
        case "type":
            types = wanted if isinstance(wanted, list) else [wanted]
            return [f"expected {' or '.join(types)}, got {short(given)}"]
        case "enum":
            shown = ", ".join(short(value) for value in wanted[:_MOST_NAMES])
            more = f" and {len(wanted) - _MOST_NAMES} more" if len(wanted) > _MOST_NAMES else ""
            return [f"expected one of {shown}{more}, got {short(given)}"]
        case "format":
            return [f"{short(given)} is not a valid {wanted}"]
        case "maxLength" | "minLength":
            bound = "at most" if error.validator == "maxLength" else "at least"
            return [f"a text of {len(given)} characters; {bound} {wanted} are wanted"]
        case "maxItems" | "minItems":
            bound = "at most" if error.validator == "maxItems" else "at least"
            return [f"a list of {len(given)}; {bound} {wanted} are wanted"]
        case "anyOf" | "oneOf":
            return [f"{short(given)} fits none of its alternatives"]
    message = str(error.message)
    return [message if len(message) <= 200 else f"{short(given)} does not hold to {error.validator}"]


def short(value: Any) -> str:
    """Return a value for a message, cut at 60 characters."""
    text = repr(value[:_SHOWN]) if isinstance(value, str) else "".join(islice(_encoded(value), _SHOWN))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}…"


def _encoded(value: Any) -> Iterator[str]:
    """Yield the JSON of a value piece by piece, each cut."""
    return (piece[:_SHOWN] for piece in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value))
