"""Runs of requests: begun in the store, attached to, resumed, replayed, and ended with the server."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.config import ServerTable
from fusion.core.errors import StoreError
from fusion.core.events import Sink, to_both
from fusion.core.result import Result
from fusion.engine.durable import record_of, result_of
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.base import INTERRUPTED, KEPT, RefusedError, ServedRequest
from fusion.server.catalog import Catalog, ServedPipeline
from fusion.server.runs.gate import Gate
from fusion.server.runs.identity import WINDOW, Identity, Recent
from fusion.server.runs.kept import KeptRun
from fusion.server.runs.live import LiveRun
from fusion.server.runs.said import keep_said
from fusion.server.runs.starts import CALLER as CALLER
from fusion.server.runs.starts import REQUEST, Starts
from fusion.server.runs.tally import Tally
from fusion.store.rows import Decision, RunFilter, RunRow

AnyRun = LiveRun | KeptRun
Check = Callable[[LoadedPipeline, str], None]
"""Raises RefusedError for a pipeline, by its name, that a request cannot run."""
Wait = Callable[[Coroutine[Any, Any, bool]], Awaitable[bool | None]]
"""Awaits a turn as long as the client is there; None once it is gone."""


class GoneError(RefusedError):
    """The client went away before its run began."""

    def __init__(self) -> None:
        super().__init__("the client is gone", status=499, final=False)


class Runs:
    """Begins the runs of requests, and knows those that are live. `observer` receives the events of all."""

    def __init__(self, fusion: Fusion, table: ServerTable, catalog: Catalog, observer: Sink | None = None) -> None:
        self._observer = observer
        self.tally = Tally()
        self.gate = Gate(table.concurrency, table.queue)
        self.closing = False
        self._stopped = False
        self._fusion = fusion
        self._table = table
        self._catalog = catalog
        self._starts = Starts(fusion, table.within)
        self._live: dict[str, LiveRun] = {}
        self._recent = Recent()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def live(self, run_id: str) -> LiveRun | None:
        """Return a live run by its id."""
        return self._live.get(run_id)

    async def begin(
        self,
        served: ServedPipeline,
        request: ServedRequest,
        *,
        caller: str | None = None,
        identity: Identity | None = None,
        check: Check | None = None,
        wait: Wait | None = None,
    ) -> AnyRun:
        """Return the run of a request, with its client counted: a new one, or that of the request that it repeats.

        `check` is called with the pipeline of a new one, and its name. Raises RefusedError, as `check` may, or a kind
        of UsageError before any call.
        """
        if self.closing:
            raise _closing()
        if identity is None or not identity.repeats:
            return await self._new(served, request, caller, identity, check, wait)
        async with self._turn(identity.digest):
            run_id = self._recent.get(identity.digest) or await asyncio.to_thread(self._stored, identity.digest)
            run = None if run_id is None else await self._again(run_id, served, request, wait)
            if run is None:
                return await self._new(served, request, caller, identity, check, wait)
            self._recent.put(identity.digest, run.run_id)
            return run

    async def find(self, run_id: str, *, model: str, caller: str | None = None) -> AnyRun | None:
        """Return a run of this caller that is live or has ended, with its client counted; None for no such run."""
        row = await asyncio.to_thread(self._row, run_id)
        if row is None or row.tags.get(CALLER) != caller:
            return None
        run: AnyRun | None = self._live.get(run_id) or await asyncio.to_thread(self._kept, row, model)
        if run is not None:
            run.join()
        return run

    async def resume(
        self, run_id: str, served: ServedPipeline, request: ServedRequest, *, wait: Wait | None = None
    ) -> AnyRun | None:
        """Go on with a run, or attach to it if it is live, with its client counted; None if that cannot be."""
        if self.closing:
            raise _closing()
        async with self._turn(run_id):
            return await self._again(run_id, served, request, wait)

    async def go_on(self, row: RunRow) -> None:
        """Go on with a run that waited for a person; no client is needed. Raises the errors of `Fusion.resume`."""
        async with self._turn(row.run_id):
            if self.closing or row.run_id in self._live:
                return
            request = ServedRequest(model=row.pipeline, messages=(), stream=True, background=True)
            run = self._run(request, row.pipeline, await asyncio.to_thread(self._answer_stage, row), int(row.started))
            sink = to_both(run.sink, self._observer)
            await self._launch(run, partial(self._starts.resumed, row.run_id, request, sink), None)
            run.leave()

    def _answer_stage(self, row: RunRow) -> str | None:
        return record_of(self._fusion.store, row).pipeline.answer_stage

    def close(self) -> None:
        """Take no more requests; stop what runs after the grace of the settings."""
        self.closing = True
        asyncio.get_running_loop().call_later(self._table.grace, self._stop_all)

    async def end(self) -> None:
        """Wait for the ends of all runs."""
        for run in list(self._live.values()):
            await run.result()

    def _stop_all(self) -> None:
        self._stopped = True
        for run in list(self._live.values()):
            run.stop()

    def _turn(self, digest: str) -> asyncio.Lock:
        return self._turns.setdefault(digest, asyncio.Lock())

    async def _new(
        self,
        served: ServedPipeline,
        request: ServedRequest,
        caller: str | None,
        identity: Identity | None,
        check: Check | None,
        wait: Wait | None,
    ) -> LiveRun:
        pipeline = self._catalog.load(served)
        if check is not None:
            check(pipeline, served.name)
        tags = {} if caller is None else {CALLER: caller}
        tags |= {} if identity is None else {REQUEST: identity.digest}
        run = self._run(request, pipeline.pipeline.name, pipeline.pipeline.answer_stage)
        sink = to_both(run.sink, self._observer)
        start = partial(self._starts.new, pipeline, served, request, tags=tags, on_event=sink)
        await self._launch(run, start, wait)
        if request.kept and self._fusion.keeps == "full":
            self._fusion.store.put(Decision(run.run_id, "", None, KEPT, dict(request.kept)))
        if identity is not None:
            self._recent.put(identity.digest, run.run_id)
        return run

    async def _again(
        self, run_id: str, served: ServedPipeline, request: ServedRequest, wait: Wait | None
    ) -> AnyRun | None:
        """Return the run of an earlier request: attached to, replayed or resumed; None if that cannot be."""
        live = self._live.get(run_id)
        if live is not None and not live.stopping:
            self.tally.reused["attached"] += 1
            live.join()
            return live
        if live is not None:
            await live.result()
        row = await asyncio.to_thread(self._row, run_id)
        if row is None:
            return None
        kept = await asyncio.to_thread(self._kept, row, request.model)
        if kept is not None:
            self.tally.reused["replayed"] += 1
            return kept
        return await self._resumed(row, served, request, wait)

    async def _resumed(
        self, row: RunRow, served: ServedPipeline, request: ServedRequest, wait: Wait | None
    ) -> LiveRun | None:
        pipeline = self._catalog.load(served).pipeline
        run = self._run(request, pipeline.name, pipeline.answer_stage, created=int(row.started))

        start = partial(self._starts.resumed, row.run_id, request, to_both(run.sink, self._observer))
        if row.status == "running":  # its server died
            keep_said(self._fusion.store, row.run_id, None)
        try:
            await self._launch(run, start, wait)
        except StoreError:  # its prompts were not kept
            return None
        self.tally.reused["resumed"] += 1
        return run

    def _run(self, request: ServedRequest, pipeline: str, stage: str | None, created: int | None = None) -> LiveRun:
        return LiveRun(
            model=request.model,
            pipeline=pipeline,
            stage=stage,
            finishes=request.background or self._table.on_disconnect == "finish",
            created=created or int(time.time()),
            ended=self._ended,
        )

    async def _launch(self, run: LiveRun, start: Callable[[], RunHandle], wait: Wait | None) -> None:
        """Start a run once there is room for it, and count its client."""
        if not self.gate.try_enter():
            turn = self.gate.enter()
            if not await (turn if wait is None else wait(turn)):
                raise GoneError
        if self._stopped:
            self.gate.leave()
            raise _closing()
        starting = asyncio.ensure_future(asyncio.to_thread(start))
        try:
            handle = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._stop_unwanted)
            raise
        except BaseException:
            self.gate.leave()
            raise
        run.join()
        run.follow(handle)
        self._live[run.run_id] = run
        if self._stopped:  # while it started
            run.stop()

    def _stop_unwanted(self, starting: "asyncio.Future[RunHandle]") -> None:
        self.gate.leave()
        if not starting.cancelled() and starting.exception() is None:
            starting.result().stop()

    def _ended(self, run: LiveRun, result: Result) -> None:
        self._live.pop(run.run_id, None)
        self.gate.leave(result.seconds)
        self.tally.count(result)
        stopped = result.error is not None and result.error.reason == INTERRUPTED
        if stopped and run.text and self._fusion.keeps == "full":
            keep_said(self._fusion.store, run.run_id, run.text)

    def _stored(self, digest: str) -> str | None:
        """Return the latest run of a request in the store, as after a restart of the server."""
        self._fusion.store.flush()
        rows = self._fusion.store.runs(RunFilter(tags={REQUEST: digest}), limit=1)
        return next((row.run_id for row in rows if row.started > time.time() - WINDOW), None)

    def _row(self, run_id: str) -> RunRow | None:
        self._fusion.store.flush()
        return self._fusion.store.run(run_id)

    def _kept(self, row: RunRow, model: str) -> KeptRun | None:
        if row.status not in ("ok", "partial"):
            return None
        with suppress(StoreError):
            return KeptRun(result_of(self._fusion.store, row), model=model)
        return None


def _closing() -> RefusedError:
    return RefusedError(
        "the server is shutting down",
        status=503,
        kind="server_error",
        code="shutting_down",
        final=False,
        retry_after=5,
    )
