"""Progress: answers, accuracy and cost of a benchmark so far, by arm."""

import time
from dataclasses import dataclass, field
from decimal import Decimal

from fusion.bench.arms.base import ArmResponse


@dataclass
class ArmProgress:
    """Progress of one arm. `right` is the sum of scores; `unknown` counts answers of unknown cost."""

    name: str
    planned: int
    done: int = 0
    right: float = 0.0
    failed: int = 0
    usd: Decimal = Decimal(0)
    unknown: int = 0

    @property
    def accuracy(self) -> float | None:
        """The mean score so far, with failed answers as wrong; None before the first."""
        return self.right / self.done if self.done else None

    def take(self, response: ArmResponse, score: float) -> None:
        """Count one more answer."""
        self.done += 1
        self.right += score
        self.failed += response.failure is not None
        self.unknown += response.cost is None
        self.usd += response.cost or 0


@dataclass
class Progress:
    """Progress of the whole benchmark. `kept` counts answers from the checkpoint, which cost nothing now.

    `paid` is in dollars over all starts. It counts a shared call once, while the sum over arms counts it for each.
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
        """The estimated time left, from the rate of new answers; None before the first."""
        fresh = self.done - self.kept
        return None if fresh <= 0 else self.seconds / fresh * (self.planned - self.done)

    @property
    def usd_at_end(self) -> Decimal | None:
        """The estimated total cost, from the mean cost of each arm; None where unknown."""
        arms = [arm for arm in self.arms.values() if arm.planned]
        if any(arm.unknown or not arm.done for arm in arms):
            return None
        return sum((arm.usd / arm.done * arm.planned for arm in arms), Decimal(0))

    @property
    def paid_at_end(self) -> Decimal | None:
        """The estimated total paid, at the current share of shared calls; None where unknown."""
        end = self.usd_at_end
        return None if end is None or not self.usd else self.paid / self.usd * end
