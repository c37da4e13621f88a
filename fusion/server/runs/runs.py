"""Runs of requests: begun in the store, followed by their clients."""

import asyncio

from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.config import ServerTable
from fusion.core.events import Sink, to_both
from fusion.server.catalog import Catalog, ServedPipeline
from fusion.server.dialects.base import ServedRequest
from fusion.server.runs.live import LiveRun
from fusion.server.runs.mapping import options_of, prompt_of


class Runs:
    """Begins the runs of requests, and knows those that are live. `observer` receives the events of all."""

    def __init__(self, fusion: Fusion, table: ServerTable, catalog: Catalog, observer: Sink | None = None) -> None:
        self._observer = observer
        self._fusion = fusion
        self._table = table
        self._catalog = catalog
        self._live: dict[str, LiveRun] = {}

    def live(self, run_id: str) -> LiveRun | None:
        """Return a live run by its id."""
        return self._live.get(run_id)

    async def begin(self, served: ServedPipeline, request: ServedRequest, *, caller: str | None) -> LiveRun:
        """Begin the run of a request. Raises RefusedError, or a kind of UsageError before any call."""
        pipeline = self._catalog.load(served)
        run = LiveRun(
            model=request.model,
            pipeline=pipeline.pipeline.name,
            stage=pipeline.pipeline.answer_stage,
            finishes=self._table.on_disconnect == "finish",
        )
        options = options_of(pipeline, served, request)
        within = self._table.within

        def start() -> RunHandle:
            return self._fusion.start(
                prompt_of(request),
                stream=request.stream,
                on_event=to_both(run.sink, self._observer),
                within=within,
                **options,
            )

        run.follow(await asyncio.to_thread(start))
        self._live[run.run_id] = run
        return run
