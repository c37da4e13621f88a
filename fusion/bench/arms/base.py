"""Contestant: the interface of an arm. An arm gets the prompt and inputs of an item, never its gold answer."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.bench.arms.reviews import Draft
from fusion.bench.report.results import ArmRecord, Paid, Response
from fusion.bench.tasks import Task
from fusion.core.budget import Amount
from fusion.models.providers.replay import PREFIX

BENCHMARK: Final = "the benchmark"
"""The name of the budget that all runs of a benchmark share."""
ANSWER: Final = "answer"
"""The tag of a run that holds the mark of its answer."""


class ArmResponse(Response):
    """A response before it is scored.

    `paid` is the new spend of a response with reused calls, None if it is the whole cost. `counted` holds the ids of
    recorded calls that no earlier response made. `run_id` is its run. `drafts` are the items that its reviews judged.
    """

    data: Any = None
    paid: Paid | None = None
    counted: tuple[str, ...] = ()
    run_id: str = ""
    drafts: tuple[Draft, ...] = ()

    @property
    def amount(self) -> Amount:
        """The amount to settle in the benchmark's budget."""
        if self.paid is None:
            return Amount(self.cost, self.usage.total, self.calls)
        return Amount(self.paid.usd, self.paid.tokens, self.paid.calls)


class OutOfBudgetError(Exception):
    """The benchmark's own budget stopped a response: not a failure of the arm. `spent` is its cost so far."""

    def __init__(self, why: str, spent: ArmResponse) -> None:
        self.spent = spent
        super().__init__(why)


class Trial(NamedTuple):
    """The epoch of a call, its sampling seed, and the mark of its run if the arm is marked."""

    epoch: int
    seed: int
    mark: str


Completion = Callable[[], ArmResponse]
"""Returns the response. Raises OutOfBudgetError, or an error that ends the benchmark."""


class Contestant(ABC):
    """An arm ready to answer. `digest` covers everything but the item that determines its responses."""

    record: ArmRecord
    digest: str
    keeps: bool = True
    """True if responses are worth a checkpoint: False where they are free to repeat."""
    held: bool = False
    """True if the benchmark's budget reserves its calls. Otherwise its spend is counted after each response."""
    marked: bool = False
    """True if its runs are stored, each tagged with the mark of its answer."""

    @abstractmethod
    def begin(self, task: Task, trial: Trial, done: Callable[[Completion], None]) -> Callable[[], object]:
        """Start to answer a task. Returns a function that stops it. Any thread may call `done`."""


def digest_of(*parts: Any) -> str:
    """Return the SHA-256 (hex) of JSON data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def short_name(model_id: str) -> str:
    """Return the name of a model in a report: a recorded one without its file."""
    return model_id.rpartition("#")[2] if model_id.startswith(PREFIX) else model_id


def resolve_model(model_id: str, near: Path) -> str:
    """Return a model id; the file of a recorded one is looked up in the folder `near` first."""
    place, sign, name = model_id.removeprefix(PREFIX).rpartition("#")
    if model_id.startswith(PREFIX) and sign and (near / place).exists():
        return f"{PREFIX}{near / place}#{name}"
    return model_id
