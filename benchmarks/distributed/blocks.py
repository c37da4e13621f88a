"""Blocks: a simulation of nodes that lease money from one capped account, for several rules of a block's size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from benchmarks.distributed.assumptions import Assumptions
from benchmarks.distributed.limits import Load


class Asking(NamedTuple):
    """The state that a block is cut by: the cap, what is left of it, open leases, and what the node spends.

    `worst` is the largest cost of a call, `pace` the node's spending a second, `seconds` the age of the map.
    """

    cap: float
    left: float
    holders: int
    worst: float
    pace: float
    seconds: float


Rule = Callable[[Asking], float]
"""Returns the size of a block."""


def hundredth(asking: Asking) -> float:
    return max(asking.worst, asking.cap / 100)


def shared(asking: Asking) -> float:
    """Return 1% of the cap, but at most a quarter of an even share of what is left."""
    return max(asking.worst, min(asking.cap / 100, asking.left / (4 * asking.holders)))


def spending(asking: Asking) -> float:
    """Return the same, but at most what the node spends in 10 seconds."""
    return max(asking.worst, min(shared(asking), 10 * asking.pace))


def built(asking: Asking) -> float:
    """Return 1% of the cap, but at most an eighth of what is left, and what the node spends in 30 seconds."""
    soon = KEPT_SECONDS * asking.pace if asking.seconds >= REPORT_SECONDS else asking.cap
    return max(asking.worst, min(asking.cap / 100, asking.left / 8, soon))


REPORT_SECONDS: Final = 15.0
KEPT_SECONDS: Final = 2 * REPORT_SECONDS
"""Seconds of spending to which a busy node cuts its lease at every report; fusion/core/budget/leased.py."""
RULES: Final[dict[str, Rule]] = {
    "1% of the cap": hundredth,
    "1%, left / (4 x holders)": shared,
    "1%, left / (4 x holders), 10 s of spending": spending,
    "1%, left / 8; after 15 s, 30 s of spending": built,
}
_STEPS: Final = 1_000
_LONGEST: Final = 4
"""Steps of a map whose nodes always have money, and the multiple of them at which a simulation ends."""


@dataclass
class Money:
    """The money of a map. Shares of the cap: leased and not spent at the first refusal, spent at the end.

    `seconds` is its length over that of a map whose nodes always have money. `leases` is the most in a second.
    """

    stuck: float = 0.0
    spent: float = 0.0
    seconds: float = 0.0
    leases: float = 0.0
    starved: float = 0.0


class Account:
    """One account, and nodes that spend from blocks leased of it. Leased and spent never pass the cap together."""

    def __init__(self, state: Load, given: Assumptions, rule: Rule, seed: int) -> None:
        self._given = given
        self._rule = rule
        self._random = np.random.default_rng(seed)
        self._cost = state.nodes * given.rows * given.usd_a_run
        self._step = state.nodes * given.rows / state.runs / _STEPS
        self._cap = self._cost * given.headroom
        self._left = self._cap
        self._held = np.zeros(state.nodes)
        self._pace = state.runs / state.nodes * given.usd_a_run
        self._refused = False
        self._seconds = self._reported = 0.0
        self.money = Money()

    def run(self) -> Money:
        """Simulate until the rows end, or none of the nodes has the money for a call."""
        spent, steps, starved, busiest = 0.0, 0, 0.0, 0
        while spent < self._cost and steps < _STEPS * _LONGEST and not self._empty:
            busiest = max(busiest, self._lease())
            width = self._width()
            starved += float((1 - width).mean())
            used = np.minimum(self._held, self._noise() * self._pace * self._step * width)
            self._held -= used
            spent += float(used.sum())
            steps += 1
            self._seconds += self._step
            self._give_back()
        self.money.spent = spent / self._cap
        self.money.seconds = steps / (_STEPS * min(1.0, self._given.headroom))
        self.money.leases = busiest / self._step
        self.money.starved = starved / steps
        return self.money

    @property
    def _empty(self) -> bool:
        worst = self._given.worst_usd
        return self._left < worst and bool((self._held < worst).all())

    def _width(self) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Return the share of each node's slots whose calls in flight its lease can hold."""
        slots: np.ndarray[tuple[int], np.dtype[np.float64]] = np.floor(self._held / self._given.worst_usd)
        return np.minimum(slots, self._given.slots) / self._given.slots

    def _noise(self) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Return what each node spends, over what it spends on average."""
        return self._random.gamma(4.0, 0.25, self._held.size)

    def _lease(self) -> int:
        """Lease blocks to nodes that lack money for all their slots, as many as the account's row takes."""
        need = self._given.slots * self._given.worst_usd
        asking = self._random.permutation(np.flatnonzero(self._held < need))
        if self._left < self._given.worst_usd:
            self._refuse(asking.size)
            return 0
        served = asking[: max(1, int(self._given.lease_updates * self._step))]
        return sum(self._grant(int(node)) for node in served)

    def _grant(self, node: int) -> bool:
        holders = max(1, int((self._held > 0).sum()))
        asking = Asking(self._cap, self._left, holders, self._given.worst_usd, self._pace, self._seconds)
        block = self._rule(asking)
        self._held[node] += min(block, self._left)
        self._left -= min(block, self._left)
        return block > 0

    def _give_back(self) -> None:
        """Cut the leases of all nodes to what they spend soon, at every report; for the rule that does so."""
        if self._rule is not built or self._seconds < self._reported + REPORT_SECONDS:
            return
        self._reported = self._seconds
        flying = self._given.slots * self._given.worst_usd
        kept = np.minimum(self._held, flying + KEPT_SECONDS * self._pace)
        self._left += float((self._held - kept).sum())
        self._held = kept

    def _refuse(self, asking: int) -> None:
        """Note the money in open leases, the first time that nodes ask in vain."""
        if asking and not self._refused:
            self._refused = True
            self.money.stuck = float(self._held.sum()) / self._cap
