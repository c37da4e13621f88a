"""Service: a Fusion, the pipelines that it serves, and the runs of its requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.client.budgets import balances
from fusion.client.client import Fusion, shared_budget
from fusion.core.config import ServerTable
from fusion.core.types import Balance
from fusion.pipeline.loader import PipelineGiven
from fusion.server.catalog import Catalog
from fusion.server.guard.bodies import Bodies
from fusion.server.runs.people import People
from fusion.server.runs.progress import Progress
from fusion.server.runs.runs import Runs


@dataclass(frozen=True, slots=True)
class Service:
    """A Fusion with a store, the bounds of requests, the pipelines that it serves, and their runs.

    `progress` is that of all runs of this process, for pages that watch them.
    """

    fusion: Fusion
    table: ServerTable
    catalog: Catalog
    runs: Runs
    bodies: Bodies
    progress: Progress
    people: People

    @classmethod
    def of(
        cls, fusion: Fusion, table: ServerTable, pipelines: Mapping[str, PipelineGiven] | None = None
    ) -> "Service":
        """Return the service of a Fusion. Raises UsageError for one without a store, and for an unknown budget."""
        fusion.store  # noqa: B018 - raises without one
        shared_budget(fusion, table.within)
        catalog = Catalog(fusion, table, pipelines)
        progress = Progress()
        runs = Runs(fusion, table, catalog, progress.take)
        return cls(fusion, table, catalog, runs, Bodies(table.max_body), progress, People(fusion, runs))

    def budgets(self) -> Sequence[Balance]:
        """Return the budgets with a period, with what is spent and left of them. Blocks, and raises StoreError."""
        return balances(self.fusion.store, self.fusion.settings)
