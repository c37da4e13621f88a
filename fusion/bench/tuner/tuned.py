"""Tuned: the result of a search, as `tuned.json` has it."""

from decimal import Decimal
from statistics import fmean
from typing import Any

from pydantic import Field

from fusion.bench.report.figures import Alone
from fusion.bench.report.results import ArmKind
from fusion.bench.report.statistics import Interval, Verdict
from fusion.bench.report.summary import Single, alone_sentence, as_good, best_sentence, level_singles
from fusion.core.types import Value


class Dropped(Value):
    """A dropped candidate, and the number of items that showed it. `by` is better and no more expensive."""

    name: str
    items: int
    by: str


class Scores(Value):
    """The scores and dollars of a candidate by item; no costs if one is unknown."""

    scores: tuple[float, ...]
    costs: tuple[float, ...] | None
    clusters: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return fmean(self.scores)

    @property
    def cost(self) -> float | None:
        """Dollars an item."""
        return None if self.costs is None else fmean(self.costs)


class Finalist(Value):
    """A candidate that was not dropped, measured on dev. `difference` is to the best single model on dev.

    `cost` is in dollars an item. `file` is its YAML file if it is on the frontier and runs as a pipeline.
    """

    name: str
    kind: ArmKind
    chosen: dict[str, Any] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    accuracy: float
    cost: float | None
    difference: Interval
    verdict: Verdict
    on_frontier: bool = False
    file: str | None = None


class ChosenWay(Value):
    """Cheap models of which so many must agree, and the last one, which is asked if they do not; or it alone."""

    cheap: tuple[str, ...] = ()
    last: str

    def __str__(self) -> str:
        return f"{' + '.join(self.cheap)}, else {self.last}" if self.cheap else self.last


class Searched(Value):
    """The choice of a `search`: the finalist that it made, and its way by stage and route.

    `difference` to the best single model is cross-validated on dev, a share; `cost_ratio` too. `level` names the
    single models of the search within half a point of the best of them. `considered` is the number of ways. With
    `fit` false no way reached the wanted difference, and the best single model of the search is left.
    """

    name: str
    ways: dict[str, ChosenWay]
    difference: float
    cost_ratio: float
    level: tuple[str, ...]
    considered: int
    fit: bool


class Tuned(Value):
    """The result of a search. `named` is the cheapest finalist that is as good as the best single model on dev.

    A finalist of a `search` is as good by its cross-validated difference, any other if it is not worse by the
    suite's margin.
    `stopped` is the reason for an early end; `spent` is the cost of the search in dollars.
    """

    suite: str
    items: int
    margin: float
    best_single: str
    named: str
    spent: Decimal
    shares: tuple[tuple[int, int], ...]
    """For each share, its number of items and of candidates."""
    finalists: tuple[Finalist, ...]
    dropped: tuple[Dropped, ...]
    searched: tuple[Searched, ...] = ()
    left_out: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def frontier(self) -> tuple[Finalist, ...]:
        """The finalists that no other beats in both cost and accuracy, cheapest first."""
        return tuple(one for one in self.finalists if one.on_frontier)

    @property
    def level(self) -> tuple[str, ...]:
        """The single models at most half a point less accurate than the best one on dev, which comes first."""
        return level_singles(self._singles, self.best_single)

    @property
    def alone(self) -> Alone | None:
        """The cheapest single model that is as good as the best one on dev, if it is another."""
        return next(iter(as_good(self._singles, self.best_single, self.margin)), None)

    @property
    def summary(self) -> tuple[str, ...]:
        """Plain sentences on the single models: one that does it alone, and the best one."""
        alone = self.alone
        sentences = () if alone is None else (alone_sentence(alone, self.margin),)
        return (*sentences, best_sentence(self.level))

    @property
    def _singles(self) -> list[Single]:
        return [
            Single(one.name, one.accuracy, one.cost, None if one.name == self.best_single else one.difference)
            for one in self.finalists
            if one.kind == "model"
        ]

    @property
    def choice(self) -> Finalist:
        """The named finalist."""
        return next(one for one in self.finalists if one.name == self.named)
