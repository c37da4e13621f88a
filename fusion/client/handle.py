"""RunHandle: a run under way on the private loop, or one that is over already."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from fusion.client.loop import LoopThread
from fusion.core.errors import BudgetError
from fusion.core.result import Result


class Running(Protocol):
    """What a handle knows of its run."""

    run_id: str
    exit_code: int
    cause: BaseException | None

    @property
    def budget_stops(self) -> tuple[BudgetError, ...]: ...

    def interrupted(self) -> Result: ...


class EndedRun:
    """A run that was over before anybody asked for it again."""

    def __init__(self, result: Result) -> None:
        self.run_id = result.run_id
        self.exit_code = 0
        self.cause: BaseException | None = None
        self.budget_stops: tuple[BudgetError, ...] = ()
        self._result = result

    def interrupted(self) -> Result:
        return self._result


class Outstanding(Protocol):
    """What ends with a Result."""

    done: Future[Result]

    def cancel(self) -> None: ...


class Over:
    """The work of a run that was over before."""

    def __init__(self, result: Result) -> None:
        self.done: Future[Result] = Future()
        self.done.set_result(result)

    def cancel(self) -> None:
        return


class RunHandle:
    """A run under way."""

    def __init__(self, run: Running, work: Outstanding, loop: LoopThread, fusion: object) -> None:
        self.run_id = run.run_id
        self._run = run
        self._work = work
        self._loop = loop
        self._fusion = fusion  # which ends its runs when nobody holds it any more

    @property
    def exit_code(self) -> int:
        """How a process should end for this run: 0, 130 if cancelled, 4 for a budget stop, else by the cause."""
        return self._run.exit_code

    @property
    def cause(self) -> BaseException | None:
        """The first root cause of a run that failed."""
        return self._run.cause

    @property
    def budget_stops(self) -> tuple[BudgetError, ...]:
        """The limits that ended the run, or that it was finished without passing."""
        return self._run.budget_stops

    @property
    def over(self) -> bool:
        """True once the run has ended and given everything back."""
        return self._work.done.done()

    def when_over(self, call: Callable[[], object]) -> None:
        """Call this once the run has ended, however it did; at once if it has."""
        self._work.done.add_done_callback(lambda _: call())

    def wait(self, timeout: float | None = None) -> Result:
        """The Result, also of a run that failed. Raises the built-in TimeoutError if it takes longer."""
        if not self.over:
            self._loop.check_outside("a run cannot be waited for")
        try:
            return self._work.done.result(timeout)
        except asyncio.CancelledError:  # before it had even begun
            return self._run.interrupted()

    def stop(self) -> None:
        """Ask the run to stop, and go on at once: from every thread, and from inside of `on_event` too."""
        self._work.cancel()

    def cancel(self) -> Result:
        """Stop the run, wait until everything is given back, and return what was finished."""
        self.stop()
        return self.wait()

    async def wait_async(self) -> Result:
        """The Result, awaited on the caller's own loop. Cancelling the wait stops the run."""
        done = asyncio.wrap_future(self._work.done)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if done.done() and task is not None and not task.cancelling():  # the run was, before it had even begun
                return self._run.interrupted()
            self._work.cancel()
            await asyncio.wait([done])
            done.exception()
            raise
