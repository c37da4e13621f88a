"""Sample: the rows of a source that are read, the first ones or some drawn by a hash of their keys."""

import hashlib
from collections.abc import Callable, Iterator
from heapq import heappush, heappushpop
from itertools import islice

from fusion.bulk.options import Choice
from fusion.bulk.sources import RowSource, SourceRow


def chosen(source: RowSource, choice: Choice, key_of: Callable[[SourceRow], str]) -> Iterator[SourceRow]:
    """Yield the chosen rows of a source in their order; its files are closed at the end."""
    rows = source.rows()
    try:
        first = islice(rows, choice.limit)
        yield from first if choice.sample is None else _drawn(first, choice.sample, key_of)
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()


def _drawn(rows: Iterator[SourceRow], most: int, key_of: Callable[[SourceRow], str]) -> list[SourceRow]:
    """Return the rows with the smallest hashes of their keys, in one pass that holds no others."""
    heap: list[tuple[int, int, SourceRow]] = []
    for at, row in enumerate(rows):
        rank = -int.from_bytes(hashlib.sha256(key_of(row).encode()).digest()[:8], "big")
        one = (rank, -at, row)
        if len(heap) < most:
            heappush(heap, one)
        else:
            heappushpop(heap, one)
    return [row for _, _, row in sorted(heap, key=lambda one: -one[1])]
