"""Scorer of answers to questions about a text: exact match and F1 with SQuAD's normalisation, as for NQ-open."""

import re
import string
from collections import Counter
from typing import Any, Literal

from fusion.bench.scorers.base import Answer, Score, Scorer
from fusion.core.errors import UsageError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return lower case without punctuation, articles and extra space, as the official evaluation of SQuAD 1.1.

    >>> normalised("The  Beatles, (1960)")
    'beatles 1960'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


class ReadingComprehension(Scorer):
    """Scores by one of `exact_match`, `f1` and `contains`, against the best of several gold answers.

    All three are measures. `contains` (the text has a gold answer) is the accuracy of Liu et al. 2023,
    arXiv:2307.03172.
    """

    def __init__(self, by: Literal["exact_match", "f1", "contains"] = "exact_match") -> None:
        self._by = by

    def score(self, answer: Answer, gold: Any) -> Score:
        golds = [gold] if isinstance(gold, str) else gold
        if not isinstance(golds, list) or not golds or not all(isinstance(one, str) for one in golds):
            raise UsageError(f"the gold answer of `{self._by}` is a text or a list of texts")
        ours, known = normalised(answer.text), [normalised(one) for one in golds]
        measures = {
            "exact_match": float(ours in known),
            "f1": max(_f1(ours, one) for one in known),
            "contains": float(any(one and one in ours for one in known)),
        }
        return Score(value=measures[self._by], answer=answer.text.strip()[:500], measures=measures)


def _f1(text: str, known: str) -> float:
    ours, theirs = text.split(), known.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
