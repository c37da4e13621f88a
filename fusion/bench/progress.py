"""Progress: how far a benchmark is, arm by arm, for those who watch it."""

import time
from dataclasses import dataclass, field
from decimal import Decimal

from fusion.bench.arms.base import Answered


@dataclass
class ArmProgress:
    """One arm so far. `right` is the sum of scores, `unknown` counts answers whose cost is not known."""

    name: str
    planned: int
    done: int = 0
    right: float = 0.0
    failed: int = 0
    usd: Decimal = Decimal(0)
    unknown: int = 0

    @property
    def accuracy(self) -> float | None:
        """Of what is done, failed answers counted as wrong; None before there is any."""
        return self.right / self.done if self.done else None

    def take(self, answered: Answered, score: float) -> None:
        """One more answer."""
        self.done += 1
        self.right += score
        self.failed += answered.failure is not None
        self.unknown += answered.cost is None
        self.usd += answered.cost or 0


@dataclass
class Progress:
    """The whole benchmark so far. `kept` counts answers that an earlier start had given, which cost nothing now.

    `paid` is in dollars, of all starts: what arms share is in it once, and in the sum of the arms for each.
    """

    name: str
    arms: dict[str, ArmProgress] = field(default_factory=dict)
    kept: int = 0
    paid: Decimal = Decimal(0)
    began: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        return sum(arm.done for arm in self.arms.values())

    @property
    def planned(self) -> int:
        return sum(arm.planned for arm in self.arms.values())

    @property
    def usd(self) -> Decimal:
        return sum((arm.usd for arm in self.arms.values()), Decimal(0))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        """About how long it still takes, by what was answered since the start; None before there is any."""
        fresh = self.done - self.kept
        return None if fresh <= 0 else self.seconds / fresh * (self.planned - self.done)

    @property
    def usd_at_end(self) -> Decimal | None:
        """About what it comes to, each arm by its own mean so far; None where that is not known."""
        arms = [arm for arm in self.arms.values() if arm.planned]
        if any(arm.unknown or not arm.done for arm in arms):
            return None
        return sum((arm.usd / arm.done * arm.planned for arm in arms), Decimal(0))

    @property
    def paid_at_end(self) -> Decimal | None:
        """About what will have been paid, if as much is shared as so far; None where that is not known."""
        end = self.usd_at_end
        return None if end is None or not self.usd else self.paid / self.usd * end
