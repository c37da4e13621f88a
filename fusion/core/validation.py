"""Validation errors as messages with their places in the file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Union, dataclass_transform, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from fusion.core.errors import PipelineError, Problem, close_names
from fusion.core.types import Value
from fusion.core.yaml import Place

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which has no public name


Keys = Callable[[Place], Iterable[str]]
"""Returns the keys allowed in the mapping at a place."""

MISSING: Final = "missing_key"
"""Type of a custom pydantic error for a mapping that lacks a required key."""

_WANTED = {
    "string_type": "text",
    "path_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than": "expected more than {gt}, got {given}",
    "greater_than_equal": "expected at least {ge}, got {given}",
    "less_than": "expected less than {lt}, got {given}",
    "less_than_equal": "expected at most {le}, got {given}",
    "literal_error": "expected {expected}, got {given}",
    "string_too_short": "expected text of at least {min_length} characters, got {given}",
    "string_too_long": "expected text of at most {max_length} characters, got {given}",
    "too_short": "expected {min_length} or more entries, got {actual_length}",
    "too_long": "expected at most {max_length} entries, got {actual_length}",
}


class Mistake(NamedTuple):
    """One mistake: its place, True if it concerns the key rather than the value, and the message."""

    place: Place
    of_key: bool
    message: str


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _RaisesPipelineError(ModelMetaclass):
    if not TYPE_CHECKING:  # type checkers derive the call from the fields

        def __call__(cls, *args: Any, **given: Any) -> Any:  # noqa: N805 - of a metaclass
            try:
                return super().__call__(*args, **given)
            except ValidationError as error:
                raise _problems(cls, error, given) from error


class Authored(Value, metaclass=_RaisesPipelineError):
    """Base of values that users write; an invalid one made in Python raises PipelineError, as a file does.

    >>> Authored(colour="blue")
    Traceback (most recent call last):
    fusion.core.errors.PipelineError: Authored colour: unknown key 'colour'
    """

    @classmethod
    def keys_within(cls, given: Mapping[str, Any], place: Place) -> list[str]:
        """Return the keys allowed in the mapping at a place of the input."""
        return keys_at(cls, place)


def _problems(cls: type[Authored], error: ValidationError, given: Mapping[str, Any]) -> PipelineError:
    found = mistakes(error, given, lambda place: cls.keys_within(given, place))
    return PipelineError(
        [Problem(cls.__name__, 0, 0, ".".join(map(str, mistake.place)), mistake.message) for mistake in found]
    )


def mistakes(error: ValidationError, data: Any, keys: Keys) -> list[Mistake]:
    """Return every mistake that `error` reports in `data`, the parsed mapping."""
    found: dict[tuple[Place, bool], list[str]] = {}
    wanted: dict[Place, tuple[dict[str, None], Any]] = {}
    renamed: set[tuple[Place, str]] = set()
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "extra_forbidden":
            place = _place(detail["loc"], data)
            near = close_names(str(place[-1]), keys(place[:-1]))
            found.setdefault((place, True), []).append(f"unknown key {place[-1]!r}{near}")
            renamed.add((place[:-1], near))
    for detail in details:
        _take(detail, data, found, wanted, renamed)
    for place, (words, given) in wanted.items():
        found.setdefault((place, False), []).append(f"expected {' or '.join(words)}, got {_given(given)}")
    return [Mistake(place, of_key, text) for (place, of_key), texts in found.items() for text in dict.fromkeys(texts)]


def _take(
    detail: ErrorDetails,
    data: Any,
    found: dict[tuple[Place, bool], list[str]],
    wanted: dict[Place, tuple[dict[str, None], Any]],
    renamed: set[tuple[Place, str]],
) -> None:
    kind, loc = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return
    if kind == "missing":
        place = _place(loc[:-1], data)
        if (place, f"; did you mean {loc[-1]!r}?") not in renamed:
            found.setdefault((place, True), []).append(f"the key {loc[-1]!r} is missing")
        return
    place = _place(loc, data)
    if kind in _WANTED:
        wanted.setdefault(place, ({}, detail["input"]))[0][_WANTED[kind]] = None
        return
    found.setdefault((place, kind == MISSING or loc[-1:] == ("[key]",)), []).append(_words(detail))


def _words(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])
    if detail["type"] in _BOUNDS:
        bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in context.items()}
        return _BOUNDS[detail["type"]].format(**bounds, given=_given(detail["input"]))
    return detail["msg"].replace("Input should be", "expected")


def _place(loc: Iterable[str | int], data: Any) -> Place:
    """Return the part of a pydantic location that is a place in the data, without names of types."""
    place: list[str | int] = []
    for part in loc:
        if isinstance(data, Mapping) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        place.append(part)
    return tuple(place)


def _given(value: Any) -> str:
    """Return a value of the file for a message: short, and in YAML terms."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        tuned = next((key for key in ("any", "search") if value.keys() == {key}), None)
        return "a mapping" if tuned is None else f"{{{tuned}: …}}, which is for `fusion tune`"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """Return the keys that a model accepts at a place inside it."""
    at: Any = model
    for part in place:
        if isinstance(at, type) and issubclass(at, BaseModel):
            field = next((f for name, f in at.model_fields.items() if (f.alias or name) == part), None)
            at = _plain(field.annotation) if field is not None else None
        else:
            at = _plain(get_args(at)[-1 if get_origin(at) is dict else 0]) if get_args(at) else None
    if isinstance(at, type) and issubclass(at, BaseModel):
        return [field.alias or name for name, field in at.model_fields.items()]
    return []


def _plain(annotation: Any) -> Any:
    """Return an annotation without `| None` and without the metadata of `Annotated`."""
    if hasattr(annotation, "__metadata__"):
        return _plain(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return next((_plain(part) for part in get_args(annotation) if part is not type(None)), None)
    return annotation


def misread(raw: Any, value: Any, place: Place = ()) -> Iterator[Mistake]:
    """Yield a mistake for each `true` or `false` that pydantic has read as a number."""
    if isinstance(raw, bool):
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            yield Mistake(place, False, f"expected a number, got {_given(raw)}")
    elif isinstance(raw, Mapping):
        for key, part in raw.items():
            yield from misread(part, _child(value, key), (*place, key))


def _child(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return next((getattr(value, name) for name, f in fields.items() if (f.alias or name) == key), None)
    return None
