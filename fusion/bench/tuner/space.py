"""Space: the ways that a search may choose from, as an author writes it."""

from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field

from fusion.core.validation import Authored

KNOWN: Final = 0.99
"""The share of the items that a model must have answers to."""


class Way(NamedTuple):
    """Cheap models of which so many must agree, and the last one, which is asked if they do not.

    One cheap model more than must agree is a late voter: it is asked only if the others differ. Without cheap models
    the last one answers alone.
    """

    cheap: tuple[str, ...]
    last: str

    @property
    def models(self) -> tuple[str, ...]:
        """All models, in the order in which they are asked."""
        return (*self.cheap, self.last)

    def __str__(self) -> str:
        return f"{' + '.join(self.cheap)}, else {self.last}" if self.cheap else self.last


def _different(models: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is named twice")
    return models


Models = Annotated[tuple[str, ...], AfterValidator(_different)]


class Space(Authored):
    """The ways to search: in place of the `tiers` of a cascade, for `fusion tune` only."""

    models: Models = Field(min_length=2, max_length=24, description="The models to choose from: ids, or roles.")
    agree: int = Field(default=2, ge=2, le=4, description="Answers that must be equal.")
    max_tiers: int = Field(
        default=3, ge=1, le=3, description="1: single models; 2: `agree` at once, else one; 3: also a late voter."
    )
    last: Models = Field(
        default=(), alias="else", description="The models that may answer if the others differ; by default all."
    )
