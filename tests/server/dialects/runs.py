"""Runs for tests of dialects: their events and Result are given, and no model is asked."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fusion.core.events import Delta, EventBase, Restarted
from fusion.core.result import Result
from fusion.core.types import Failure


class GivenRun:
    """A run with these pieces of an answer, where None begins it again, and this Result."""

    run_id = "r-1"
    model = "fusion/single"
    pipeline = "single"
    created = 1_780_000_000

    def __init__(self, pieces: Sequence[str | None], result: Result) -> None:
        self._pieces = pieces
        self._result = result

    async def __aiter__(self) -> AsyncIterator[EventBase]:
        for piece in self._pieces:
            yield Restarted(step="work") if piece is None else Delta(step="work", text=piece)

    async def result(self) -> Result:
        return self._result


def answered(text: str = "", **more: Any) -> Result:
    """The Result of a run that answered."""
    known = {"run_id": GivenRun.run_id, "pipeline": "single", "profile": "local", "status": "ok"}
    return Result.model_validate({**known, "started": datetime(2026, 6, 1, tzinfo=UTC), "text": text, **more})


def failing(reason: str, message: str = "no such thing") -> Result:
    """The Result of a run that failed."""
    return answered(status="failed", error=Failure(reason=reason, message=message))
