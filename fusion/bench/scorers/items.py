"""Scores of the items that a stage judged: by gold values of their own, or by the gold answer of the whole."""

from collections.abc import Iterable, Sequence
from typing import Any

from fusion.bench.arms.reviews import Draft
from fusion.bench.report.results import Reviewed, Reviewing
from fusion.bench.scorers.base import Answer, Scorer
from fusion.core.types import as_text


class ItemScorer:
    """Scores the items of one answer. `golds` are their right values by index, if they have some.

    Without them, `whole` scores a part by the gold answer, if it can.
    """

    def __init__(self, own: Scorer | None, whole: Scorer | None, *, gold: Any, golds: Sequence[Any] | None) -> None:
        self._own = own
        self._whole = whole
        self._gold = gold
        self._golds = golds

    def reviews(self, reviews: Iterable[Reviewing], drafts: Iterable[Draft]) -> tuple[Reviewing, ...]:
        """Return the reviews with a score of each item before and after, where gold tells."""
        by_place = {(one.stage, one.item, one.tier): one for one in drafts}

        def scored(stage: str, verdict: Reviewed) -> Reviewed:
            draft = None if verdict.item is None else by_place.get((stage, verdict.item, verdict.tier))
            return verdict if draft is None else self._scored(verdict, draft)

        return tuple(
            one.model_copy(update={"verdicts": tuple(scored(one.stage, verdict) for verdict in one.verdicts)})
            for one in reviews
        )

    def _scored(self, verdict: Reviewed, draft: Draft) -> Reviewed:
        before = self._score(draft.draft, draft.item)
        if before is None:
            return verdict
        after = self._score(draft.final, draft.item) if draft.passed else 0.0
        return verdict.model_copy(update={"before": before, "after": after})

    def _score(self, value: Any, index: int) -> float | None:
        answer = Answer(text=as_text(value), data=None if isinstance(value, str) else value)
        if self._golds is None:
            score = None if self._whole is None else self._whole.item(answer, self._gold)
            return None if score is None else score.value
        gold = self._golds[index] if index < len(self._golds) else None
        return None if gold is None or self._own is None else self._own.score(answer, gold).value
