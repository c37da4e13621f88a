"""Score and Scorer: what every scorer takes and gives."""

from typing import Any, Protocol

from pydantic import Field

from fusion.core.types import Value


class Answer(Value):
    """What an arm answered: its text, and its data where it gives any."""

    text: str
    data: Any = None


class Score(Value):
    """What an answer is worth, from 0 to 1; what was taken out of it; further measures by their names."""

    value: float = Field(ge=0, le=1)
    answer: str | None = None
    measures: dict[str, float] = Field(default_factory=dict)


class Scorer(Protocol):
    """Scores answers one by one. It never fails for what a model wrote: that is worth 0."""

    def score(self, answer: Answer, gold: Any) -> Score:
        """Raises UsageError where the gold answer is none that this scorer can use."""

    def close(self) -> None:
        """End what was started for it."""
