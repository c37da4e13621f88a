"""Repairs of an answer that a check refused: by its writer, then by a stronger role."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fusion.core.budget import optional
from fusion.core.errors import BudgetError, ModelError
from fusion.core.types import Attached, Item, as_text
from fusion.stages.answer import AnswerStage
from fusion.stages.context import Ask, Producer, StageContext, Variables
from fusion.stages.subtasks.checked import repaired_value, shape_of_repair
from fusion.stages.verification.verifier import Verdict, Verifier


class Verified(NamedTuple):
    """An answer with the verdict on it: its value, the model that wrote it, and the number of the attempt."""

    value: Any
    by: str
    attempt: int
    verdict: Verdict

    @property
    def reason(self) -> str:
        """The outcome in words."""
        by = f", by {self.by}" if self.by else ""
        if self.verdict.passed:
            return f"at attempt {self.attempt}{by}"
        return f"after attempt {self.attempt}{by}: {self.verdict.summary}"


class Turn(NamedTuple):
    """A repair to come: `repair` or `escalate`, its role, and its number."""

    name: str
    role: str
    number: int


class Plan(NamedTuple):
    """Repairs of one answer: the stage that asks for them, their turns, and the shape and limit of each."""

    stage: AnswerStage
    turns: Sequence[Turn]
    variables: Variables
    item: Item | None
    producer: Producer


class Repairs:
    """Repairs one answer in turns, until the verifier accepts it."""

    def __init__(self, ctx: StageContext, verifier: Verifier, plan: Plan) -> None:
        self._ctx = ctx
        self._verifier = verifier
        self._plan = plan
        self._index = None if plan.item is None else plan.item.index

    async def of(self, answer: Verified, task: Attached) -> Verified:
        """Return the first repair that passes, or the last answer. A repeated answer ends the turns of its role."""
        earlier, spent, author = {as_text(answer.value)}, set[str](), "repair"
        for turn in self._plan.turns:
            own = author == turn.name
            made = None if turn.name in spent else await self._made(turn, answer, task, own=own)
            if made is None:
                continue
            value, by = made
            if as_text(value) in earlier:
                self._note(f"{by!r} repeats an answer that did not pass", turn)
                spent.add(turn.name)
                continue
            earlier.add(as_text(value))
            author = turn.name
            answer = Verified(value, by, len(earlier), await self._verdict(value, task, len(earlier)))
            if answer.verdict.passed:
                break
        return answer

    async def _verdict(self, value: Any, task: Attached, count: int) -> Verdict:
        item = self._plan.item
        seen = {} if item is None else {"item": item.model_copy(update={"value": value})}
        variables = {**self._plan.variables, **seen}
        return await self._verifier.verdict(value, variables, task=task, item=self._index, step=f"verdict-{count}")

    async def _made(self, turn: Turn, answer: Verified, task: Attached, *, own: bool) -> tuple[Any, str] | None:
        """Return a repaired value and its model; None if the call fails, or the budget ends and the run finishes."""
        try:
            with optional():
                return await self._asked(turn, answer, task, own=own)
        except BudgetError:
            if not self._ctx.finishing:
                raise
            self._note("it exceeds the budget, and the answer stays as it is", turn)
        except ModelError as error:
            if error.stops:
                raise
            self._ctx.journal.set_aside(error)
            self._note(str(error), turn)
        return None

    async def _asked(self, turn: Turn, answer: Verified, task: Attached, *, own: bool) -> tuple[Any, str]:
        stage, item, producer = self._plan.stage, self._plan.item, self._plan.producer
        said = {"value": answer.value, "log": answer.verdict.log, "task": task, "own": own}
        said["escalated"] = turn.name == "escalate"
        ask = Ask(
            role=turn.role,
            messages=self._ctx.inputs.render(stage.template, {**self._plan.variables, **said}),
            step=f"{turn.name}-{turn.number}",
            item=self._index,
            schema=producer.schema if item is None else shape_of_repair(item, producer.schema),
            max_tokens=producer.max_tokens,
            temperature=stage.temperature,
        )
        made = await stage.entire(self._ctx, ask)
        if item is not None and made.data is not None:
            return repaired_value(self._ctx, item, producer.schema, made.value), made.by
        return as_text(made.value) if isinstance(answer.value, str) else made.value, made.by

    def _note(self, words: str, turn: Turn) -> None:
        self._ctx.events.note(f"{turn.name}-{turn.number}: {words}", item=self._index)
