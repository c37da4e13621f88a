"""Report: the rows of a map as they finish, and its outcome."""

from collections import Counter
from decimal import Decimal
from typing import Any, Literal

from fusion.core.budget import Budget
from fusion.core.errors import BudgetError, FusionError, StageError, Waits
from fusion.core.result import Cost
from fusion.core.types import Balance, Failure, FailureFold, FoldedFailure, Value


class RowResult(Value):
    """A finished row: its key, its answer as `text` and `data`, or its `failure`, and its cost.

    `position` is its place in the inputs, from 1; `number` counts the rows of the map. `kept` is True for a row that
    an earlier pass has done.
    """

    key: str
    number: int
    position: int
    run_id: str
    status: Literal["ok", "partial", "failed"]
    text: str = ""
    data: Any = None
    failure: Failure | None = None
    cost: Cost = Cost()
    seconds: float = 0.0
    kept: bool = False


class MapReport(Value):
    """The outcome of a map.

    `rows` counts those in the inputs that were read, `waiting` those of them without an end. `held` of these
    wait for a person. `kept` of the finished
    ones were done in earlier passes. `cost` is that of all runs of the map so far. `budgets` are those of the store
    that cover it, as they are at its end. `failure` is the reason why it ended early. `failures` are folded, the most
    frequent first.
    """

    map_id: str
    pipeline: str
    status: Literal["ok", "partial", "failed", "interrupted", "waiting"]
    source: str
    output: str
    rows: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    waiting: int = 0
    held: int = 0
    kept: int = 0
    gone: int = 0
    """Lines of the output whose rows are not in the inputs."""
    cost: Cost = Cost()
    budgets: tuple[Balance, ...] = ()
    seconds: float = 0.0
    failures: tuple[FoldedFailure, ...] = ()
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    exit_code: int = 0

    @property
    def done(self) -> int:
        return self.ok + self.partial + self.failed


class Tally:
    """Counts the rows of a pass as they finish. Its memory does not grow with them."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.kept = 0
        self.usd = Decimal(0)
        self.unknown_calls = 0
        self._failures = FailureFold()

    @property
    def done(self) -> int:
        return self.states.total()

    @property
    def failed(self) -> int:
        return self.states["failed"] + self.states["partial"]

    def add(self, row: RowResult) -> None:
        self.states[row.status] += 1
        self.kept += row.kept
        if not row.kept:
            self.usd += row.cost.usd
            self.unknown_calls += row.cost.unknown_calls
        if row.failure is not None:
            self._failures.add(row.failure, row.key)

    @property
    def failures(self) -> tuple[FoldedFailure, ...]:
        return self._failures.folded


def ending_of(
    tally: Tally, failure: BaseException | None, *, too_many: bool, held: int, interrupted: bool
) -> tuple[str, int]:
    """Return the status of a map at its end, and the exit code of its process."""
    if failure is not None:
        return "failed", failure.exit_code if isinstance(failure, FusionError) else 1
    if interrupted:
        return "interrupted", 130
    code = StageError.exit_code if too_many else 0
    if held:
        return "waiting", code or Waits.exit_code
    return ("partial" if tally.failed else "ok"), code


def overdue(budget: Budget) -> BudgetError:
    """Return the error of a map that has taken longer than its budget allows."""
    level = next(one for one in budget.levels if one.limits.seconds is not None)
    return BudgetError(
        f"the map took longer than the {level.limits.seconds:g} s of {level.name}; raise `seconds`",
        limit="seconds",
        level=level.name,
    )
