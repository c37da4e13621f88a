"""Kept run: a run that ended earlier, answered again from the store."""

from collections.abc import AsyncIterator

from fusion.core.events import Delta, EventBase, RunFinished
from fusion.core.result import Result


class KeptRun:
    """A run of the store that answers a request again, as ServedRun; it costs nothing."""

    def __init__(self, result: Result, *, model: str) -> None:
        self.run_id = result.run_id
        self.model = model
        self.pipeline = result.pipeline
        self.created = int(result.started.timestamp())
        self.ignored: tuple[str, ...] = ()
        self._result = result

    def join(self) -> None:
        """Take a client; the run is over."""

    def leave(self) -> None:
        """Let a client go; the run is over."""

    def stop(self) -> None:
        """Ask the run to stop; it is over."""

    async def result(self) -> Result:
        """Return the Result."""
        return self._result

    async def __aiter__(self) -> AsyncIterator[EventBase]:
        result = self._result
        if result.text and result.status != "failed":
            yield Delta(run_id=self.run_id, step="", text=result.text)
        yield RunFinished(run_id=self.run_id, status=result.status, seconds=result.seconds, failure=result.error)
