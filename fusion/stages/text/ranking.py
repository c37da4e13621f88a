"""Ranking of texts by a query, with BM25."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

_SATURATION: Final = 1.2
_LENGTH: Final = 0.75
_WORD = re.compile(r"\w+")
_UNSPACED: Final = "\u2e80"
"""Scripts from here on are written without spaces: their words are compared by pairs of characters."""


def ranked(query: str, texts: Sequence[str]) -> list[int]:
    """Return the positions of texts, the best for the query first; equal ones keep their order.

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009), with the
    non-negative inverse document frequency of Lucene.

    >>> ranked("fees of Oslo", ["Bergen has bridges.", "The fees of Oslo are low.", "Oslo is large."])
    [1, 2, 0]
    """
    scores = _scores(query, texts)
    return sorted(range(len(texts)), key=lambda at: (-scores[at], at))


def matching(query: str, texts: Sequence[str]) -> list[int]:
    """Return the positions of texts that have a word of the query, the best first.

    >>> matching("fees of Oslo", ["Bergen has bridges.", "The fees of Oslo are low.", "Oslo is large."])
    [1, 2]
    """
    scores = _scores(query, texts)
    return sorted((at for at, score in enumerate(scores) if score > 0), key=lambda at: (-scores[at], at))


def _scores(query: str, texts: Sequence[str]) -> list[float]:
    counts = [Counter(_terms(text)) for text in texts]
    mean = sum(count.total() for count in counts) / max(len(texts), 1) or 1.0
    scores = [0.0] * len(texts)
    for term in dict.fromkeys(_terms(query)):
        having = sum(term in count for count in counts)
        weight = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for at, count in enumerate(counts):
            often = count[term]
            scores[at] += weight * often / (often + _SATURATION * (1 - _LENGTH + _LENGTH * count.total() / mean))
    return scores


def _terms(text: str) -> Iterator[str]:
    for word in _WORD.findall(text.casefold()):
        if len(word) > 1 and word >= _UNSPACED:
            yield from (word[at : at + 2] for at in range(len(word) - 1))
        else:
            yield word
