"""Batch: one batch at a provider, from its submission to its results."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from fusion.core.config.tables import BatchesTable
from fusion.core.errors import BadRequestError, ModelConnectionError, ModelError, ModelTimeoutError, RateLimitError
from fusion.core.events import BatchEnded, BatchProgressed, BatchSubmitted
from fusion.models.batches.base import BatchDoor, BatchState
from fusion.models.batches.window.row import Group, Groups, Left, Row

Status = Literal["ended", "failed", "expired", "cancelled", "refused", "late", "lost"]

_GROWTH: Final = 1.5
_TRIES: Final = 5
"""Failures of a step, one after the other, after which it is given up."""
_AT_ONCE: Final = 50
"""Results that are handed out in one callback of the event loop."""


class Batch:
    """A batch with the rows that are waited for, by their custom id.

    `batch_id` is the provider's id, once it is known. `over` is True once it takes no more rows. `crowded` tells if
    other batches of the model are open: one that the provider has no room for waits until they are not.
    """

    def __init__(
        self,
        door: BatchDoor,
        times: BatchesTable,
        name: str,
        rows: Iterable[Row],
        batch_id: str | None = None,
        *,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.batch_id = batch_id
        self.rows: dict[str, Row] = {}
        self.over = False
        self._door = door
        self._times = times
        self._crowded = crowded
        self._groups = Groups()
        self._changed = asyncio.Event()
        self._begun = time.monotonic()
        self._keeps = False  # a later session may join: the batch is not cancelled with its last row
        self._joined = batch_id is not None
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add a row that is waited for."""
        self.rows[row.custom_id] = row
        self._groups.add(row)
        self._changed.set()

    def forget(self, row: Row) -> None:
        """Drop a row that its run does not wait for any more."""
        if self.rows.pop(row.custom_id, None) is not None:
            self._keeps = self._keeps or row.keeper.lasting
            self._changed.set()

    def fail(self, error: Exception) -> None:
        """End all rows with an internal error."""
        for row in self.rows.values():
            if not row.outcome.done():
                row.outcome.set_exception(error)
        self.rows.clear()

    # Submission.

    async def submit(self) -> Sequence[Sequence[Row]]:
        """Submit the batch. Return the halves to submit in its place if the provider refuses it as it is."""
        for row in self.rows.values():
            row.keeper.enter(self.name)
        await self._written()
        failures = 0
        while self.rows:
            try:
                await self._submit_once()
            except ModelError as error:
                if isinstance(error, BadRequestError) and len(self.rows) > 1:
                    return self._halves()
                failures += 1
                await self._after_refusal(error, failures)
            if self.batch_id is not None:
                return ()
        return ()

    async def _after_refusal(self, error: ModelError, failures: int) -> None:
        """Find a batch that was submitted after all, or wait to submit it again, or give it up."""
        waits = isinstance(error, RateLimitError) and self._crowded()
        if not waits and (not error.retryable or failures >= _TRIES):
            self._release("refused", Left("refused", _in_doubt(error), str(error)), message=str(error))
        elif not (_in_doubt(error) and await self._found()):
            await self._rest(max(error.retry_after or 0.0, self._pause(failures)))
            self._release_late(billed=_in_doubt(error))

    async def _submit_once(self) -> None:
        for row in self.rows.values():
            row.sent = True
        rows = list(self.rows.values())
        batch_id = await self._door.submit([row.entry for row in rows], self.name)
        await self._know(batch_id, rows)

    async def _know(self, batch_id: str, rows: Sequence[Row]) -> None:
        """Keep the id of the batch, and tell the runs of it."""
        self.batch_id = batch_id
        for row in rows:
            row.keeper.known(batch_id)
        await self._written()
        self._tell_submitted()

    def _tell_submitted(self) -> None:
        for group in self._groups:
            if group.rows and not group.told:
                group.told = True
                calls, rows = len(group.rows), max(len(self.rows), len(group.rows))
                group.emit(BatchSubmitted, batch=self.batch_id, calls=calls, rows=rows, joined=self._joined)

    def _halves(self) -> Sequence[Sequence[Row]]:
        rows = list(self.rows.values())
        self.rows.clear()
        middle = len(rows) // 2
        return rows[:middle], rows[middle:]

    async def _written(self) -> None:
        """Wait until the places of all rows are on disk; one run waits for all of its store."""
        rows = sorted(self.rows.values(), key=lambda row: row.keeper.lasting)
        by_disk = {id(row.keeper.disk): row for row in rows}
        for row in by_disk.values():
            await row.keeper.written()

    # A batch of an earlier session, or whose submission has no answer.

    async def find(self) -> bool:
        """Look the batch up by its name, unless its id is known; end the rows if it does not exist."""
        self._joined = True
        if self.batch_id is None and not await self._found(patient=True):
            self._release(None, Left("unsent", False))
        return self.batch_id is not None

    async def _found(self, *, patient: bool = False) -> bool:
        """Return True if the provider has the batch. Ends the rows if it cannot say so."""
        failures = 0
        looks = 2 if patient else 1
        while self.rows and looks:
            try:
                batch_id = await self._door.find(self.name, list(self.rows))
            except ModelError as error:
                failures = 0 if error.retry_after is not None else failures + 1
                if failures >= _TRIES or not error.retryable:
                    self._release("lost", Left("lost", True, str(error)), message=str(error))
                await self._rest(error.retry_after or self._pause(failures))
                self._release_late(billed=True)
                continue
            if batch_id is not None:
                await self._know(batch_id, list(self.rows.values()))
                return True
            looks -= 1
            if looks:  # the provider may have taken it a moment ago
                await self._rest(self._times.poll)
        return False

    # Progress and results.

    async def follow(self, wait: float) -> None:
        """Look at the batch until it is over, first after so many seconds, and hand out its results."""
        failures = 0
        before = BatchState(status="open")
        await self._rest(wait)
        while self.rows:
            self._tell_submitted()
            wait = min(max(wait * _GROWTH, self._times.poll), self._times.slowest_poll)
            try:
                state = await self._state()
            except ModelError as error:
                failures += 1
                wait = max(wait, error.retry_after or 0.0)
                if not error.retryable and failures >= _TRIES:
                    self._release("lost", Left("lost", True, str(error)), message=str(error))
            else:
                if state.status != "open":
                    return await self._read(state)
                failures = 0
                self._tell_progress(before, state)
                before = state
            self._release_late(billed=True)
            await self._rest(wait)
        self.over = True
        await self._abandon()
        return None

    async def _state(self) -> BatchState:
        assert self.batch_id is not None
        return await self._door.state(self.batch_id)

    def _tell_progress(self, before: BatchState, state: BatchState) -> None:
        if (before.done, before.failed) == (state.done, state.failed):
            return
        for group in self._groups:
            if group.rows and not group.over:
                group.emit(
                    BatchProgressed,
                    batch=self.batch_id,
                    done=state.done,
                    failed=state.failed,
                    rows=max(state.total, state.done + state.failed),
                )

    async def _read(self, state: BatchState) -> None:
        """Hand out the results of a batch that is over; rows without one are missing."""
        failures = 0
        status: Status = "ended" if state.status == "open" else state.status
        while self.rows:
            asked = dict(self.rows)
            try:
                await self._read_once(asked)
            except ModelError as error:
                failures += 1
                if failures >= _TRIES:
                    self._release("lost", Left("lost", True, str(error)), message=str(error))
                await self._rest(max(error.retry_after or 0.0, self._pause(failures)))
                self._release_late(billed=True)
                continue
            billed = state.status in ("ended", "cancelled")
            said = f": {state.message}" if state.message else ""
            missing = Left("missing", billed, f"the batch {status} without a result of this call{said}")
            self._release(status, missing, only=asked, message=state.message)

    async def _read_once(self, asked: dict[str, Row]) -> None:
        assert self.batch_id is not None
        number = 0
        async for ended in self._door.results(self.batch_id, {one: row.request for one, row in asked.items()}):
            row = self.rows.pop(ended.custom_id, None)
            if row is None:  # a second result of a row, or one that is not waited for
                continue
            if ended.reply is not None:
                self._groups.answered(row)
            row.end(ended)
            number += 1
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _abandon(self) -> None:
        """Cancel a batch that no run waits for, and that none will join again."""
        if self._keeps or self.batch_id is None:
            return
        try:
            await self._door.cancel(self.batch_id)
        except ModelError:  # it is over, or goes on: its rows are charged in full either way
            return

    # Ends of rows.

    def _release(
        self, status: Status | None, left: Left, *, only: Iterable[str] | None = None, message: str = ""
    ) -> None:
        """End rows without a result, and tell their runs of the end of the batch."""
        asked = list(self.rows if only is None else only)
        rows = [self.rows.pop(one) for one in asked if one in self.rows]
        for group in self._groups if status is not None else ():
            if group.rows and not group.over:
                group.over = True
                self._tell_ended(group, status, len(group.rows), message)
        for row in rows:
            row.end(left)

    def _release_late(self, *, billed: bool) -> None:
        now = asyncio.get_running_loop().time()
        late = [self.rows.pop(one.custom_id) for one in list(self.rows.values()) if one.is_late(now)]
        for group, calls in self._groups.without(late):
            self._tell_ended(group, "late", calls, "")
        for row in late:
            row.end(Left("late", billed))

    def _tell_ended(self, group: Group, status: Status | None, calls: int, message: str) -> None:
        group.emit(
            BatchEnded,
            batch=self.batch_id or self.name,
            status=status,
            calls=calls,
            answered=0 if status == "late" else group.answered,
            seconds=time.monotonic() - self._begun,
            message=message,
        )

    # Time.

    def _pause(self, failures: int) -> float:
        """Return the backoff after so many failures, in seconds."""
        growth: float = _GROWTH ** max(0, failures - 1)
        return min(self._times.poll * growth, self._times.slowest_poll)

    async def _rest(self, seconds: float) -> None:
        """Wait so many seconds, or until the nearest deadline of a row, or until no row is left."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.rows:
            deadlines = [row.deadline for row in self.rows.values() if row.deadline is not None]
            self._changed.clear()
            try:
                async with asyncio.timeout_at(min([until, *deadlines])):
                    await self._changed.wait()
            except TimeoutError:
                return


def _in_doubt(error: ModelError) -> bool:
    """Return True if a batch may exist although its submission failed."""
    lost = isinstance(error, (ModelConnectionError, ModelTimeoutError)) and not isinstance(error, RateLimitError)
    return lost and getattr(error, "sent", True)
