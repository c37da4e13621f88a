"""MapHandle and the iterators of a map: a map under way on the private loop, as its caller sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from fusion.bulk.map import MapRun
from fusion.bulk.report import MapReport, RowResult
from fusion.client.loop import LoopThread


class MapHandle:
    """A map that was started. `wait` returns its report."""

    def __init__(self, map_id: str, done: Future[MapReport], *, stop: Callable[[], None], owner: object) -> None:
        self.map_id = map_id
        self._done = done
        self._stop = stop
        self._owner = owner  # a Fusion, which ends its maps when it is collected

    @property
    def over(self) -> bool:
        """True once the map has ended and given everything back."""
        return self._done.done()

    @property
    def report(self) -> MapReport:
        """The report of a map that is over."""
        return self._done.result(0)

    @property
    def exit_code(self) -> int:
        """Exit code for a process: 0; 3 if too many rows failed; 130 if cancelled; else that of the cause."""
        return self.report.exit_code

    def wait(self, timeout: float | None = None) -> MapReport:
        """Return the report, also of a map that failed. Raises the built-in TimeoutError after `timeout` seconds."""
        return self._done.result(timeout)

    def stop(self) -> None:
        """Ask the map to stop, and return at once. Safe from every thread."""
        self._stop()

    def cancel(self) -> MapReport:
        """Stop the map, wait until everything is given back, and return the report."""
        self.stop()
        return self.wait()


async def to_end(run: MapRun) -> MapReport:
    """Run a map to its end. A cancelled one ends as interrupted."""
    run.start()
    try:
        while await run.next() is not None:
            pass
    except asyncio.CancelledError:
        return await run.end(interrupted=True)
    return await run.end()


class _Rows:
    """Base of both iterators: the rows of a map as they finish, some at a time."""

    def __init__(self, map_id: str, run: MapRun, loop: LoopThread, owner: object) -> None:
        self.map_id = map_id
        self._run = run
        self._loop = loop
        self._owner = owner
        self._report: MapReport | None = None
        self._waiting: Iterator[RowResult] = iter(())
        loop.submit(_started(run)).done.result()

    @property
    def report(self) -> MapReport | None:
        """The report of the map, once it has ended."""
        return self._report

    def _end(self, *, early: bool) -> "Future[MapReport]":
        return self._loop.submit(self._run.end(interrupted=early)).done

    def _ended(self, report: MapReport) -> None:
        """Keep the report. Raises the error that ended the map before its last row."""
        self._report = report
        if self._run.failure is not None:
            raise self._run.failure


class MapRows(_Rows):
    """Iterate over the rows of a map as they finish; `.report` has the report at the end.

    Raises the error that ended the map early, behind the rows that are done; a failed row raises nothing. Leaving the
    `with` block, or `close`, stops the map; finished rows are kept.
    """

    def __iter__(self) -> Iterator[RowResult]:
        return self

    def __next__(self) -> RowResult:
        row = next(self._waiting, None)
        if row is not None:
            return row
        rows = None if self._report else self._loop.submit(self._run.next()).done.result()
        if rows is None:
            if self._report is None:
                self._ended(self._end(early=False).result())
            raise StopIteration
        self._waiting = iter(rows)
        return next(self._waiting)

    def close(self) -> None:
        """Stop the map if it runs."""
        if self._report is None:
            self._report = self._end(early=True).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncMapRows(_Rows):
    """`MapRows` for `async for`, on the caller's running loop."""

    def __aiter__(self) -> AsyncIterator[RowResult]:
        return self

    async def __anext__(self) -> RowResult:
        row = next(self._waiting, None)
        if row is not None:
            return row
        rows = None if self._report else await self._some()
        if rows is None:
            if self._report is None:
                self._ended(await asyncio.wrap_future(self._end(early=False)))
            raise StopAsyncIteration
        self._waiting = iter(rows)
        return next(self._waiting)

    async def _some(self) -> Sequence[RowResult] | None:
        work = self._loop.submit(self._run.next())
        try:
            return await asyncio.wrap_future(work.done)
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop the map if it runs."""
        if self._report is None:
            self._report = await asyncio.wrap_future(self._end(early=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _started(run: MapRun) -> None:
    run.start()
