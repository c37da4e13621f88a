"""Scorers of closed answers: extract the answer, normalise it and compare it with the gold answer."""

from typing import Any

from fusion.bench.scorers.base import Answer, Score, Scorer
from fusion.bench.scorers.math.equal import Algebra
from fusion.core.bounded.patterns import PatternTimeoutError
from fusion.core.errors import UsageError
from fusion.core.types import as_text
from fusion.stages.text.extract import Extractor


class Closed(Scorer):
    """Scores 1 if the extracted answer equals the gold answer, else 0."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self._bare = extractor.model_copy(update={"path": None, "pattern": None})

    def score(self, answer: Answer, gold: Any) -> Score:
        known = self._bare.extract(as_text(gold))
        if known is None:
            raise UsageError(f"the gold answer {as_text(gold)[:60]!r} is not a {self.extractor.read}")
        has_data = answer.data is not None and self.extractor.path is not None
        try:
            found = self.extractor.extract(answer.data if has_data else answer.text)
        except PatternTimeoutError:
            return Score(value=0)
        if found is None:
            return Score(value=0)
        return Score(
            value=float(self.extractor.same(found, known) or self.same(found.text, as_text(gold))),
            answer=found.text[:500],
        )

    def same(self, text: str, gold: str) -> bool:
        """Return True if answers of different form are equal. A subclass may know more forms."""
        return False


class Formula(Closed):
    """Scores formulas: equal as normalised LaTeX, or by sympy."""

    def __init__(self, path: str | None = None, pattern: str | None = None) -> None:
        super().__init__(Extractor(path=path, pattern=pattern, normalise=("latex", "numbers", "case")))
        self._algebra = Algebra()

    def same(self, text: str, gold: str) -> bool:
        return self._algebra.equal(text, gold)

    def close(self) -> None:
        self._algebra.close()
