"""People: gates of the runs of a store, answered over HTTP, and the runs that go on after an answer or a deadline."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from fusion.client.client import Fusion
from fusion.client.gates import AnswerOptions, answered, is_awaited, ready_runs
from fusion.core.errors import FusionError, GateError, RunBusyError, UsageError
from fusion.core.log import LOG
from fusion.core.types import AnsweredGate, GateAnswer, Via
from fusion.server.base import RefusedError
from fusion.server.runs.runs import CALLER, Runs
from fusion.store.gates import gates_of
from fusion.store.rows import RunFilter, RunRow, RunStatus

EVERY: Final = 5.0
"""Seconds between two looks at the waiting runs of the store."""
QUIET: Final = 10.0
"""Seconds in which a process that answered may go on with the run itself."""
_OPEN: Final[tuple[RunStatus, ...]] = ("waiting", "running")
_LONGEST: Final = 1_000_000
_FIELDS: Final = frozenset({"gate", "yes", "text", "data", "by", "via"})


class People:
    """Lists and answers gates, and goes on with runs whose gates are answered, or past their deadline."""

    def __init__(self, fusion: Fusion, runs: Runs) -> None:
        self._fusion = fusion
        self._runs = runs
        self._answered: set[str] = set()
        self._woken = asyncio.Event()

    # Gates.

    def open(self, caller: str | None) -> list[dict[str, Any]]:
        """Return the open gates of all runs, or of those of a caller, each with its run."""
        tags = {} if caller is None else {CALLER: caller}
        rows = self._fusion.store.runs(RunFilter(statuses=_OPEN, tags=tags))
        return [
            {"run_id": row.run_id, "pipeline": row.pipeline, "status": row.status, **told(one)}
            for row in rows
            for one in gates_of(self._fusion.store, row.run_id)
            if one.answer is None
        ]

    def answer(self, run_id: str, asked: Mapping[str, Any], *, by: str | None, via: Via) -> GateAnswer:
        """Record an answer. Raises RefusedError: 409 for a gate that was answered before, 400 for a bad answer."""
        try:
            options = _options(asked, by=by, via=via)
            _, answer = answered(self._fusion.store, run_id, asked.get("gate"), options)
        except GateError as error:
            taken = error.winner is not None
            code, status = ("already_answered", 409) if taken else ("answer_does_not_fit", 400)
            raise RefusedError(str(error), status=status, code=code, param=None if taken else "text") from error
        except UsageError as error:
            raise RefusedError(str(error), status=404, kind="not_found_error", code="no_such_gate") from error
        return answer

    def wake(self, run_id: str) -> None:
        """Go on with a run that was answered here."""
        self._answered.add(run_id)
        self._woken.set()

    # Runs that go on.

    async def keep(self) -> None:
        """Go on with runs as they are answered, and at their deadlines, until it is cancelled."""
        while True:
            await self.look()
            try:
                async with asyncio.timeout(EVERY):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    async def look(self, *, now: float | None = None) -> None:
        """Go on with every run that can: those answered here at once, others by their deadline."""
        here, self._answered = self._answered, set()
        for row in await asyncio.to_thread(partial(self._ready, here, time.time() if now is None else now)):
            await self._go_on(row)

    def _ready(self, here: set[str], now: float) -> list[RunRow]:
        store = self._fusion.store
        found = {row.run_id: row for row in ready_runs(store, quiet=QUIET, now=now)}
        for run_id in here - found.keys():
            row = store.run(run_id)
            if row is not None and row.map is None and row.status == "waiting" and not is_awaited(store, run_id):
                found[run_id] = row
        return list(found.values())

    async def _go_on(self, row: RunRow) -> None:
        try:
            await self._runs.go_on(row)
        except RunBusyError:
            return  # another process goes on with it
        except FusionError as error:
            LOG.error("run %s cannot go on: %s", row.run_id, error)


def told(one: AnsweredGate) -> dict[str, Any]:
    """Return a gate with its answer as JSON data."""
    answer = None if one.answer is None else one.answer.model_dump(mode="json")
    gate = one.gate.model_dump(mode="json", exclude={"name", "digest"})
    return {"gate": {"place": one.gate.place, **gate}, "answer": answer}


def _options(asked: Mapping[str, Any], *, by: str | None, via: Via) -> AnswerOptions:
    """Return the answer in a form. Raises GateError for a field that is amiss."""
    unknown = sorted(asked.keys() - _FIELDS)
    if unknown:
        raise GateError(f"unknown field {unknown[0]!r}: an answer has gate, yes, text, data and by")
    yes, text, name = asked.get("yes", True), asked.get("text"), asked.get("by")
    if not isinstance(yes, bool):
        raise GateError("yes: give true or false")
    for field, value in (("text", text), ("by", name), ("gate", asked.get("gate"))):
        if value is not None and (not isinstance(value, str) or len(value) > _LONGEST):
            raise GateError(f"{field}: give a text")
    return {"yes": yes, "text": text, "data": asked.get("data"), "by": by or (name or "")[:100] or "page", "via": via}
