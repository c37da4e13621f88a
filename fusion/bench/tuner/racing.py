"""Racing: runs candidates on doubling shares of the items, and drops those that a cheaper one clearly beats."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from fusion.bench.arms.base import Contestant
from fusion.bench.experiment import Question
from fusion.bench.report.frontier import known_points, pareto
from fusion.bench.report.statistics import MIN_RESAMPLES, bootstrap_difference
from fusion.bench.runner import Runner, Scored
from fusion.bench.tuner.space import KNOWN
from fusion.bench.tuner.tuned import Dropped, Scores
from fusion.core.errors import UnrecordedError, UsageError

FIRST: Final = 32
"""The number of items of the first share."""
LEVEL: Final = 0.99
"""The confidence level for a drop: high, since there are many candidates and several rounds."""


class Race:
    """Runs the candidates of a suite against each other. `dropped` is by name.

    Each is judged by its own results: a pipeline stays in the race whatever becomes of the models that it uses.
    """

    def __init__(self, runner: Runner, contestants: Sequence[Contestant], *, items: int, seed: int) -> None:
        self.dropped: dict[str, Dropped] = {}
        self.shares: list[tuple[int, int]] = []
        """For each share, its number of items and of candidates."""
        self._runner = runner
        self._items = items
        self._seed = seed
        self._singles = [one for one in contestants if one.record.kind == "model"]
        self._others = [one for one in contestants if one.record.kind != "model"]
        self.unknown: dict[str, int] = {}
        """The number of items that the recording of a single model has no answer to, by its name."""

    @property
    def left(self) -> list[Contestant]:
        """The candidates left, single models first."""
        asked = self._others if self.shares or not self._runner.stopped else []
        out = {*self.dropped, *self.unknown}
        return [one for one in (*self._singles, *asked) if one.record.name not in out]

    @property
    def singles(self) -> list[Contestant]:
        """The single models with answers to nearly all items, dropped ones included."""
        return [one for one in self._singles if one.record.name not in self.unknown]

    def alone(self, voters: Sequence[Contestant] = ()) -> list[Question]:
        """Run every single model on all items, and the `voters`. Returns the items that they all have answered."""
        asked = [*self._singles, *voters]
        self._runner.work(asked)
        whole = self._runner.whole(asked)
        for one in self._singles:
            missing = len({item.task.id for item in whole if self._is_unknown(one, item)})
            if missing > (1 - KNOWN) * len(whole):
                self.unknown[one.record.name] = missing
        return whole

    def best_single(self, items: Sequence[Question]) -> str | None:
        """Return the best single model on these items, the cheapest of equals; None if there are no items.

        Raises UsageError if no model has answers to nearly all of them.
        """
        if not items:
            return None
        found = self._scores(self.singles, [item.task.id for item in items])
        if not found:
            raise UsageError("no single model has recorded answers to all items, so there is none to compare with")
        return min(found, key=lambda name: (-found[name].accuracy, found[name].cost or 0, name))

    def notes(self, items: Sequence[Question]) -> list[str]:
        """Return a note for each single model without answers to some of these items."""
        return [
            f"{name} has recorded answers to {len(items) - missing:,} of {len(items):,} items; it counts where it "
            f"has {KNOWN:.0%}"
            for name, missing in self.unknown.items()
        ]

    def run(self) -> None:
        """Run the others on doubling shares, while the budget lasts."""
        if self._runner.stopped:
            return
        self._drop(self._items, self.singles, self.singles)
        share = min(FIRST, self._items)
        while self._others and not self._runner.stopped:
            asked = [one for one in self.left if one in self._others]
            self.shares.append((share, len(asked)))
            self._runner.work(asked, first=share)
            if self._runner.stopped:
                return
            self._drop(share, self._others, self.left)
            if share == self._items:
                return
            share = min(2 * share, self._items)

    def scores(self) -> dict[str, Scores]:
        """Return the scores of the candidates left and of all singles, on the items that all have answered."""
        asked = list({one.record.name: one for one in (*self.left, *self.singles)}.values())
        return self._scores(asked, [one.task.id for one in self._runner.whole(asked)])

    def _is_unknown(self, one: Contestant, item: Question) -> bool:
        done = self._runner.done
        return any(is_unknown(done[one.record.name, item.task.id, epoch]) for epoch in self._runner.epochs)

    def _scores(self, contestants: Sequence[Contestant], items: Sequence[str]) -> dict[str, Scores]:
        by_arm: dict[str, dict[str, list[Scored]]] = {one.record.name: {} for one in contestants}
        wanted = set(items)
        for (arm, item, _), done in self._runner.done.items():
            if arm in by_arm and item in wanted:
                by_arm[arm].setdefault(item, []).append(done)
        return {name: _columns([found[item] for item in items]) for name, found in by_arm.items()}

    def _drop(self, share: int, contestants: Sequence[Contestant], among: Sequence[Contestant]) -> None:
        """Drop a candidate if another is no more expensive and better: the interval of the difference is above 0."""
        ids = [one.task.id for one in self._runner.whole(list(among))]
        scores = self._scores(among, ids)
        ahead = pareto(known_points((name, one.cost, one.accuracy) for name, one in scores.items()))
        for one in contestants:
            name = one.record.name
            if name not in scores:
                continue
            by = next((other.name for other in ahead if self._beaten(scores[name], scores[other.name])), None)
            if by is not None:
                self.dropped[name] = Dropped(name=name, items=share, by=by)

    def _beaten(self, one: Scores, other: Scores) -> bool:
        if other.cost is None or (one.cost is not None and other.cost > one.cost) or other.accuracy <= one.accuracy:
            return False
        options: Any = {"clusters": one.clusters, "resamples": MIN_RESAMPLES, "seed": self._seed, "level": LEVEL}
        return bootstrap_difference(other.scores, one.scores, **options).low > 0


def _columns(rows: Sequence[Sequence[Scored]]) -> Scores:
    costs = [[done.response.cost for done in row] for row in rows]
    known = [[float(cost) for cost in row if cost is not None] for row in costs]
    whole = all(len(row) == len(of) for row, of in zip(known, costs, strict=True))
    records = [row[0].job.question.record for row in rows]
    return Scores(
        scores=tuple(fmean(done.score.value for done in row) for row in rows),
        costs=tuple(fmean(row) for row in known) if whole and rows else None,
        clusters=tuple(record.cluster or record.id for record in records),
    )


def is_unknown(one: Scored) -> bool:
    """True if a recording has no answer to the item: it is neither right nor wrong."""
    return one.response.failure is not None and one.response.failure.reason == UnrecordedError.__name__
