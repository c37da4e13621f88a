"""Starts: the ways in which the run of a request starts, on any thread."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.budget import limits_of
from fusion.core.errors import StoreError
from fusion.core.events import Sink
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.base import ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.runs.mapping import budget_of, options_of
from fusion.server.runs.messages import Continuation, continuation_of

CALLER: Final = "caller"
REQUEST: Final = "request"
"""Tags of the runs of requests: the name of the caller, and the digest of the request."""


class Starts:
    """Starts runs of a Fusion `within` a shared budget."""

    def __init__(self, fusion: Fusion, within: str | None) -> None:
        self._fusion = fusion
        self._within = within

    def new(
        self,
        pipeline: LoadedPipeline,
        served: ServedPipeline,
        request: ServedRequest,
        *,
        tags: Mapping[str, str],
        on_event: Sink,
    ) -> RunHandle:
        """Start the run of a request. One that ends in results of tools goes on with the run that called them."""
        known = continuation_of(request.messages)
        if known is not None and self._goes_on(known, pipeline, tags.get(CALLER)):
            with suppress(StoreError):  # its words are no longer kept
                return self._continued(known, pipeline, served, request, tags=tags, on_event=on_event)
        options = options_of(pipeline, served, request)
        options["tags"] |= tags
        return self._fusion.start(stream=request.stream, on_event=on_event, within=self._within, **options)

    def resumed(self, run_id: str, request: ServedRequest, on_event: Sink) -> RunHandle:
        """Resume the run of an earlier request."""
        return self._fusion.start_resume(run_id, stream=request.stream, on_event=on_event, within=self._within)

    def _goes_on(self, known: Continuation, pipeline: LoadedPipeline, caller: str | None) -> bool:
        """Return True for a run of this pipeline and this caller."""
        self._fusion.store.flush()
        row = self._fusion.store.run(known.run_id)
        return row is not None and row.pipeline == pipeline.pipeline.name and row.tags.get(CALLER) == caller

    def _continued(
        self,
        known: Continuation,
        pipeline: LoadedPipeline,
        served: ServedPipeline,
        request: ServedRequest,
        *,
        tags: Mapping[str, str],
        on_event: Sink,
    ) -> RunHandle:
        return self._fusion.start_continue(
            known.run_id,
            known.results,
            stream=request.stream,
            on_event=on_event,
            within=self._within,
            budget=budget_of(pipeline, served, limits_of(request.budget)),
            tags={**request.tags, **tags},
            answer=request.answer if request.answer.given else None,
        )
