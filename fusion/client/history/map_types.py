"""Values of the history of maps: maps, their rows, and the differences of two maps."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from fusion.client.history.run_types import RunSummary
from fusion.core.result import Cost
from fusion.core.types import Failure, FoldedFailure, Value
from fusion.store.rows import RunState


class MapSummary(Value):
    """A map in the history: one pipeline over many rows, each of them a run.

    `rows` are those known so far, by the status of their latest run: `ok`, `partial`, `failed`, and `waiting` for
    those without an end; `held` of these wait for a person. `expected` is their number in the inputs, None if it is
    unknown. `cost` and `calls` are those of all runs of its rows. `seconds` is the time of the latest of its
    `passes`.
    """

    map_id: str
    status: RunState
    pipeline: str
    profile: str
    started: datetime
    ended: datetime | None
    seconds: float
    passes: int
    source: str
    output: str
    expected: int | None
    rows: int
    ok: int
    partial: int
    failed: int
    waiting: int
    held: int = 0
    cost: Cost
    calls: int
    tags: dict[str, str]
    failure: Failure | None

    @property
    def done(self) -> int:
        """Rows with an answer."""
        return self.ok + self.partial


class RowSummary(RunSummary):
    """The latest run of a row of the map `map`. `number` counts its rows from 1, `key` identifies the row."""

    map: str
    number: int
    key: str


class StageCost(Value):
    """Spending of a stage, summed over all rows of a map."""

    stage: str
    calls: int
    tokens: int
    cost: Cost


class MapDetails(Value):
    """A map with its spending by stage, its folded failures, and the newest and slowest of its ended rows.

    `pipeline_file` is the file of the pipeline, None if it had none or was not kept.
    """

    map: MapSummary
    pipeline_file: str | None
    stages: tuple[StageCost, ...]
    failures: tuple[FoldedFailure, ...]
    newest: tuple[RowSummary, ...]
    slowest: tuple[RowSummary, ...]


RowState = Literal["same", "different", "status", "unfinished", "not kept", "only a", "only b"]


class RowPair(Value):
    """The latest runs of one row of two maps, by their ids.

    `same` has equal answers and `different` others; in `status` one of them failed, in `unfinished` one has not
    ended. `only a` and `only b` have no counterpart. `not kept` means that a map kept no answers.
    """

    key: str
    state: RowState
    a: str | None = None
    b: str | None = None


class MapDiff(Value):
    """The differences of two maps, row by row by key.

    `counts` are all rows by state. `rows` are the first that are not the same, in order; `more` counts the others.
    """

    a: MapSummary
    b: MapSummary
    counts: dict[RowState, int] = Field(default={})
    rows: tuple[RowPair, ...]
    more: int
