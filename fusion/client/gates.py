"""Gates: answers to the open questions of kept runs, from programs, commands and the page."""

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypedDict

from fusion.client.options import OnGate
from fusion.core.errors import UsageError
from fusion.core.result import Result
from fusion.core.types import Gate, GateAnswer, Via
from fusion.engine.context import AskPerson
from fusion.engine.durable import result_of
from fusion.store.base import Store
from fusion.store.gates import answer_gate, answer_of, chosen_gate, gates_of, goes_on
from fusion.store.lookup import find_run
from fusion.store.rows import RunFilter, RunRow

WAITING: Final = RunFilter(statuses=("waiting",))
_WAITER: Final = "-waiter"


class AnswerOptions(TypedDict, total=False):
    """Answer to a gate: `yes` or a no, an edited `text` or the reason of a no, and `data` of its schema.

    `by` is the name of the person, by default the user of this process; `via` the way that the answer came.
    """

    yes: bool
    text: str | None
    data: Any
    by: str | None
    via: Via


def answered(store: Store, given: str, place: str | None, options: AnswerOptions) -> tuple[Gate, GateAnswer]:
    """Record the answer to a gate of a run, by its id or a prefix of it, and return both.

    Raises GateError for one that was answered before, or an answer that does not fit; UsageError for no such gate.
    """
    row = find_run(store, given)
    gate = chosen_gate(store, row.run_id, place)
    return gate, answer_gate(store, row.run_id, gate, _answer(gate, options))


def person_of(on_gate: OnGate | None) -> AskPerson | None:
    """Return the function by which the engine asks, given that of a program."""
    return None if on_gate is None else partial(_asked, on_gate)


def _asked(on_gate: OnGate, gate: Gate) -> GateAnswer | None:
    said = on_gate(gate)
    if said is None or isinstance(said, GateAnswer):
        return said
    given: AnswerOptions = {"yes": said} if isinstance(said, bool) else {"data": said}
    if isinstance(said, str) and gate.ask != "data":
        given = {"text": said}
    return _answer(gate, given)


def _answer(gate: Gate, options: AnswerOptions) -> GateAnswer:
    return answer_of(
        gate,
        yes=options.get("yes", True),
        text=options.get("text"),
        data=options.get("data"),
        by=options.get("by") or user(),
        via=options.get("via", "python"),
    )


def user() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name belongs to the number of the user
        return "unknown"


def waiting_result(store: Store, row: RunRow, *, now: float | None = None) -> Result | None:
    """Return the Result of a run that waits for a person; None for one that can go on."""
    if row.status != "waiting":
        return None
    result = result_of(store, row)
    return None if goes_on(store, result.waiting, row.run_id, now=now) else result


def ready_runs(store: Store, *, quiet: float = 0.0, now: float | None = None) -> Iterator[RunRow]:
    """Yield the waiting runs that can go on, and that no process is waiting for; rows go on with their map.

    Those with an answer of the last `quiet` seconds are left to the process that answered.
    """
    at = time.time() if now is None else now
    for row in store.runs(WAITING):
        result = result_of(store, row) if row.content == "full" else None
        if result is not None and not is_awaited(store, row.run_id):
            recent = _last_answer(store, row.run_id) > at - quiet
            if not recent and goes_on(store, result.waiting, row.run_id, now=at):
                yield row


def _last_answer(store: Store, run_id: str) -> float:
    return max([one.answer.at.timestamp() for one in gates_of(store, run_id) if one.answer is not None], default=0.0)


@contextmanager
def awaited(store: Store, run_id: str) -> Iterator[None]:
    """Let other processes know that this one goes on with a run once it is answered.

    Raises UsageError if another one does.
    """
    lock = store.claim(run_id + _WAITER)
    if lock is None:
        raise UsageError(f"another process waits for run {run_id!r} already, and goes on with it")
    try:
        yield
    finally:
        lock.release()


def is_awaited(store: Store, run_id: str) -> bool:
    """Return True while a process waits for the answer to a run, and goes on with it."""
    return store.is_locked(run_id + _WAITER)
