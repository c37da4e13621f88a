"""Assumptions: the figures that the model of many nodes rests on, each with its unit and its source."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Final, NamedTuple

_SMALL: Final = "measured: 2 shared cores, PostgreSQL 15.18, fsync on, 29 November 2026"
_DATABASE: Final = "measured: database.py, 2 shared cores, load 8-11"
_CHOSEN: Final = "chosen: the work to be done"
_SERVER: Final = "chosen: a database server with 16 cores and 64 GB"
_PATTERN: Final = "measured: a map of 2,000 rows of three calls into a store"


def figure(value: float, unit: str, source: str) -> float:
    """Return a field of a figure with its unit and source."""
    made: float = field(default=value, metadata={"unit": unit, "source": source})
    return made


@dataclass(frozen=True)
class Assumptions:
    """The figures, in the units that each of them names."""

    calls: float = figure(3, "calls a run", _CHOSEN)
    call_seconds: float = figure(1.0, "s a call", _CHOSEN)
    rows: float = figure(20_000, "rows a node", _CHOSEN)
    slots: float = figure(200, "runs at once on a node", _CHOSEN)
    slice_rows: float = figure(50, "rows a slice", _CHOSEN)
    usd_a_run: float = figure(0.003, "USD a run", _CHOSEN)
    worst_usd: float = figure(0.004, "USD reserved for a call in flight", _CHOSEN)
    headroom: float = figure(1.2, "the cap, in expected costs of the map", _CHOSEN)

    node_cores: float = figure(2, "cores a node", _CHOSEN)
    run_cpu_ms: float = figure(8.0, "ms CPU a run on a node", "measured: kills.py, three calls over HTTP, all in")

    written: float = figure(28, "rows written a run, updates included", _PATTERN)
    waits: float = figure(5, "commits that a run waits for, one after another", "calls + 2: see the journal's design")
    run_bytes: float = figure(6_800, "bytes on disk a run", _PATTERN)
    row_cpu_us: float = figure(36, "us CPU of the server a row", _SMALL)
    commit_ms: float = figure(1.0, "ms a commit of one connection", _SMALL)
    notified_commits: float = figure(850, "commits/s with NOTIFY behind each, all together", _DATABASE)
    connections: float = figure(7, "connections a node", "writer, locks, notifications, four readers")
    backend_mb: float = figure(1.7, "MB of memory a connection", _DATABASE)
    lease_updates: float = figure(600, "updates/s of one account's row", _DATABASE)
    beat_seconds: float = figure(2, "s between heartbeats of a node", "fusion worker")

    server_cores: float = figure(16, "cores of the database server", _SERVER)
    server_gb: float = figure(64, "GB of memory of the database server", _SERVER)
    max_connections: float = figure(500, "max_connections", "chosen: PostgreSQL's default is 100")
    wal_mb: float = figure(400, "MB/s of the write-ahead log", _SERVER)

    takeover_seconds: float = figure(
        10, "s until others have the slices of a dead node", "three heartbeats, and a look"
    )
    restart_seconds: float = figure(60, "s until a dead node is replaced", "chosen: a pod on a node that is there")
    deaths_a_day: float = figure(1, "deaths a node and day", "chosen: spot machines; 24 is one an hour")
    provider_calls: float = figure(float("inf"), "calls/s of the providers", "chosen: no limit; 500 is 30,000 rpm")

    @property
    def run_seconds(self) -> float:
        """Return the seconds of a run without the waits for its journal."""
        return self.calls * self.call_seconds

    def having(self, settings: list[str]) -> "Assumptions":
        """Return these figures with others in their place, each given as `name=value`."""
        given = dict(setting.partition("=")[::2] for setting in settings)
        if unknown := sorted(given.keys() - {one.name for one in stated(self)}):
            raise SystemExit(f"unknown figure {unknown[0]!r}; see the list that the model prints")
        return replace(self, **{name: float(value) for name, value in given.items()})


class Stated(NamedTuple):
    """A figure as it is printed."""

    name: str
    value: float
    unit: str
    source: str


def stated(given: Assumptions) -> Iterator[Stated]:
    """Yield the figures with their units and sources."""
    for one in fields(given):
        yield Stated(one.name, getattr(given, one.name), one.metadata["unit"], one.metadata["source"])
