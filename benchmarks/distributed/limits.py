"""Limits: the throughput of many nodes on one database, and the first resource that ends its growth."""

from dataclasses import dataclass
from typing import Final

from benchmarks.distributed.assumptions import Assumptions

_ROUNDS: Final = 200
_WAITED: Final = 1.5
"""Commits that a row waits for: the rest of the one under way, and its own."""


@dataclass(frozen=True)
class Load:
    """The state of a fleet at work: runs/s, seconds of a run, and the load of the database."""

    nodes: int
    runs: float
    run_seconds: float
    commit_ms: float
    uses: dict[str, float]

    @property
    def first(self) -> str:
        """Return the resource that is used most, with its use in percent."""
        name = max(self.uses, key=lambda one: self.uses[one])
        return f"{name} {100 * self.uses[name]:.0f}%"

    @property
    def over(self) -> list[str]:
        """Return the resources that would be used beyond their limits: the fleet cannot work so."""
        return [name for name, use in self.uses.items() if use > 1.005]


def load(nodes: int, given: Assumptions, *, notify: bool = True) -> Load:
    """Return the state in which runs, commits and their waits agree."""
    most = ceiling(nodes, given)
    commit = given.commit_ms / 1000
    for _ in range(_ROUNDS):
        seconds = given.run_seconds + given.waits * _WAITED * commit
        runs = min(nodes * given.slots / seconds, most)
        commit = (commit + commit_seconds(nodes, runs, given, notify=notify)) / 2
    used = uses(nodes, runs, commit, given)
    return Load(nodes, runs, nodes * given.slots / runs, commit * 1000, used)


def ceiling(nodes: int, given: Assumptions) -> float:
    """Return the runs/s that processors, disk and providers allow."""
    return min(
        nodes * given.node_cores / given.run_cpu_ms * 1000,
        given.server_cores / server_seconds(given),
        given.wal_mb * 1e6 / given.run_bytes,
        given.provider_calls / given.calls,
    )


def server_seconds(given: Assumptions) -> float:
    """Return the CPU seconds of the database server for a run."""
    return given.written * given.row_cpu_us / 1e6


def commit_seconds(nodes: int, runs: float, given: Assumptions, *, notify: bool) -> float:
    """Return the seconds of a commit.

    A node's writer commits what has come meanwhile, so it commits once in this time at most. Commits that notify are
    made one after another in the whole database: they queue up once all nodes together want more.
    """
    alone = given.commit_ms / 1000
    wanted = min(nodes / alone, runs * given.waits)
    return max(alone, nodes / given.notified_commits) if notify and wanted > given.notified_commits else alone


def uses(nodes: int, runs: float, commit: float, given: Assumptions) -> dict[str, float]:
    """Return the use of each resource as a share of its limit, and the share of a run that is waiting for commits."""
    connections = nodes * given.connections
    waited = given.waits * _WAITED * commit
    return {
        "waits for commits": waited / (waited + given.run_seconds),
        "processors of nodes": runs * given.run_cpu_ms / 1000 / (nodes * given.node_cores),
        "processors of the database": runs * server_seconds(given) / given.server_cores,
        "write-ahead log": runs * given.run_bytes / 1e6 / given.wal_mb,
        "connections": connections / given.max_connections,
        "memory of connections": connections * given.backend_mb / 1000 / given.server_gb,
        "providers": runs * given.calls / given.provider_calls,
    }


def breaks(given: Assumptions) -> dict[str, float]:
    """Return the number of nodes at which each resource alone ends the growth; of waits, at which they take 10%."""
    runs = given.slots / given.run_seconds
    waited = given.run_seconds / 9 / (given.waits * _WAITED)
    return {
        "providers": given.provider_calls / given.calls / runs,
        "commits that notify, one after another (waits of 10%)": waited * given.notified_commits,
        "connections": given.max_connections / given.connections,
        "processors of the database": given.server_cores / server_seconds(given) / runs,
        "write-ahead log": given.wal_mb * 1e6 / given.run_bytes / runs,
        "updates of one account's row (a block each 10 s)": given.lease_updates * 10,
        "memory of connections": given.server_gb * 1000 / (given.connections * given.backend_mb),
    }
