"""Service: a worker that serves the queue of a store with one node, until it drains or loses the store."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fusion.bulk.executors.base import RowEnd, Slice, Terms
from fusion.bulk.executors.ends import packed
from fusion.bulk.executors.node import GRACE, Node
from fusion.core.errors import RunBusyError, StoreError, UnfitError
from fusion.core.types import Failure, Value
from fusion.store.base import RunLock, Store
from fusion.store.lookup import bury_dead
from fusion.store.slices import BEAT, DEATHS, Taken, WorkerRow, lock_of_worker

_POLL: Final = 2.0
"""Seconds after which the queue is read without a notice from it."""
_TELL: Final = 0.5
"""Seconds between two tellings of the ends of a slice that still runs."""
_LOST: Final = "this worker counts as dead in the queue"


class News(Value):
    """An incident in the life of a worker. `message` says it all; the others are for programs."""

    type: Literal["serving", "took", "row_failed", "refused", "gave_up", "buried", "draining", "lost", "ended"]
    at: float
    worker: str
    message: str
    map: str | None = None
    rows: int | None = None
    failure: Failure | None = None


Tell = Callable[[News], object]


@dataclass
class _Held:
    """A slice that this worker runs: the rows that are left, and ends that are not told yet."""

    taken: Taken
    left: dict[int, None]
    ends: list[RowEnd] = field(default_factory=list)
    stopped: bool = False
    task: "asyncio.Task[None] | None" = None

    def end(self, end: RowEnd) -> None:
        self.left.pop(end.number, None)
        self.ends.append(end)


class Service:
    """Takes slices from the queue of a store, runs them on a node, and tells their ends.

    `serve` returns once the worker has drained, or has found no work for `idle` seconds. It raises StoreError when
    the store is lost: rows that ran are interrupted then, and another service may begin. `before` is the worker of
    such a one, whose slices go back.
    """

    def __init__(
        self,
        store: Store,
        node: Node,
        me: WorkerRow,
        tell: Tell,
        *,
        idle: float | None = None,
        before: str | None = None,
    ) -> None:
        self._store = store
        self._slices = store.slices
        self._node = node
        self._me = me
        self._tell_of = tell
        self._idle = idle
        self._before = before
        self._held: dict[int, _Held] = {}
        self._wake = asyncio.Event()
        self._quiet_since = time.monotonic()
        self._draining = False
        self._none_waits = False
        self._work: asyncio.TaskGroup

    async def serve(self) -> None:
        """Serve the queue to the end."""
        me, loop = self._me, asyncio.get_running_loop()
        lock = await asyncio.to_thread(self._store.claim, lock_of_worker(me.worker))
        if lock is None:
            raise RunBusyError(f"the worker {me.worker!r} runs already")

        def heard() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._look)

        if self._before is not None:
            await self._do(self._slices.leave, self._before)
        await self._do(self._slices.enter, me)
        listener = await self._do(self._slices.listen, None, heard)
        try:
            async with asyncio.TaskGroup() as work:
                self._work = work
                helpers = [
                    work.create_task(one)
                    for one in (self._beats(), self._tells(), self._buries(), self._watches(lock))
                ]
                self._news("serving", f"worker {me.name} serves {self._store.where}, {me.concurrency} rows at once")
                await self._take_slices()
                await self._wait_for_slices()
                for task in helpers:
                    task.cancel()
            await self._do(self._slices.leave, me.worker)
            self._news("ended", f"worker {me.name} has ended")
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            listener.close()
            lock.release()

    async def drain(self, grace: float = GRACE) -> None:
        """Take no more slices; let running rows end for `grace` seconds, and give back the rest."""
        if self._draining:
            return
        self._draining = True
        rows = self._node.running
        self._news("draining", f"drains: {rows} row{'s' * (rows != 1)} may end within {grace:g} s", rows=rows)
        self._wake.set()
        await self._node.drain(grace)

    # Taking and running.

    async def _take_slices(self) -> None:
        while not self._draining:
            taken = await self._next() if self._has_room and not self._none_waits else None
            if taken is not None:
                self._begin(taken)
            elif self._is_idle:
                return
            else:
                await self._pause()

    @property
    def _has_room(self) -> bool:
        """True if another slice would find slots, and no slice runs that is to run alone."""
        rows = sum(len(one.left) for one in self._held.values())
        return rows < self._node.concurrency and not any(_alone(one.taken) for one in self._held.values())

    @property
    def _is_idle(self) -> bool:
        if self._held or self._idle is None:
            self._quiet_since = time.monotonic()
            return False
        return time.monotonic() - self._quiet_since >= self._idle

    async def _next(self) -> Taken | None:
        busy = Counter[str]()
        for one in self._held.values():
            busy[one.taken.map_id] += len(one.left)
        self._none_waits = True  # until a notice comes, also while this waits
        taken: Taken | None = await self._do(self._slices.take, self._me.worker, busy)
        self._none_waits &= taken is None
        return taken

    def _look(self) -> None:
        """Look into the queue again."""
        self._none_waits = False
        self._wake.set()

    async def _pause(self) -> None:
        """Wait for a notice, for a slot, or for the time to look again."""
        wait = _POLL if self._idle is None else min(_POLL, max(0.05, self._idle))
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            self._none_waits = False
        self._wake.clear()

    def _begin(self, taken: Taken) -> None:
        held = self._held[taken.slice] = _Held(taken, dict.fromkeys(taken.numbers))
        rows = len(taken.numbers)
        self._news("took", f"takes {rows} row{'s' * (rows != 1)} of map {taken.map_id}", map=taken.map_id, rows=rows)
        held.task = self._work.create_task(self._run(held))

    async def _run(self, held: _Held) -> None:
        """Run a slice, and leave it: its ends are told, and what is left goes back into the queue."""
        taken, me = held.taken, self._me.worker
        try:
            await self._ended(held)
        except UnfitError as error:
            self._news("refused", f"cannot run map {taken.map_id}: {error}", map=taken.map_id)
            await self._do(self._slices.refuse, me, taken.slice, str(error))
            return
        except asyncio.CancelledError:
            if not held.stopped or held.task is None:
                raise
            held.task.uncancel()
        finally:
            self._held.pop(taken.slice, None)
            self._wake.set()
        if held.ends:
            await self._do(self._slices.settle, me, taken.slice, packed(held.ends), list(held.left))
        if held.left:
            await self._do(self._slices.give_back, me, taken.slice, list(held.left))

    async def _ended(self, held: _Held) -> None:
        taken = held.taken
        part = Slice(taken.map_id, taken.numbers)

        def ended(end: RowEnd) -> None:
            held.end(end)
            if end.status == "failed" and end.failure is not None:
                self._news(
                    "row_failed", f"row {end.run_id} failed: {end.failure}", map=taken.map_id, failure=end.failure
                )
            self._wake.set()

        terms = _terms(taken)
        if taken.deaths >= DEATHS:
            reason = f"the row ended {taken.deaths} workers: it is not run again; `--retry-failed` asks for it anew"
            self._news("gave_up", f"map {taken.map_id}: {reason}", map=taken.map_id)
            await self._node.give_up(terms, part, ended, reason=reason, lock=False)
            return
        if _alone(taken):
            await self._others_end(held)
        await self._node.run(terms, part, ended, lock=False)

    async def _others_end(self, held: _Held) -> None:
        """Wait until nothing else runs here: what ended workers before runs alone."""
        others = [one.task for one in self._held.values() if one is not held and one.task is not None]
        if others:
            await asyncio.wait(others)

    async def _wait_for_slices(self) -> None:
        while self._held:
            await asyncio.wait([one.task for one in self._held.values() if one.task is not None])

    # Signs of life.

    async def _beats(self) -> None:
        while True:
            held = set(self._held)
            mine = await self._do(
                self._slices.beat, self._me.worker, rows=self._node.running, draining=self._draining
            )
            if mine is None or not await self._do(self._store.is_locked, lock_of_worker(self._me.worker)):
                raise StoreError(f"the store {self._store.where} was lost for a while: {_LOST}")
            for number in held - mine:
                self._stop(number)
            await asyncio.sleep(BEAT)

    async def _watches(self, lock: RunLock) -> None:
        """Raise StoreError at once if the lock is lost: others may take the rows over then."""
        loop, losses = asyncio.get_running_loop(), list[StoreError]()
        lost = asyncio.Event()

        def note(loss: StoreError) -> None:
            losses.append(loss)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(lost.set)

        lock.when_lost(note)
        await lost.wait()
        raise losses[0]

    def _stop(self, number: int) -> None:
        """Interrupt a slice that was withdrawn, or that another worker has."""
        held = self._held.get(number)
        if held is not None and held.task is not None and not held.stopped:
            held.stopped = True
            held.task.cancel()

    async def _tells(self) -> None:
        """Tell the ends of slices that still run."""
        while True:
            await asyncio.sleep(_TELL)
            for number, held in list(self._held.items()):
                if held.ends and held.left and not held.stopped:
                    ends, held.ends = held.ends, []
                    left = list(held.left)
                    if not await self._do(self._slices.settle, self._me.worker, number, packed(ends), left):
                        self._stop(number)

    async def _buries(self) -> None:
        """Put the slices of workers back that have died: whose lock is free."""
        while True:
            await asyncio.sleep(BEAT)
            for worker, count in await self._do(bury_dead, self._store):
                self._news("buried", f"worker {worker} has died: {count} of its rows wait again", rows=count)

    async def _do(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        return await asyncio.to_thread(work, *arguments, **more)

    def _news(self, kind: Any, message: str, **more: Any) -> None:
        self._tell_of(News(type=kind, at=time.time(), worker=self._me.name, message=message, **more))


Work = Coroutine[Any, Any, None]


def _alone(taken: Taken) -> bool:
    """Return True for a slice that is to run alone, since it may have ended workers."""
    return DEATHS > taken.deaths >= DEATHS - 1


def _terms(taken: Taken) -> Terms:
    """Return the terms of a slice. Raises UnfitError for those of another version."""
    try:
        return Terms.model_validate_json(taken.terms)
    except ValueError as error:
        raise UnfitError("the map was started by another version of Fusion: use one version") from error
