"""The nearest of labelled texts, by the words that they share."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Near(NamedTuple):
    """A text that is near: where it stands among the others, and how near it is, 1 being the same words."""

    at: int
    similarity: float


def nearest(text: str, texts: Sequence[str]) -> Near:
    """The text that shares the most with `text`, rare words counting more; of equal ones the first.

    The cosine of the counts of words, each damped by its logarithm and weighed by its inverse document frequency
    (Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988).
    """
    counts = [_words(one) for one in texts]
    spread = Counter(word for one in counts for word in one)
    weight = {word: math.log(1 + len(texts) / times) for word, times in spread.items()}
    unseen = math.log(1 + len(texts))
    wanted = _weighed(_words(text), weight, unseen)
    near = [_cosine(wanted, _weighed(one, weight, unseen)) for one in counts]
    best = max(range(len(near)), key=lambda at: (near[at], -at))
    return Near(best, near[best])


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))


def _weighed(words: Counter[str], weight: Mapping[str, float], unseen: float) -> dict[str, float]:
    return {word: (1 + math.log(times)) * weight.get(word, unseen) for word, times in words.items()}


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    shared = math.fsum(value * other[word] for word, value in one.items() if word in other)
    return shared / (_length(one) * _length(other)) if shared else 0.0


def _length(of: Mapping[str, float]) -> float:
    return math.sqrt(math.fsum(value * value for value in of.values()))
