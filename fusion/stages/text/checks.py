"""Free checks of a value: its shape, pattern, words, length, numbers, sources, and an expression."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field, model_validator

from fusion.core.bounded.patterns import PatternTimeoutError, found
from fusion.core.schema import validate
from fusion.core.types import JsonSchema, as_text
from fusion.core.validation import Authored
from fusion.stages.fields import OutputSchema, Pattern, Texts
from fusion.stages.text.sources import unknown_sources

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


Evaluate = Callable[[str], Any]
"""Returns the value of an expression."""


class Checks(Authored):
    """Conditions on a value, checked before any model is called.

    >>> Checks(max_length=3).failures("long")
    ['it has 4 characters, at most 3 are wanted']
    """

    output_schema: OutputSchema | None = Field(default=None, alias="schema", description="Schema of the value.")
    matches: Pattern | None = Field(default=None, description="A regular expression to be found in the value.")
    contains: Texts = Field(default=(), description="Texts that the value must contain word for word.")
    min_length: int | None = Field(default=None, ge=0, description="Fewest characters of the value's text.")
    max_length: int | None = Field(default=None, ge=0, description="Most characters of the value's text.")
    numbers_from: str | None = Field(default=None, description="A text that has every number of the value.")
    sources_from: str | None = Field(
        default=None, description="The names of sources; each text in square brackets of the value must be one."
    )
    expression: str | None = Field(
        default=None, description="An expression over `value`, or the `number` in it, that must be true."
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> "Checks":
        if self.min_length is not None and self.max_length is not None and self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is more than max_length {self.max_length}")
        return self

    def expressions(self, key: str = "checks") -> Iterator[tuple[str, str]]:
        """Yield (key, source) of the expressions; `value` is the checked value, `number` the one in it."""
        if self.numbers_from is not None:
            yield f"{key}.numbers_from", self.numbers_from
        if self.sources_from is not None:
            yield f"{key}.sources_from", self.sources_from
        if self.expression is not None:
            yield f"{key}.expression", self.expression

    def schemas(self, key: str = "checks") -> Iterator[tuple[str, dict[str, Any] | str]]:
        """Yield (key, schema) of the checked shape."""
        if self.output_schema is not None:
            yield f"{key}.schema", self.output_schema

    def failures(
        self, value: Any, *, schema: JsonSchema | None = None, evaluate: Evaluate = lambda source: ""
    ) -> list[str]:
        """Return the failed conditions, each a sentence. `schema` is the JSON Schema of the key `schema`."""
        text = as_text(value)
        return [
            *([] if schema is None else validate(value, schema)),
            *self._pattern(text),
            *(f"it does not contain {wanted!r}" for wanted in self.contains if wanted not in text),
            *self._length(len(text)),
            *(self._numbers(text, as_text(evaluate(self.numbers_from))) if self.numbers_from is not None else ()),
            *(unknown_sources(text, evaluate(self.sources_from)) if self.sources_from is not None else ()),
            *(self._expression(evaluate) if self.expression is not None else ()),
        ]

    def _pattern(self, text: str) -> list[str]:
        try:
            if self.matches is None or found(self.matches, text):
                return []
        except PatternTimeoutError as error:
            return [str(error)]
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
        return [f"number {number} is not in the source" for number in strange]


def _plain(number: str) -> str:
    """Return a number without thousands separators and trailing zeros: 1,200 and 1200.00 are equal."""
    digits = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", number).replace(",", ".")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
