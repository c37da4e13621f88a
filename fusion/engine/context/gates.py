"""Gates of a stage: questions to people, kept as two decisions each in the journal of the run."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fusion.core.errors import StageError, Waits
from fusion.core.events import GateAnswered, GateOpened
from fusion.core.types import REJECT, Gate, GateAnswer, GateQuestion
from fusion.stages.context import StageGates
from fusion.store.gates import gate_of, is_due

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext

T = TypeVar("T")

NOT_KEPT: Final = (
    'keep the run with its prompts (a store, and `content = "full"` in [store]), or run it at a terminal, which asks '
    "at once"
)
_TIMEOUT: Final = "timeout"
_TOLD: Final = "told of "


class RunGates(StageGates):
    """Asks people. The run ends at an open gate, and goes on with the answer in a later process."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx
        self._journal = ctx.run.recorder.journal

    async def ask(self, question: GateQuestion, *, item: int | None = None) -> GateAnswer:
        item, name = self._ctx.placed(item, question.decision)
        gate = self._opened(question, item, name)
        answer = self._known(gate) or await self._late(gate) or await self._asked(gate)
        if answer is None:
            if gate not in self._ctx.run.gates:
                self._ctx.run.gates.append(gate)
            raise Waits
        self._tell_answer(gate, answer)
        return answer

    def _opened(self, question: GateQuestion, item: int | None, name: str) -> Gate:
        """Return the gate of a question, opened now unless it was before."""
        place = self._ctx.place
        if (kept := self._journal.kept(place, item, name)) is not None:
            return gate_of(place, item, name, kept)
        since = datetime.fromtimestamp(time.time(), UTC)
        until = None if question.timeout is None else since + timedelta(seconds=question.timeout)
        asked = question.model_dump(exclude={"timeout", "name"})
        gate = Gate(stage=place, item=item, name=name, digest=question.digest, since=since, deadline=until, **asked)
        kept = gate.model_dump(mode="json", exclude={"stage", "item", "name"}, exclude_defaults=True)
        self._journal.keep(place, item, name, kept)
        self._tell_opened(gate)
        return gate

    def _known(self, gate: Gate) -> GateAnswer | None:
        """Return the answer that the journal has, also one of a run that this one continues."""
        kept = self._journal.kept(gate.stage, gate.item, gate.answer_name)
        if kept is None:
            return None
        self._journal.confirm(gate.stage, gate.item, gate.answer_name)
        return GateAnswer.model_validate(kept)

    async def _late(self, gate: Gate) -> GateAnswer | None:
        """Return the default of a gate whose deadline has passed, unless a person was first."""
        now = time.time()
        if not is_due(gate, now):
            return None
        at = datetime.fromtimestamp(now, UTC)
        return await self._first(gate, GateAnswer(**_default(gate), by=_TIMEOUT, at=at, via="timeout"))

    async def _asked(self, gate: Gate) -> GateAnswer | None:
        """Return the answer of the person who is there; None without one."""
        if self._ctx.run.person is None:
            if self._journal.disk is None:
                raise StageError(f"no person can be asked: {NOT_KEPT}")
            return None
        answer = await _on_thread(partial(self._ctx.run.person, gate))
        return None if answer is None else await self._first(gate, answer)

    async def _first(self, gate: Gate, answer: GateAnswer) -> GateAnswer:
        value = answer.model_dump(mode="json")
        return GateAnswer.model_validate(await self._journal.decide(gate.stage, gate.item, gate.answer_name, value))

    def _tell_opened(self, gate: Gate) -> None:
        self._ctx.emit(
            GateOpened(
                run_id=self._ctx.run.run_id,
                stage=gate.stage,
                item=gate.item,
                title=gate.title,
                who=gate.who,
                ask=gate.ask,
                text=gate.text,
                deadline=gate.deadline,
            )
        )

    def _tell_answer(self, gate: Gate, answer: GateAnswer) -> None:
        """Send the event of an answer, once for all processes of the run."""
        told = gate.stage, gate.item, _TOLD + gate.answer_name
        if self._journal.kept(*told) is not None:
            return
        self._journal.keep(*told, value=True)
        self._ctx.emit(
            GateAnswered(
                run_id=self._ctx.run.run_id,
                stage=gate.stage,
                item=gate.item,
                answer=answer.answer,
                by=answer.by,
                via=answer.via,
                answered=answer.at,
            )
        )


async def _on_thread(work: Callable[[], T]) -> T:
    """Return the result of work that may never end: its thread holds up neither a cancelled run nor the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if done.done() else call())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            settle(partial(done.set_exception, error))
        else:
            settle(partial(done.set_result, result))

    Thread(target=run, name="fusion-person", daemon=True).start()
    return await done


def _default(gate: Gate) -> dict[str, Any]:
    """Return the verdict and the data of a gate's default."""
    if gate.default == REJECT:
        return {"answer": "rejected"}
    return {"answer": "answered", "data": gate.default} if gate.ask == "data" else {"answer": "approved"}
