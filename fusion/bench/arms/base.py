"""Contestants: arms that are ready to answer. What they are given of an item is its text and inputs, and no more."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fusion.bench.report.results import ArmRecord, Spending
from fusion.bench.tasks import Task
from fusion.core.budget import Amount
from fusion.core.types import Failure, Money, Usage, Value

BENCHMARK: Final = "the benchmark"
"""The name of the budget that all runs of a benchmark draw on."""
ANSWER: Final = "answer"
"""The tag of a run that says which answer it is for: its mark."""


class Drawn(Value):
    """What an answer drew on the budget that shared calls with others; `usd` None where a part of it is unknown."""

    usd: Money | None
    tokens: int
    calls: int


class Answered(Value):
    """What an arm said to an item, before anybody scores it, and what that cost.

    `cost` is in dollars, None where a part of it is unknown; `latency` in seconds, 0 where answers are recorded.
    `escalated` says whether its strongest model was asked, `delegated` is the share of calls that went to others.
    `reused` calls were made for another arm, or before a kill: cost and tokens are as if they had been made anew;
    what was really paid is `paid`. `counted` are the recorded calls that nobody had made before, `run_id` is the run.
    """

    text: str = ""
    data: Any = None
    cost: Money | None = None
    usage: Usage = Usage()
    calls: int = 0
    latency: float = 0.0
    served: tuple[str, ...] = ()
    spent: tuple[Spending, ...] = ()
    escalated: bool | None = None
    delegated: float | None = None
    reused: int = 0
    paid: Drawn | None = None
    counted: tuple[str, ...] = ()
    run_id: str = ""
    failure: Failure | None = None

    @property
    def amount(self) -> Amount:
        """What it drew on the benchmark's budget."""
        if self.paid is None:
            return Amount(self.cost, self.usage.total, self.calls)
        return Amount(self.paid.usd, self.paid.tokens, self.paid.calls)


class OutOfBudgetError(Exception):
    """The benchmark's own budget did not bear an answer: nobody's failure. `spent` is what it had cost until then."""

    def __init__(self, why: str, spent: Answered) -> None:
        self.spent = spent
        super().__init__(why)


class Turn(NamedTuple):
    """Which time an item is asked, the seed that it is sampled by, and the mark of a run that is marked."""

    epoch: int
    seed: int
    mark: str


Taken = Callable[[], Answered]
"""Gives the answer once it has come; raises OutOfBudgetError, or what ends the whole benchmark."""


class Contestant(ABC):
    """An arm that is ready. `digest` is of everything that makes its answers what they are, beside the item."""

    record: ArmRecord
    digest: str
    keeps: bool = True
    """Whether its answers cost anything to have again."""
    held: bool = False
    """Whether the benchmark's budget holds its calls; else what it says it spent is counted as it comes."""

    marked: bool = False
    """Whether its runs are kept, and marked with the answer that they are for."""

    @abstractmethod
    def begin(self, task: Task, turn: Turn, done: Callable[[Taken], None]) -> Callable[[], object]:
        """Answer a task; `done` may be called from any thread. Returns what stops it."""


def digest_of(*parts: Any) -> str:
    """SHA-256 (hex) of JSON data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def short_name(model_id: str) -> str:
    """A model's name in a report: of a recorded one, without the file."""
    return model_id.rpartition("#")[2] if model_id.startswith("replay:") else model_id
