"""Live run: a run in this process that answers requests; its events cross to the loop of the server."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from fusion.client.handle import RunHandle
from fusion.core.errors import failure_of
from fusion.core.events import Delta, EventBase, Restarted, RunFinished
from fusion.core.log import LOG
from fusion.core.result import Result
from fusion.server.runs.log import EventLog, Place

_REST: Final = 0.02
"""Seconds after events were taken before further ones wake the server's loop; pieces of the answer do so at once."""


class LiveRun:
    """A run that answers a request, as ServedRun. Its Deltas since the last Restarted are the text of its answer.

    `stage` is the stage that writes the answer, None if its text is known at the end only. The run stops when the
    last of its clients has left, unless it `finishes`. `ended` is called with its Result.
    """

    def __init__(
        self,
        *,
        model: str,
        pipeline: str,
        stage: str | None,
        finishes: bool,
        created: int,
        ended: "Callable[[LiveRun, Result], None]",
    ) -> None:
        self.run_id = ""
        self.ignored: tuple[str, ...] = ()
        """Options of the answer without an effect."""
        self.model = model
        self.pipeline = pipeline
        self.created = created
        self.stopping = False
        """True once it was asked to stop."""
        self._stage = stage
        self._finishes = finishes
        self._ended = ended
        self._clients = 0
        self._handle: RunHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._incoming: deque[EventBase] = deque()
        self._called = False
        self._resting = False
        self._log = EventLog()
        self._text: list[str] = []
        self._step: str | None = None
        self._result: Result | None = None
        self._changed = asyncio.Event()

    # On the loop of the runs, or on any thread.

    def sink(self, event: EventBase) -> None:
        """Take an event of the run."""
        self._incoming.append(event)
        if self._called or (self._resting and not isinstance(event, Delta)):
            return
        self._called = True
        self._call(self._take)

    def follow(self, handle: RunHandle) -> None:
        """Take the end of the run from its handle."""
        self._handle, self.run_id, self.ignored = handle, handle.run_id, handle.ignored
        handle.when_over(lambda: self._call(self._end))

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop of the server is closed
            self._loop.call_soon_threadsafe(function)

    # On the loop of the server.

    @property
    def over(self) -> bool:
        """True once the Result is known."""
        return self._result is not None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    def join(self) -> None:
        """Count a client of the run."""
        self._clients += 1

    def leave(self) -> None:
        """Count a client less. Without any, the run is stopped."""
        self._clients -= 1
        if self._clients <= 0 and not self._finishes:
            self.stop()

    def stop(self) -> None:
        """Ask the run to stop, and return at once."""
        if self._handle is not None and not self.over:
            self.stopping = True
            self._handle.stop()

    async def result(self) -> Result:
        """Return the Result, also of a failed run."""
        while self._result is None:
            await self._changed.wait()
        return self._result

    async def __aiter__(self) -> AsyncIterator[EventBase]:
        place = Place()
        while True:
            changed, over = self._changed, self.over
            for event in self._log.since(place):
                yield event
            if over:
                return
            await changed.wait()

    def _take(self) -> None:
        self._called = False
        while self._incoming:
            self._add(self._incoming.popleft())
        self._tell()
        if not self._resting and not self.over:
            self._resting = True
            self._loop.call_later(_REST, self._rested)

    def _rested(self) -> None:
        self._resting = False  # before the look at what has come: a sink that still saw it resting has added by then
        if self._incoming:
            self._take()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _add(self, event: EventBase) -> None:
        match event:
            case RunFinished():
                return  # told once the Result is known
            case Delta():
                self._add_piece(event)
            case Restarted():
                if event.stage == self._stage:
                    self._restart(event)
            case _:
                self._log.append(event)

    def _add_piece(self, event: Delta) -> None:
        if event.stage != self._stage or not event.text:
            return
        if self._step not in (None, event.step):
            self._restart(Restarted(run_id=event.run_id, stage=event.stage, step=event.step))
        self._step = event.step
        self._text.append(event.text)
        self._log.append(event)

    def _restart(self, event: Restarted) -> None:
        self._step = None
        if self._text:
            self._text.clear()
            self._log.append(event)

    def _end(self) -> None:
        result = self._last()
        self._handle = None  # which leads back here: without it the run is freed at once, by no garbage collection
        self._take()
        if result.status not in ("failed", "waiting"):
            self._complete(result)
        end = RunFinished(run_id=result.run_id, status=result.status, seconds=result.seconds, failure=result.error)
        self._log.append(end)
        self._result = result
        self._tell()
        self._ended(self, result)

    def _last(self) -> Result:
        assert self._handle is not None
        try:
            return self._handle.wait(0)
        except Exception as error:  # noqa: BLE001 - the border of a request
            LOG.exception("run %s ended by an internal error", self.run_id)
            return Result(
                run_id=self.run_id,
                pipeline=self.pipeline,
                profile="",
                started=datetime.fromtimestamp(self.created, UTC),
                status="failed",
                error=failure_of(error),
            )

    def _complete(self, result: Result) -> None:
        """Add what the pieces lack of the answer."""
        given, stage = "".join(self._text), self._stage or ""
        if not result.text.startswith(given):
            self._restart(Restarted(run_id=result.run_id, stage=stage, step=self._step or ""))
            given = ""
        if rest := result.text[len(given) :]:
            self._log.append(Delta(run_id=result.run_id, stage=stage, step=self._step or "", text=rest))
