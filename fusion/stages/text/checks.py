"""Checks of a value that cost nothing: its shape, pattern, words, length, figures, and what is said of it."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from fusion.core.schema import validate
from fusion.core.types import JsonSchema, as_text
from fusion.core.validation import Authored, check_pattern

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


Evaluate = Callable[[str], Any]
"""Gives the value of an expression."""


def _texts(given: object) -> object:
    return (given,) if isinstance(given, str) else given


class Checks(Authored):
    """What a value must hold before anybody is asked about it.

    >>> Checks(max_length=3).failures("long")
    ['it has 4 characters, at most 3 are wanted']
    """

    output_schema: Annotated[dict[str, Any] | str, WithJsonSchema({"type": ["object", "string"]})] | None = Field(
        default=None,
        alias="schema",
        description="The shape of the value: short types, a JSON Schema or a file of one.",
    )
    matches: Annotated[str, AfterValidator(check_pattern)] | None = Field(
        default=None, description="A regular expression that must be found in the value's text."
    )
    contains: Annotated[tuple[str, ...], BeforeValidator(_texts, json_schema_input_type=str | tuple[str, ...])] = (
        Field(default=(), description="What must stand in the value's text, word for word; one text or a list.")
    )
    min_length: int | None = Field(default=None, ge=0, description="Characters of the value's text, at least.")
    max_length: int | None = Field(default=None, ge=0, description="Characters of the value's text, at most.")
    numbers_from: str | None = Field(
        default=None, description="An expression: every number of the value must stand in this text."
    )
    expression: str | None = Field(default=None, description="An expression over `value` that must be true.")

    @model_validator(mode="after")
    def _lengths_fit(self) -> "Checks":
        if self.min_length is not None and self.max_length is not None and self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is more than max_length {self.max_length}")
        return self

    def expressions(self) -> Iterator[tuple[str, str]]:
        """(key, source) of what is to be evaluated; `value` is what is checked."""
        if self.numbers_from is not None:
            yield "checks.numbers_from", self.numbers_from
        if self.expression is not None:
            yield "checks.expression", self.expression

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        """(key, schema) of the shape that is checked."""
        if self.output_schema is not None:
            yield "checks.schema", self.output_schema

    def failures(
        self, value: Any, *, schema: JsonSchema | None = None, evaluate: Evaluate = lambda source: ""
    ) -> list[str]:
        """What the value lacks, each as a sentence. `schema` is what the key stands for by now."""
        text = as_text(value)
        return [
            *self._shape(value, schema),
            *self._pattern(text),
            *(f"it does not contain {wanted!r}" for wanted in self.contains if wanted not in text),
            *self._length(len(text)),
            *(self._numbers(text, as_text(evaluate(self.numbers_from))) if self.numbers_from is not None else ()),
            *(self._expression(evaluate) if self.expression is not None else ()),
        ]

    def _shape(self, value: Any, schema: JsonSchema | None) -> list[str]:
        return [] if schema is None else validate(value, schema)

    def _pattern(self, text: str) -> list[str]:
        if self.matches is None or re.search(self.matches, text):
            return []
        return [f"nothing in it matches the pattern {self.matches}"]

    def _expression(self, evaluate: Evaluate) -> list[str]:
        assert self.expression is not None
        return [] if evaluate(self.expression) else [f"this does not hold of it: {self.expression}"]

    def _length(self, length: int) -> list[str]:
        if self.min_length is not None and length < self.min_length:
            return [f"it has {length} characters, at least {self.min_length} are wanted"]
        if self.max_length is not None and length > self.max_length:
            return [f"it has {length} characters, at most {self.max_length} are wanted"]
        return []

    def _numbers(self, text: str, source: str) -> list[str]:
        known = {_plain(number) for number in _NUMBER.findall(source)}
        strange = dict.fromkeys(n for n in _NUMBER.findall(text) if _plain(n) not in known)
        return [f"the number {number} does not stand in the source" for number in strange]


def _plain(number: str) -> str:
    """A number without thousands separators and trailing zeros, so that 1,200 and 1200.00 are the same."""
    digits = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", number).replace(",", ".")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
