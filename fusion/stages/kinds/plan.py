"""plan: a model splits the request into subtasks, each handed on as soon as it is complete."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fusion.core.errors import BadResponseError, ModelError, StageError
from fusion.core.schema import array, closed_object, enum, string
from fusion.core.types import Attached, Item, JsonSchema, Message
from fusion.stages.base import ExpressionUse, ModelStage, OutputField, PromptUse, Reads
from fusion.stages.context import Ask, StageContext, Variables
from fusion.stages.simulation import Chance, Estimate, Spread, plausible
from fusion.stages.subtasks.combine import COMBINE_SCHEMA, KINDS
from fusion.stages.subtasks.plan_reader import HEAD, PlanReader, Taken
from fusion.stages.subtasks.sectioned import sectioned_plan, sectioned_schema
from fusion.stages.text.sections import MOST_NAMED, Sections, ranges

_MOST_CONTINUATIONS = 3
_EMPTY: Mapping[str, Any] = {"constraints": [], "combine": None}
_BROKE_OFF = "broke off"
_IN_WORDS = 0.5  # share of the requests of `each: section` whose parts no code combines


class Plan(ModelStage):
    """Splits the request into an ordered list of subtasks.

    Fields: `subtasks` (a feed), `goal`, `constraints`, `merge_instructions`, `combine`.

    A subtask has `title`, self-contained `instructions`, `needs` (numbers of earlier subtasks), `sections` (numbers
    of sections of the material), `difficulty` from 1 to 5, `capabilities`, `expected_output`, `criteria` and `value`.
    It is handed on for good once its JSON object is complete. A truncated plan is continued; one that cannot be
    parsed is requested once more.

    Long material, of at least 3 sections and 800 tokens, is cut into numbered sections. The planner reads their
    outline, and each subtask names those that its work needs. One that is called as a heading, and names other
    sections, reads those of the heading. Short material is read whole by all.

    With `each: section` every section that the planner names is a subtask, and all have one question. The planner
    reads headings only and writes some 50 tokens, whatever the number of subtasks.

    `combine` names a way in which code combines the values of the subtasks: `how` is sum, difference, average, count,
    highest, lowest, list or table; with `only` the result is the answer. It is null for all else.
    """

    kind: Literal["plan"] = "plan"
    max_subtasks: int = Field(default=12, ge=1, le=10_000, description="Most subtasks of a plan.")
    continue_prompt: str = Field(default="plan/continue", description="The template of a plan's continuation.")
    sections: str | None = Field(
        default=None, description="The sections: an expression for a list, such as a split's items; by default cut."
    )
    each: Literal["subtask", "section"] = Field(
        default="subtask", description="A subtask: planned by itself, or a section with one question for all."
    )
    outline: Literal["auto", "never"] = Field(
        default="auto", description="With `never` the planner reads all sections in full."
    )

    outputs: ClassVar[tuple[OutputField, ...]] = (
        OutputField("subtasks", feed=True),
        OutputField("goal"),
        OutputField("constraints"),
        OutputField("merge_instructions"),
        OutputField("combine"),
    )
    plans: ClassVar[bool] = True
    own_reads: ClassVar[Reads] = "outline"
    own_max_tokens: ClassVar[int] = 4000
    default_prompt: ClassVar[str] = "plan/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"max_subtasks"})
    prompt_extras: ClassVar[frozenset[str]] = frozenset({"combines"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            f"One call; up to {_MOST_CONTINUATIONS} more if the plan is truncated, one more if it cannot be parsed."
        ),
        expects=(
            "42 of 100 of `max_subtasks`, from 20 to all; one in five is hard (difficulty 4 or 5), one in ten needs "
            "another. A subtask names 1 to 3 sections, mostly one."
        ),
        shares={"difficulty": {1: 0.2, 2: 0.35, 3: 0.25, 4: 0.15, 5: 0.05}},
        sizes={
            "subtasks": Spread(0.2, 0.42, 1.0),
            "needs": Spread(0.0, 0.01, 0.1),
            "criteria": Spread(0.1, 0.3, 0.8),
            "sections": Spread(0.06, 0.1, 0.375),
        },
        even=frozenset({"sections"}),
        example="""\
inputs: {task: What is to be done.}
stages:
  plan: {kind: plan, role: frontier, max_subtasks: 6}
  work: {kind: map, over: plan, role: bulk}
  answer: {kind: merge, over: work, role: frontier}
output: answer
""",
        calls=lambda stage, items, within: stage._most_calls(),
        items=lambda stage, items: stage.max_subtasks,
        reply=lambda stage, *call: stage._reply(*call),
    )

    def _most_calls(self) -> int:
        if self.each == "section":
            return self.calls_of_an_answer(shaped=True)
        return 1 + _MOST_CONTINUATIONS + (self.on_error == "escalate")

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        made = plausible(self, step, schema, tokens, chance)
        if self.each == "section" and isinstance(made, dict):
            most = (schema or {})["properties"]["sections"]["maxItems"]
            count = min(most, max(1, round(chance.among(self.estimate.sizes["subtasks"]) * most, 0)))
            how = {"how": "none" if chance.happens(_IN_WORDS) else "list"} if "how" in made else {}
            return {**made, "sections": [str(number) for number in range(1, int(count) + 1)], **how}
        return made

    @property
    def template(self) -> str:
        return self.prompt or ("plan/sections" if self.each == "section" else self.default_prompt)

    @model_validator(mode="after")
    def _sections_have_their_effect(self) -> "Plan":
        if self.reading != "outline" and (given := sorted({"sections", "outline"} & self.model_fields_set)):
            raise ValueError(f"`{given[0]}` has an effect with `reads: outline` only")
        if self.each == "section" and self.reading != "outline":
            raise ValueError("`each: section` needs `reads: outline`, which shows the planner the sections")
        if self.each == "section" and "continue_prompt" in self.model_fields_set:
            raise ValueError("`continue_prompt` has no effect with `each: section`, whose plan is not continued")
        return self

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        if self.each == "section":
            return
        yield PromptUse("continue_prompt", self.continue_prompt, self.prompt_offers | {"accepted"})

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self.sections is not None:
            yield ExpressionUse("sections", self.sections, worked_on=True)

    async def run(self, ctx: StageContext) -> None:
        variables = {**await ctx.inputs.values(), "max_subtasks": self.max_subtasks}
        sections = self._sections(ctx, variables)
        if self.each == "section":
            await self._each_section(ctx, variables, sections or Sections(()))
            return
        if sections is not None:
            variables["material"] = sections.numbered() if self.outline == "never" else sections.outline()
        combines = ctx.inputs.combines
        variables = {"combines": combines, **variables}
        taken = Taken(self.max_subtasks, sections or Sections(()), combines)
        reader = PlanReader(taken, lambda head: _give(ctx, head), ctx.outputs.feed("subtasks"), ctx)
        ask = self.ask(ctx, variables, "plan")._replace(
            schema=plan_schema(self.max_subtasks, sections=len(taken.sections), combines=combines),
            parse=False,
            deltas=reader,
        )
        breaks = _Breaks(ctx)
        ended = await self._ask(ctx, ask, reader, breaks)
        for number in range(1, _MOST_CONTINUATIONS + 1):
            if ended or not reader.committed:
                break
            following = ask._replace(avoid=breaks.models)
            ended = await self._continue(ctx, following, variables, reader, number, breaks)
        if not reader.committed:
            await self._once_more(ctx, ask, reader)
        elif not ended:
            raise breaks.as_error() or StageError(
                f"the plan was cut off {_MOST_CONTINUATIONS + 1} times; raise `max_tokens` of the stage"
            )
        ctx.outputs.grow(reader.accepted, final=True)
        if sections is not None and (unnamed := reader.unnamed()):
            ctx.events.note(f"{len(unnamed)} of {len(sections)} sections are in no subtask: {ranges(unnamed)}")

    async def _each_section(self, ctx: StageContext, variables: Variables, sections: Sections) -> None:
        """Plan one question to the sections that the planner names."""
        combines = ctx.inputs.combines
        shown = sections.numbered() if self.outline == "never" else sections.headings()
        material = shown if len(sections) else Attached()
        ask = self.ask(ctx, {"combines": combines, **variables, "material": material}, "plan")
        most = min(self.max_subtasks, max(len(sections), 1))
        answer = await self.answer(ctx, ask._replace(schema=sectioned_schema(most, combines=combines)))
        plan = sectioned_plan(answer.data, sections, str(variables["request"]), self.max_subtasks)
        for note in plan.notes():
            ctx.events.note(note)
        _give(ctx, {"goal": plan.question, "combine": plan.combine if combines else None})
        for index, subtask in enumerate(plan.subtasks):
            ctx.outputs.feed("subtasks").append(Item(index=index, source=subtask, value=subtask))
            ctx.outputs.grow(index + 1, title=subtask["title"])
        ctx.outputs.grow(len(plan.subtasks), final=True)

    def _sections(self, ctx: StageContext, variables: Variables) -> Sections | None:
        """Return the sections that subtasks name; None if the material is read whole. An event says which."""
        if self.reading != "outline":
            return None
        parts = None if self.sections is None else ctx.inputs.evaluate(self.sections, variables)
        sections, used = ctx.inputs.sections(parts)
        if len(sections):
            way = "whole" if not used else "numbered" if self.outline == "never" else "outline"
            ctx.events.decided(way, f"{sections}: {way}")
        return sections if used else None

    async def _ask(self, ctx: StageContext, ask: Ask, reader: PlanReader, breaks: "_Breaks") -> bool:
        """Request the plan or its rest. Return True if it is complete."""
        escalated = ask._replace(role=self.escalate_to or ask.role, step=f"{ask.step}-escalated")
        if (self.escalate_to and reader.begin(escalated)) or reader.begin(ask):
            ctx.events.note(f"the first {reader.accepted} subtasks were accepted before the run was resumed")
            breaks.recall(ask)
            return reader.ended
        try:
            answer = await ctx.models.call(ask)
        except ModelError as error:
            if not reader.committed and self.on_error == "escalate" and self.escalate_to and not error.stops:
                ctx.events.note(f"{ask.step}: {error}; asking {self.escalate_to!r}")
                reader.restart()
                reader.begin(escalated)
                answer = await ctx.models.call(escalated)
            elif reader.committed and not error.stops:
                ctx.events.note(f"the plan broke off after subtask {reader.accepted} ({error}); asking for the rest")
                breaks.add(ask, error)
                return reader.ended
            elif isinstance(error, BadResponseError):
                reader.last = error.text
                return False
            else:
                raise
        reader.take(answer)
        breaks.over()
        if reader.torn and reader.committed and answer.finish_reason == "stop":
            ctx.events.note(f"the plan cannot be parsed after subtask {reader.accepted}; asking for the rest")
        return reader.ended or (answer.finish_reason == "stop" and not reader.torn)

    async def _continue(
        self,
        ctx: StageContext,
        ask: Ask,
        variables: Variables,
        reader: PlanReader,
        number: int,
        breaks: "_Breaks",
    ) -> bool:
        reader.next_part()
        accepted = json.dumps(reader.as_plan(), ensure_ascii=False)
        words = ctx.inputs.render(self.continue_prompt, {**variables, "accepted": reader.accepted})
        messages = (*ask.messages, Message(role="assistant", content=accepted), *words)
        return await self._ask(ctx, ask._replace(messages=messages, step=f"continue-{number}"), reader, breaks)

    async def _once_more(self, ctx: StageContext, ask: Ask, reader: PlanReader) -> None:
        """Parse an unusable plan as a whole, with repair; else request it once more with all its errors."""
        errors = await reader.read_whole(ask.schema or {})
        if not errors:
            return
        ctx.events.note(f"the plan cannot be used ({'; '.join(errors)}); asking once more")
        words = "This plan cannot be used:\n" + "\n".join(f"- {e}" for e in errors) + "\nWrite the whole plan again."
        last = (Message(role="assistant", content=reader.last),) if reader.last.strip() else ()
        messages = (*ask.messages, *last, Message(role="user", content=words))
        reader.next_part()
        await self._ask(ctx, ask._replace(messages=messages, step="again"), reader, _Breaks(ctx))
        if not reader.committed and (errors := await reader.read_whole(ask.schema or {})):
            raise _unreadable(errors, reader)


class _Breaks:
    """Replies that broke off after subtasks were accepted. The rest of the plan is asked of other models first.

    They are kept, so that a resumed run asks the same model for the rest.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.models: tuple[str, ...] = ()
        self._journal = ctx.journal
        self._last = ""

    def add(self, ask: Ask, error: ModelError) -> None:
        self._journal.keep(_BROKE_OFF, {"model": error.model, "message": str(error)}, of=ask)
        self._take(error.model, str(error))

    def recall(self, ask: Ask) -> None:
        """Take the break of an earlier session, if the reply to this call broke off."""
        kept = self._journal.kept(_BROKE_OFF, of=ask)
        if kept is not None:
            self._take(kept["model"], kept["message"])

    def over(self) -> None:
        """Note that the latest reply has come whole."""
        self._last = ""

    def as_error(self) -> StageError | None:
        """Return the error of a plan whose last reply broke off; None if it reached its limit."""
        if not self._last:
            return None
        times = "once" if len(self.models) == 1 else f"{len(self.models)} times"
        return StageError(
            f"the plan broke off {times}, the last time with: {self._last}; try again later, or give the role a chain"
            " with a model of another provider"
        )

    def _take(self, model: str, message: str) -> None:
        self.models, self._last = (*self.models, model), message


def _unreadable(errors: list[str], reader: PlanReader) -> StageError:
    error = StageError(f"no plan could be read, twice: {'; '.join(errors)}")
    error.calls = reader.calls
    return error


def plan_schema(max_subtasks: int, *, sections: int = 0, combines: bool = False) -> JsonSchema:
    """Return the schema of a plan: bounded everywhere, the subtasks last, so that each can be read as it arrives.

    Subtasks name so many `sections`; with `combines`, the plan may choose a combination of their values.
    """
    number = {"type": "integer", "minimum": 1, "maximum": sections}
    subtask = {
        "title": string(100),
        "instructions": string(1000),
        "needs": array({"type": "integer", "minimum": 1, "maximum": max_subtasks}, 8),
        **({"sections": array(number, MOST_NAMED)} if sections else {}),
        "difficulty": {"type": "integer", "minimum": 1, "maximum": 5},
        "capabilities": array(string(30), 3),
        "expected_output": string(200),
        "criteria": array(string(150), 3),
        **({"value": enum(KINDS)} if combines else {}),
    }
    plan = {
        "goal": string(300),
        "constraints": array(string(300), 8),
        "merge_instructions": string(500),
        **({"combine": COMBINE_SCHEMA} if combines else {}),
        "subtasks": array(closed_object(subtask), max_subtasks, least=1),
    }
    return closed_object(plan)


def _give(ctx: StageContext, head: dict[str, Any]) -> None:
    for name in HEAD:
        ctx.outputs.give(name, head.get(name, _EMPTY.get(name, "")))
