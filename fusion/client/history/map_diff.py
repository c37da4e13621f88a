"""Differences of two maps: their rows by key, with memory that does not grow with them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

from fusion.client.history.map_types import MapDiff, MapSummary, RowPair, RowState
from fusion.store.base import Store
from fusion.store.rows import MapEntry

_NAMED_AT_MOST: Final = 1000
_AT_ONCE: Final = 500
_ENDED: Final = frozenset({"ok", "partial", "failed"})
T = TypeVar("T")


def compared_maps(store: Store, a: MapSummary, b: MapSummary) -> MapDiff:
    """Return the differences between two maps of a store."""
    counts: Counter[RowState] = Counter()
    named: list[RowPair] = []
    for pair in _pairs(store, a.map_id, b.map_id):
        counts[pair.state] += 1
        if pair.state != "same" and len(named) < _NAMED_AT_MOST:
            named.append(pair)
    more = counts.total() - counts["same"] - len(named)
    return MapDiff(a=a, b=b, counts={state: count for state, count in counts.items() if count}, rows=named, more=more)


def _pairs(store: Store, a: str, b: str) -> Iterator[RowPair]:
    for some in _portions(store.map_pages(a)):
        others = store.map_entries(b, [entry.key for entry in some])
        for entry in some:
            yield _pair(store, entry, others.get(entry.key))
    for some in _portions(store.map_pages(b)):
        found = store.map_entries(a, [entry.key for entry in some])
        yield from (
            RowPair(key=entry.key, state="only b", b=entry.run_id) for entry in some if entry.key not in found
        )


def _pair(store: Store, a: MapEntry, b: MapEntry | None) -> RowPair:
    if b is None:
        return RowPair(key=a.key, state="only a", a=a.run_id)
    return RowPair(key=a.key, state=_state(store, a, b), a=a.run_id, b=b.run_id)


def _state(store: Store, a: MapEntry, b: MapEntry) -> RowState:
    if not {a.status, b.status} <= _ENDED:
        return "unfinished"
    if a.run_id == b.run_id:
        return "same"
    if "failed" in (a.status, b.status):
        return "same" if a.status == b.status else "status"
    one, other = store.result(a.run_id), store.result(b.run_id)
    if one is None or other is None:
        return "not kept"
    return "same" if (one["text"], one["data"]) == (other["text"], other["data"]) else "different"


def _portions(entries: Iterable[T]) -> Iterator[Sequence[T]]:
    entries = iter(entries)
    while some := list(islice(entries, _AT_ONCE)):
        yield some
