"""Signature: the arguments of a function as a JSON Schema, and data held to its types."""

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from fusion.core.errors import UsageError
from fusion.core.types import JsonSchema

_SECTION: Final = re.compile(r"^[ \t]*(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples|Note)s?:\s*$")
_ARGUMENT: Final = re.compile(r"^\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s+(\S.*)$")
_KEYWORD: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class _Untitled(GenerateJsonSchema):
    """Writes no titles, which repeat the names, and takes defaults that JSON cannot hold."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class Signature:
    """The parameters of a function: `schema` is that of an object with one property for each.

    Raises UsageError for a function that data cannot call, such as one with parameters that have no name.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        doc = inspect.getdoc(function) or ""
        self.description = _summary(doc)
        self._names: dict[str, str] = {}
        self._model = self._made(function, dict(_told(doc)))
        self.schema: JsonSchema = self._model.model_json_schema(by_alias=True, schema_generator=_Untitled)
        self.schema.pop("title", None)
        self.schema.pop("description", None)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments. Raises UsageError with every argument that does not fit the signature."""
        try:
            values = self._model.model_validate(dict(given))
        except ValidationError as error:
            raise UsageError(f"{self._name}: {'; '.join(map(_words, error.errors()))}") from error
        set_ones = values.model_fields_set
        return {name: getattr(values, field) for field, name in self._names.items() if field in set_ones}

    def _made(self, function: Callable[..., Any], told: Mapping[str, str]) -> type[BaseModel]:
        hints, fields = self._hints(function), dict[str, Any]()
        for at, parameter in enumerate(inspect.signature(function).parameters.values()):
            if parameter.kind not in _KEYWORD:
                words = "which no argument by name can fill; give it named parameters"
                raise UsageError(f"{self._name} takes {str(parameter)!r}, {words}")
            field, needed = f"argument_{at}", parameter.default is inspect.Parameter.empty
            self._names[field] = parameter.name
            fields[field] = (
                hints.get(parameter.name, Any),
                Field(
                    default=... if needed else parameter.default,
                    alias=parameter.name,
                    description=told.get(parameter.name),
                ),
            )
        try:
            return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
        except (PydanticUserError, TypeError) as error:
            said = str(error).partition("\n")[0]
            raise UsageError(f"{self._name} has a parameter of a type that JSON has no form for: {said}") from error

    def _hints(self, function: Any) -> dict[str, Any]:
        routine = inspect.isroutine(function) or hasattr(function, "__wrapped__")
        annotated: Any = (
            function if routine else function.__init__ if inspect.isclass(function) else function.__call__
        )
        try:
            return typing.get_type_hints(annotated, include_extras=True)
        except (NameError, TypeError, AttributeError) as error:
            raise UsageError(f"{self._name}: its annotations cannot be read: {error}") from error


def _words(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "missing":
            return f"argument {place!r} is missing"
        case "extra_forbidden":
            return f"there is no argument {place!r}"
        case _:
            return f"argument {place!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _summary(doc: str) -> str:
    """Return a docstring up to its first section."""
    lines: list[str] = []
    for line in doc.splitlines():
        if _SECTION.match(line):
            break
        lines.append(line.rstrip())
    return "\n".join(lines).strip()


def _told(doc: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters that a docstring describes under `Args:`."""
    within = False
    for line in doc.splitlines():
        if section := _SECTION.match(line):
            within = section[1] in ("Args", "Arguments", "Parameters")
        elif within and (found := _ARGUMENT.match(line)):
            yield found[1], found[2].strip()
