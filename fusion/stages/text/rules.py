"""Rules on a text: conditions that decide its route or its label, and examples that are near it."""

from pydantic import Field, model_validator

from fusion.core.bounded.patterns import found
from fusion.core.validation import Authored
from fusion.stages.fields import Pattern, Texts
from fusion.stages.text.classify import Capability, capabilities, language


class RouteOrLabel(Authored):
    """A decision on a text: its route, or the label whose learned figures decide."""

    use: str | None = Field(default=None, description="The route that is taken.")
    label: str | None = Field(
        default=None, min_length=1, max_length=200, description="The label of the text, with `by: capability`."
    )

    @model_validator(mode="after")
    def _decides_one(self) -> "RouteOrLabel":
        if (self.use is None) == (self.label is None):
            raise ValueError("give `use`, the route that is taken, or `label`, with `by: capability`")
        return self


class Rule(RouteOrLabel):
    """A rule: its route is taken if all of its conditions hold for the text."""

    when: str | None = Field(default=None, description="An expression that must be true.")
    matches: Pattern | None = Field(default=None, description="A regular expression to be found in the text.")
    longer: int | None = Field(default=None, ge=0, description="The text must have more characters than this.")
    shorter: int | None = Field(default=None, ge=1, description="The text must have fewer characters than this.")
    language: Texts = Field(default=(), description="The languages that the text may have, as in [de, fr].")
    capability: Capability | None = Field(default=None, description="Capability that the text calls for.")

    @model_validator(mode="after")
    def _says_something(self) -> "Rule":
        if not self.model_fields_set - {"use", "label"}:
            raise ValueError("a rule without a condition always holds; set `default` for all other texts")
        return self

    def miss(self, text: str) -> bool:
        """Return True if a condition other than `when` does not hold for the text."""
        return (
            (self.matches is not None and not found(self.matches, text))
            or (self.longer is not None and len(text) <= self.longer)
            or (self.shorter is not None and len(text) >= self.shorter)
            or bool(self.language and language(text) not in self.language)
            or (self.capability is not None and self.capability not in capabilities(text))
        )

    def __str__(self) -> str:
        said = {name: getattr(self, name) for name in ("when", "matches", "longer", "shorter", "capability")}
        said["language"] = ", ".join(self.language) or None
        return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)


class Example(RouteOrLabel):
    """A text, and its right route."""

    text: str = Field(min_length=1, description="A typical text.")
