"""RunHandle: a run under way on the private loop, or one that has ended."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from fusion.client.loop import LoopThread
from fusion.client.retention import NOTHING, Sweep
from fusion.core.errors import BudgetError
from fusion.core.result import FailedPart, Result
from fusion.engine.outcome import Ending


class _Kept(Ending):
    """End of a run, as its Result tells."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self._result = result

    @property
    def waiting(self) -> bool:
        return self._result.status == "waiting"

    @property
    def lost(self) -> tuple[FailedPart, ...]:
        return self._result.lost


class RunHandle:
    """A run that was started. `done` has its Result once it has ended and given everything back."""

    def __init__(
        self,
        run_id: str,
        ending: Ending,
        done: Future[Result],
        *,
        stop: Callable[[], None],
        loop: LoopThread,
        owner: object,
        sweep: Sweep = NOTHING,
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.run_id = run_id
        self.ignored = ignored
        """Options of the answer without an effect on this run."""
        self._ending = ending
        self._done = done
        self._stop = stop
        self._loop = loop
        self._sweep = sweep
        self._owner = owner  # a Fusion, which ends its runs when it is collected

    @classmethod
    def ended(cls, result: Result, loop: LoopThread, owner: object) -> "RunHandle":
        """Return the handle of a run that ended earlier."""
        done: Future[Result] = Future()
        done.set_result(result)
        return cls(result.run_id, _Kept(result), done, stop=lambda: None, loop=loop, owner=owner)

    @property
    def exit_code(self) -> int:
        """Exit code for a process.

        0; 3 if parts of the answer are lost; 6 if it waits for a person; 130 if cancelled; 4 for a budget stop; else
        that of the cause.
        """
        return self._ending.exit_code

    @property
    def cause(self) -> BaseException | None:
        """Root cause of a failed run."""
        return self._ending.cause

    @property
    def budget_stops(self) -> tuple[BudgetError, ...]:
        """Limits that ended the run, or that it finished without passing."""
        return self._ending.budget_stops

    @property
    def expired(self) -> int:
        """Number of runs that the retention of the store removed at the end of this one."""
        return self._sweep.removed

    @property
    def over(self) -> bool:
        """True once the run has ended and given everything back."""
        return self._done.done()

    def when_over(self, call: Callable[[], object]) -> None:
        """Call this once the run has ended, with or without an answer; at once if it has."""
        self._done.add_done_callback(lambda _: call())

    def wait(self, timeout: float | None = None) -> Result:
        """Return the Result, also of a failed run. Raises the built-in TimeoutError after `timeout` seconds."""
        if not self.over:
            self._loop.check_outside("a run cannot be waited for")
        return self._done.result(timeout)

    def stop(self) -> None:
        """Ask the run to stop, and return at once. Safe from every thread, and inside of `on_event`."""
        self._stop()

    def cancel(self) -> Result:
        """Stop the run, wait until everything is given back, and return what was finished."""
        self.stop()
        return self.wait()

    async def wait_async(self) -> Result:
        """Return the Result, awaited on the caller's own loop. Cancelling the wait stops the run."""
        done = asyncio.wrap_future(self._done)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([done])
            done.exception()
            raise
