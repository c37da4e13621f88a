"""Rows of maps: one pipeline over many inputs, each of them a run.

Times are seconds since 1970 (UTC). Money is a Decimal of US dollars; None if it is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from fusion.core.types import Failure, Money
from fusion.store.encoding import Json
from fusion.store.rows.runs import RunStatus, Started


@dataclass(frozen=True, slots=True)
class MapStarted:
    """A map starts: one pipeline over many rows of `source`, each of them a run, with their answers in `output`."""

    map_id: str
    pipeline: str
    profile: str
    started: float
    tags: Mapping[str, str]
    source: str
    output: str


@dataclass(frozen=True, slots=True)
class MapPass:
    """A process starts or resumes a map; passes count from 1. The map is `running` again.

    `record` is the JSON of the part of the record that all rows share, `fingerprint` its digest. It replaces that of
    an earlier pass with the same digest, which may have other limits and prices. `expected` is the number of rows,
    None if it is unknown.
    """

    map_id: str
    number: int
    started: float
    fingerprint: str
    record: Json
    expected: int | None


@dataclass(frozen=True, slots=True)
class MapEnded:
    """A map ends in this pass."""

    map_id: str
    number: int
    status: RunStatus
    ended: float
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class RowStarted:
    """A row of a map gets a run: its first, or a new generation. `number` counts the rows of a map from 1.

    The record of `run` has the inputs only; `shared` is the fingerprint of the rest. `position` counts the rows of
    the pass from 1.
    """

    map_id: str
    number: int
    key: str
    number_of_pass: int
    position: int
    shared: str
    run: Started


@dataclass(frozen=True, slots=True)
class RowSeen:
    """A row of an earlier pass is in the inputs again."""

    map_id: str
    number: int
    number_of_pass: int
    position: int


@dataclass(frozen=True, slots=True)
class LinesFound:
    """Lines of the output of a map, by the key of their row; they replace those found before if `first` is True."""

    map_id: str
    first: bool
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map in the history. `passes` counts its starts and resumes; `expected` is the number of rows, if it is known.

    `seconds` is the time of the latest pass, `resumed` its start.
    """

    map_id: str
    pipeline: str
    profile: str
    status: RunStatus
    started: float
    ended: float | None
    seconds: float
    passes: int
    tags: Mapping[str, str]
    source: str
    output: str
    expected: int | None
    fingerprint: str
    failure: Failure | None
    resumed: float


class MapCounts(NamedTuple):
    """Rows of a map by the status of their latest run, and the spending of all their runs.

    `waiting` counts rows without an end; `held` of them wait for a person. Open attempts of unfinished runs count
    with their worst case.
    """

    ok: int
    partial: int
    failed: int
    waiting: int
    usd: Decimal
    unknown_calls: int
    calls: int
    tokens: int
    held: int = 0

    @property
    def rows(self) -> int:
        return self.ok + self.partial + self.failed + self.waiting


class MapEntry(NamedTuple):
    """A row of a map with its latest run. `sessions` is 0 for a run that has not begun.

    `seen` is the latest pass that had the row in its inputs, `position` its place there. `line` is the state of its
    line in the output when the pass began; None without one.
    """

    number: int
    key: str
    run_id: str
    status: RunStatus
    sessions: int
    fingerprint: str
    usd: Money
    seen: int
    position: int
    line: str | None


RowOrder = Literal["first", "last", "slowest"]
"""Order of the rows of a map: by number, up or down, or by the time of their runs."""
