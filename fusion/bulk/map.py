"""MapRun: one pass over a map: rows are read, planned, run, taken from the store and written."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from fusion.bulk.answers import current_row, line_of, line_of_row, output_row, result_of_row, stored_answer
from fusion.bulk.executors.base import Executor, Job, RowEnd, Slice, Terms
from fusion.bulk.executors.takeover import taken_over
from fusion.bulk.executors.worker import Recent, Worker
from fusion.bulk.options import Choice, Tolerance
from fusion.bulk.outputs import RowOutput
from fusion.bulk.planner import Pass, Planned, Planner
from fusion.bulk.reader import RowReader, chosen
from fusion.bulk.report import MapReport, RowResult, Tally, ending_of, overdue
from fusion.bulk.sources import RowSource
from fusion.client.retention import Sweep
from fusion.core.budget import Amount, Budget
from fusion.core.errors import BudgetError, FusionError, StageError, StoreError, failure_of, first_error
from fusion.core.events import MapFinished, MapStarted, Noted, RowFinished, Sink
from fusion.core.log import LOG
from fusion.core.result import Cost
from fusion.core.types import Balance
from fusion.store.base import RunLock, Store
from fusion.store.rows import LinesFound, MapEnded

_MOST: Final = 256
"""Rows that are taken, or whose lines are noted, at once."""
_PLANNED: Final = 64
"""Rows that are planned at once, where their order does not matter."""


@dataclass(frozen=True, slots=True)
class MapSetup:
    """Parts of a map. `within` is its own budget, beneath those that it shares; `left` tells their rest."""

    one: Pass
    terms: Terms
    store: Store
    source: RowSource
    output: RowOutput | None
    choice: Choice
    tolerance: Tolerance
    ordered: bool
    concurrency: int
    within: Budget
    sink: Sink | None
    started: MapStarted
    left: Callable[[], Awaitable[Sequence[Balance]]]
    sweep: Sweep
    notes: tuple[str, ...] = ()


class _Finished(NamedTuple):
    """A finished row with the state of its line in the output, None without one."""

    row: RowResult
    line: str | None


class MapRun:
    """One pass over a map, on one event loop, under the lock of the map.

    `next` returns the rows that have finished, some at a time, in memory that does not grow with their number; `end`
    writes what is left, and returns the report.
    """

    def __init__(self, setup: MapSetup, worker: Worker, recent: Recent, executor: Executor, lock: RunLock) -> None:
        self._setup = setup
        self._worker = worker
        self._recent = recent
        self._executor = executor
        self._lock = lock
        self._holds = True
        self._tally = Tally()
        self._began = time.monotonic()
        self._open: dict[int, Planned] = {}
        self._done: asyncio.Queue[Planned | RowEnd | None] = asyncio.Queue()
        self._portion = min(_PLANNED, setup.concurrency) if setup.ordered else _PLANNED
        ahead = 2 * setup.concurrency if setup.ordered else _MOST + 4 * setup.concurrency
        self._room = asyncio.Semaphore(ahead)
        self._early: dict[int, _Finished | None] = {}
        self._next = 1
        self._read = self._lines = self._matched = self._stale = self._held = 0
        self._gap = False
        self._failure: BaseException | None = None
        self._reader: RowReader | None = None
        self._whole = False
        self._running: asyncio.Task[None] | None = None

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the map before its last row."""
        return self._failure

    def start(self) -> None:
        """Begin to read and run rows."""
        if self._setup.sink is not None:
            self._setup.sink(self._setup.started)
            for note in self._setup.notes:
                self._note(note)
        self._setup.within.start()
        self._running = asyncio.create_task(self._run())
        loop = asyncio.get_running_loop()
        self._lock.when_lost(lambda error: loop.call_soon_threadsafe(self._lose, error))

    async def next(self) -> list[RowResult] | None:
        """Return finished rows, once there are some; None when no more come."""
        while (ends := await self._some()) is not None:
            done = self._in_order(await self._all_finished(ends))
            if done:
                self._take(done)
                return [one.row for one in done]
        return None

    async def end(self, *, interrupted: bool = False) -> MapReport:
        """Stop what still runs, write what is done, and record the end of the map."""
        try:
            report = await self._ended(interrupted)
        finally:
            self._lock.release()
        await self._setup.sweep.apply()
        self._say_end(report)
        return report

    async def _ended(self, interrupted: bool) -> MapReport:
        await self._stop()
        try:
            await self._leave()
        except Exception as error:  # noqa: BLE001 - said in the report, behind the rows that are kept
            self._failure = self._failure or error
        report = self._report(await self._cost(), await self._left(), interrupted=interrupted)
        one, store = self._setup.one, self._setup.store
        store.put(MapEnded(one.map_id, one.number, report.status, time.time(), report.failure))
        store.put(LinesFound(one.map_id, first=True, lines=()))
        await store.written()
        return report

    # Reading and running.

    async def _run(self) -> None:
        setup = self._setup
        job = Job(setup.terms, self._worker.work, setup.concurrency, self._note, lambda: self._holds)
        try:
            async with asyncio.timeout(setup.within.remaining_seconds()):
                await self._take_over(job)
                async for end in self._executor.run(job, self._slices()):
                    self._done.put_nowait(end)
        except TimeoutError:
            self._failure = self._failure or overdue(setup.within)
        except BaseExceptionGroup as group:
            self._failure = self._failure or first_error(group)
        except Exception as error:  # noqa: BLE001 - the reason why the map ends, said in its report
            self._failure = self._failure or error
        finally:
            self._done.put_nowait(None)

    async def _take_over(self, job: Job) -> None:
        """Wait for rows that run for an earlier driver, and count what they have spent meanwhile."""
        setup = self._setup
        if await taken_over(setup.store, job, self._executor) and self._executor.here:
            counts = await asyncio.to_thread(setup.store.map_counts, setup.one.map_id)
            spent = Amount(counts.usd, counts.tokens, counts.calls)
            setup.within.count_here(spent.minus(setup.within.spent))

    async def _slices(self) -> AsyncIterator[Slice]:
        """Yield the rows that are to run as the executor takes them; rows that run end, whatever fails here."""
        try:
            await self._find_lines()
            async for part in self._planned():
                yield part
        except FusionError as error:
            self._read_no_more(error)

    async def _planned(self) -> AsyncIterator[Slice]:
        """Read and plan rows. Those that are done already go on at once."""
        setup = self._setup
        planner = Planner(setup.store, setup.one)
        rows = chosen(setup.source, setup.choice, setup.one.name_of)
        self._reader = reader = RowReader(rows, ahead=self._portion)
        while some := await reader.some(self._portion):
            planned = await planner.plan(some)
            self._read += len(planned)
            self._matched += sum(one.line is not None for one in planned)
            if numbers := [one.number for one in planned if await self._opened(one)]:
                yield Slice(setup.one.map_id, tuple(numbers))
        self._whole = self._failure is None

    async def _opened(self, one: Planned) -> bool:
        """Note a planned row once there is room; return True if it is to run."""
        await self._room.acquire()
        self._open[one.number] = one._replace(run=None, spec=None)
        if one.run is None:
            self._done.put_nowait(one)
            return False
        if self._executor.here:
            self._recent.planned[one.number] = one.run, one.spec
        return True

    async def _find_lines(self) -> None:
        """Note the rows that the output has."""
        store, map_id, output = self._setup.store, self._setup.one.map_id, self._setup.output
        store.put(LinesFound(map_id, first=True, lines=()))
        lines: list[tuple[str, str]] = []
        for present in output.present() if output is not None else ():
            lines.append((present.key, line_of(present.run_id, present.status, present.usd)))
            if len(lines) >= _MOST:
                store.put(LinesFound(map_id, first=False, lines=tuple(lines)))
                await store.written()
                self._lines, lines = self._lines + len(lines), []
        store.put(LinesFound(map_id, first=False, lines=tuple(lines)))
        self._lines += len(lines)
        await store.written()

    # Finished rows.

    async def _some(self) -> list[Planned | RowEnd] | None:
        """Return what has finished, at least one; None at the end."""
        one = await self._done.get()
        found: list[Planned | RowEnd] = []
        while one is not None:
            found.append(one)
            if len(found) >= _MOST or self._done.empty():
                return found
            one = self._done.get_nowait()
        self._done.put_nowait(None)
        return found or None

    async def _all_finished(self, ends: Sequence[Planned | RowEnd]) -> list[tuple[int, _Finished | None]]:
        """Return the positions of rows with their results, which are read from the store together."""
        over = (end.run_id for end in ends if end.status not in ("stopped", "waiting"))
        wanted = [run_id for run_id in over if run_id not in self._recent.answers]
        kept = await asyncio.to_thread(self._setup.store.results, wanted) if wanted else {}
        return [self._finished(end, kept.get(end.run_id)) for end in ends]

    def _finished(self, end: Planned | RowEnd, kept: Mapping[str, Any] | None) -> tuple[int, _Finished | None]:
        """Return the position of a row with its result; None for one that waits or that a shared budget stopped."""
        planned = self._open.pop(end.number)
        self._room.release()
        if isinstance(end, RowEnd) and end.status == "stopped":
            message = "the budget of the map is spent" if end.failure is None else end.failure.message
            self._read_no_more(BudgetError(message))
            return planned.position, None
        if isinstance(end, RowEnd) and end.status == "waiting":
            self._held += 1
            return planned.position, None
        result = self._recent.answers.pop(planned.run_id, None)
        answer = result or kept or stored_answer(self._setup.store, planned.run_id)
        row = result_of_row(planned, answer, kept=isinstance(end, Planned))
        return planned.position, _Finished(row, planned.line)

    def _in_order(self, done: Sequence[tuple[int, _Finished | None]]) -> list[_Finished]:
        """Return the rows to hand on now: with `ordered`, those that no earlier one is missing before."""
        if not self._setup.ordered:
            return [one for _, one in done if one is not None]
        found: list[_Finished] = []
        self._early.update({} if self._gap else done)
        while self._next in self._early:
            one = self._early.pop(self._next)
            if one is None:  # a gap: the rows behind it come in a later pass
                self._gap = True
                self._early.clear()
                return found
            found.append(one)
            self._next += 1
        return found

    def _take(self, done: Sequence[_Finished]) -> None:
        """Count rows, write their lines, and say that they are done."""
        for one in done:
            self._tally.add(one.row)
        try:
            self._write([one for one in done if one.line != line_of_row(one.row)])
        except FusionError as error:
            self._end_now(error)
        self._say(done)
        tolerance, failed = self._setup.tolerance, self._tally.failed
        if tolerance.ends(failed, self._tally.done):
            self._end_now(StageError(tolerance.passed_words(failed)))

    def _write(self, changed: Sequence[_Finished]) -> None:
        self._stale += sum(one.line is not None for one in changed)
        if self._setup.output is not None:
            self._setup.output.append([output_row(one.row) for one in changed if one.line is None])

    def _read_no_more(self, error: BaseException) -> None:
        """Note why the map ends, and let rows that are running end."""
        self._failure = self._failure or error
        if self._reader is not None:
            self._reader.close()

    def _end_now(self, error: BaseException) -> None:
        """Note why the map ends, and stop the rows that are running."""
        self._read_no_more(error)
        if self._running is not None:
            self._running.cancel()

    def _lose(self, error: StoreError) -> None:
        """End the map as its lock is lost."""
        self._holds = False
        self._end_now(error)

    # The end.

    async def _stop(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._executor.close()
        while (ends := await self._some()) is not None:
            self._take(self._in_order(await self._all_finished(ends)))

    async def _leave(self) -> None:
        """Write lines anew that are no longer current, and close the output."""
        output = self._setup.output
        if output is None:
            return
        try:
            if self._stale:
                current = partial(current_row, self._setup.store, self._setup.one.map_id)
                await asyncio.to_thread(output.replace, current)
        finally:
            await asyncio.to_thread(output.close)

    async def _cost(self) -> Cost:
        """Return the spending of the map in all its passes."""
        within = self._setup.within
        if self._executor.here:
            return Cost(usd=within.spent.usd or 0, unknown_calls=within.unknown_calls)
        try:
            counts = await asyncio.to_thread(self._setup.store.map_counts, self._setup.one.map_id)
        except StoreError as error:
            self._failure = self._failure or error
            return Cost(usd=self._tally.usd, unknown_calls=self._tally.unknown_calls)
        return Cost(usd=counts.usd, unknown_calls=counts.unknown_calls)

    async def _left(self) -> Sequence[Balance]:
        """Return what is left of kept budgets; nothing if the store is lost."""
        try:
            return await self._setup.left() if self._holds else ()
        except StoreError as error:
            LOG.warning("%s", error)
            return ()

    def _report(self, cost: Cost, budgets: Sequence[Balance], *, interrupted: bool) -> MapReport:
        setup, tally, failure = self._setup, self._tally, self._failure
        bad = setup.tolerance.passed(tally.failed, tally.done)
        status, code = ending_of(tally, failure, too_many=bad, held=self._held, interrupted=interrupted)
        gone = self._lines - self._matched if self._whole and setup.choice.whole else 0
        return MapReport.model_validate(
            {
                "map_id": setup.one.map_id,
                "pipeline": setup.one.spec.pipeline.name,
                "status": status,
                "source": setup.started.source,
                "output": setup.started.output,
                "rows": self._read,
                "ok": tally.states["ok"],
                "partial": tally.states["partial"],
                "failed": tally.states["failed"],
                "waiting": self._read - tally.done,
                "held": self._held,
                "kept": tally.kept,
                "gone": gone,
                "cost": cost,
                "budgets": budgets,
                "seconds": time.monotonic() - self._began,
                "failures": tally.failures,
                "failure": None if failure is None else failure_of(failure),
                "notes": setup.notes,
                "exit_code": code,
            }
        )

    # Events.

    def _say(self, done: Sequence[_Finished]) -> None:
        if self._setup.sink is None:
            return
        fraction = self._fraction()
        for row, _ in done:
            self._setup.sink(
                RowFinished(
                    run_id=row.run_id,
                    map=self._setup.one.map_id,
                    number=row.number,
                    key=row.key,
                    position=row.position,
                    status=row.status,
                    kept=row.kept,
                    usd=row.cost.usd,
                    unknown_calls=row.cost.unknown_calls,
                    seconds=row.seconds,
                    fraction=fraction,
                    failure=row.failure,
                )
            )

    def _fraction(self) -> float | None:
        """Return the share of the inputs that is done, from the part that has been read."""
        read, whole = self._setup.source.progress()
        if self._whole:
            read, whole = 1.0, 1.0
        if not whole or not self._read or not self._setup.choice.whole:
            return None
        return min(1.0, read / whole * self._tally.done / self._read)

    def _note(self, message: str) -> None:
        if self._setup.sink is not None:
            self._setup.sink(Noted(run_id=self._setup.one.map_id, message=message))

    def _say_end(self, report: MapReport) -> None:
        if self._setup.sink is None:
            return
        counts = {name: getattr(report, name) for name in ("ok", "partial", "failed", "waiting", "held", "seconds")}
        self._setup.sink(MapFinished(run_id=report.map_id, status=report.status, failure=report.failure, **counts))
