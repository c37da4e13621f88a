"""Ways: cheap models that must agree, with another to ask else; all of them judged from single answers."""

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion.bench.tuner.space import KNOWN, Space, Way
from fusion.core.errors import UsageError

MAX_WAYS: Final = 250_000
_ROWS: Final = 4_000
"""Groups of cheap models that are judged at once."""

Floats = NDArray[np.float64]


class Answers:
    """Answers of single models to the items of one route.

    `scores` and `usd` are matrices, item by model, NaN where a model has no answer; `usd` is in dollars. `keys` holds
    the compared part of each answer, None for an answer without it. Models with answers to too few items are left
    out: `left_out` names them with the share of their items.
    """

    def __init__(self, models: Sequence[str], scores: Any, usd: Any, keys: Sequence[Sequence[str | None]]) -> None:
        whole, known = np.asarray(scores, float), np.isfinite(np.asarray(scores, float))
        shares = known.mean(0) if len(whole) else np.zeros(len(models))
        kept = [at for at, share in enumerate(shares) if share >= KNOWN]
        self.left_out = {models[at]: float(share) for at, share in enumerate(shares) if share < KNOWN}
        self.models = tuple(models[at] for at in kept)
        self.scores: Floats = np.where(known, whole, 0.0)[:, kept]
        self.usd: Floats = np.nan_to_num(np.asarray(usd, float))[:, kept]
        self._codes = _coded([[row[at] for at in kept] for row in keys], len(kept))

    def __len__(self) -> int:
        return len(self.scores)

    def equal(self, one: int, other: int) -> NDArray[np.bool_]:
        """Return for each item if two models have the same answer; an answer without a key equals none."""
        codes = self._codes
        same: NDArray[np.bool_] = (codes[:, one] >= 0) & (codes[:, one] == codes[:, other])
        return same


def _coded(keys: Sequence[Sequence[str | None]], models: int) -> NDArray[np.int64]:
    """Return the keys of each item as numbers: equal ones have the same, and -1 is no key."""
    codes = np.full((len(keys), models), -1)
    for row, own in zip(codes, keys, strict=True):
        seen: dict[str, int] = {}
        row[:] = [-1 if key is None else seen.setdefault(key, len(seen)) for key in own]
    return codes


class Totals(NamedTuple):
    """Sums of scores and dollars: way by division by group of items."""

    scores: Floats
    usd: Floats


class _Rows(NamedTuple):
    """Groups of cheap models by item: scores and dollars without the last model, and 1.0 if that one is asked."""

    scores: Floats
    usd: Floats
    asked: Floats


class Layout:
    """All ways of so many models, by their indexes, the single models first.

    A way is a group of cheap models and a last model outside of it. `last` are the models that may be the last.
    """

    def __init__(self, models: int, last: tuple[int, ...], agree: int, max_tiers: int) -> None:
        self.agree = agree
        self.last = last
        self.groups = tuple(_groups(models, agree, max_tiers))
        outside = [[model not in group for model in last] for group in self.groups]
        self.places = np.argwhere(np.array(outside, bool).reshape(len(self.groups), len(last)))
        """The group and the last model of each way: indexes of `groups` and of `last`."""

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def members(self) -> tuple[tuple[tuple[int, ...], int], ...]:
        """The cheap models of each way, and its last one."""
        return tuple((self.groups[group], self.last[last]) for group, last in self.places)


@lru_cache(maxsize=16)
def _layout(models: int, last: tuple[int, ...], agree: int, max_tiers: int) -> Layout:
    return Layout(models, last, agree, max_tiers)


class Table:
    """The ways of a space over the items of one route."""

    def __init__(self, answers: Answers, space: Space) -> None:
        self._answers = answers
        last = tuple(at for at, name in enumerate(answers.models) if not space.last or name in space.last)
        self.layout = _layout(len(answers.models), last, space.agree, space.max_tiers)
        if len(self) > MAX_WAYS:
            raise UsageError(
                f"{len(self):,} ways of {len(answers.models)} models are too many; the most are {MAX_WAYS:,}: "
                f"give fewer models, `else`, or a smaller `max_tiers` than {space.max_tiers}"
            )

    def __len__(self) -> int:
        return len(self.layout)

    def way(self, at: int) -> Way:
        """Return the way at an index."""
        group, last = self.layout.members[at]
        return Way(tuple(self._answers.models[one] for one in group), self._answers.models[last])

    def totals(self, groups: NDArray[np.int64], number: int) -> Totals:
        """Return the sums over groups of items: arrays, way by division by group.

        `groups` holds for each division, such as that into folds, the group of each item, from 0 to `number` - 1.
        """
        layout, answers = self.layout, self._answers
        last = list(layout.last)
        both = [np.zeros((len(layout.groups), len(last), len(groups), number)) for _ in range(2)]
        for start in range(0, len(layout.groups), _ROWS):
            part = slice(start, start + _ROWS)
            rows = self._rows(layout.groups[part])
            for at, group in np.ndindex(len(groups), number):
                its = groups[at] == group
                asked = rows.asked[:, its]
                for sums, own, alone in zip(both, rows, (answers.scores, answers.usd), strict=False):
                    sums[part, :, at, group] = own[:, its].sum(1)[:, None] + asked @ alone[its][:, last]
        ways = tuple(layout.places.T)
        return Totals(*(sums[ways] for sums in both))

    def outcome(self, at: int) -> tuple[Floats, Floats]:
        """Return the scores and the dollars of a way, item by item."""
        group, last = self.layout.members[at]
        rows, answers = self._rows([group]), self._answers
        asked = rows.asked[0]
        return rows.scores[0] + asked * answers.scores[:, last], rows.usd[0] + asked * answers.usd[:, last]

    def _rows(self, groups: Sequence[tuple[int, ...]]) -> _Rows:
        found = [self._row(group) for group in groups]
        return _Rows(*(np.array(column) for column in zip(*found, strict=True)))

    def _row(self, group: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
        scores, usd = self._answers.scores, self._answers.usd
        items = len(scores)
        if not group:
            return np.zeros(items), np.zeros(items), np.ones(items)
        first, late = group[: self.layout.agree], group[self.layout.agree :]
        agreed = np.logical_and.reduce(self._all_equal(first))
        taken = np.where(agreed, scores[:, first[0]], 0.0)
        paid = usd[:, first].sum(1)
        asked = ~agreed
        for voter in late:
            open_, won, value = self._late(first, voter)
            taken += np.where(asked & won, value, 0.0)
            paid = paid + np.where(asked & open_, usd[:, voter], 0.0)
            asked = asked & ~won
        return taken, paid, asked.astype(float)

    def _late(self, first: tuple[int, ...], voter: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]:
        """Return for a late voter: if its answer can decide, if it does, and the score of the answer it confirms."""
        items = len(self._answers)
        open_, won, value = np.zeros(items, bool), np.zeros(items, bool), np.zeros(items)
        for without in first:
            others = [one for one in first if one != without]
            level = np.logical_and.reduce([np.ones(items, bool), *self._all_equal(others)])
            same = level & self._answers.equal(voter, others[0])
            value = np.where(same & ~won, self._answers.scores[:, others[0]], value)
            open_ |= level
            won |= same
        return open_, won, value

    def _all_equal(self, models: Sequence[int]) -> list[NDArray[np.bool_]]:
        return [self._answers.equal(models[0], other) for other in models[1:]]


def _groups(models: int, agree: int, max_tiers: int) -> Iterator[tuple[int, ...]]:
    """Yield the groups of cheap models: none, those that answer at once, and those with a late voter."""
    yield ()
    if max_tiers < 2:
        return
    for first in combinations(range(models), agree):
        yield first
        if max_tiers > 2:
            yield from ((*first, late) for late in range(models) if late not in first)
