"""Scorer: the interface of all scorers, with its input and output."""

from abc import ABC, abstractmethod
from typing import Any

from pydantic import Field

from fusion.core.types import Value


class Answer(Value):
    """The answer of an arm: its text, and its data if any."""

    text: str
    data: Any = None


class Score(Value):
    """The value of an answer from 0 to 1, the extracted answer, and further measures by name."""

    value: float = Field(ge=0, le=1)
    answer: str | None = None
    measures: dict[str, float] = Field(default_factory=dict)


class Scorer(ABC):
    """Scores answers one by one. A wrong or malformed answer scores 0 and is no error."""

    @abstractmethod
    def score(self, answer: Answer, gold: Any) -> Score:
        """Score an answer. Raises UsageError for a gold answer that this scorer cannot use."""

    def item(self, answer: Answer, gold: Any) -> Score | None:
        """Score one part of an answer by the gold answer of the whole; None where that tells nothing of it."""
        return None

    def close(self) -> None:  # noqa: B027 - most scorers hold no resources
        """Release the scorer's resources."""
