"""loop: a body of stages is run in rounds until an expression holds."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fusion.core.budget import optional
from fusion.core.errors import BudgetError, StageError, close_names
from fusion.core.validation import Authored
from fusion.stages.base import LOOP, Body, BodyStage, ExpressionUse, OutputField, PromptUse, Stage
from fusion.stages.context import Round, StageContext, Variables
from fusion.stages.fields import Name, short_form
from fusion.stages.simulation import Chance, Estimate, Within

_MOST: Final = 50
_HOLDS: Final = 0.5
"""Share of rounds after which a quote supposes that `until` holds."""


class Carried(Authored):
    """A value that each round reads as `loop.NAME`. Short form: `next` alone."""

    next: str = Field(description="An expression over the stages of the body: the value for the next round.")
    first: str | None = Field(default=None, description="An expression: the value for the first round; else none.")


_AnyCarried = Annotated[Carried, BeforeValidator(short_form("next"), json_schema_input_type=str | Carried)]


class Loop(Stage):
    """Runs a body of stages in rounds, until an expression over their outputs holds, at most `max` times.

    Fields: `text`, `data` and `confidence` of the stage of the body that `output` names, in the last round.

    The stages of the body read each other, the inputs, and the stages before the loop. They read the number of the
    round as `loop.round`, from 1, and each value of `carry` as `loop.NAME`. Independent ones run at once.

    If `until` does not hold in the last round, its answer is taken, with a note; with `on_max: fail` the stage fails.
    Under `on_budget: finish`, a round that no longer fits the budget ends the loop with the answer of the one before.
    """

    kind: Literal["loop"] = "loop"
    body: dict[Name, BodyStage] = Field(min_length=1, description="The stages of a round, by name.")
    until: str = Field(description="An expression over the body's stages and `loop`: true ends the loop.")
    max: int = Field(ge=1, le=_MOST, description=f"Most rounds, 1 to {_MOST}.")
    carry: dict[Name, _AnyCarried] = Field(
        default={}, description="Values for the next round by name: an expression, or `{first, next}`."
    )
    output: str | None = Field(
        default=None, description="The stage of the body that gives the answer; by default the last one."
    )
    on_max: Literal["answer", "fail"] = Field(
        default="answer", description="Effect of `max` rounds without `until`: take the last answer, or fail."
    )

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    estimate: ClassVar[Estimate] = Estimate(
        cost="The calls of the body, once for each round.",
        expects="`until` holds after 5 of 10 rounds; in the worst case never.",
        example="""\
inputs: {task: A text to write.}
stages:
  refine:
    kind: loop
    max: 3
    body:
      draft: {kind: generate, role: bulk, prompt: "{{ inputs.task }} {{ loop.draft or '' | fence }}"}
      check: {kind: generate, role: frontier, schema: {good: boolean}, prompt: "Is it good? {{ draft | fence }}"}
    until: check.data.good
    carry: {draft: draft.text}
    output: draft
output: refine
""",
        calls=lambda stage, items, within: stage._most_calls(within),
        supposed=lambda stage, chance: stage._supposed(chance),
    )

    @field_validator("carry")
    @classmethod
    def _names_are_free(cls, carry: dict[str, Carried]) -> dict[str, Carried]:
        if "round" in carry:
            raise ValueError("reserved name 'round': `loop.round` is the number of the round; choose another")
        return carry

    @model_validator(mode="after")
    def _output_is_in_the_body(self) -> "Loop":
        if self.output is not None and self.output not in self.body:
            raise ValueError(f"`output`: no stage {self.output!r} in the body{close_names(self.output, self.body)}")
        return self

    @property
    def answers(self) -> str:
        """The stage of the body that gives the answer."""
        return self.output or next(reversed(self.body))

    @property
    def graph(self) -> Body:
        nexts = {f"carry.{name}.next": one.next for name, one in self.carry.items()}
        outputs = {"until": self.until, **nexts, "output": self.answers}
        return Body("body", self.body, outputs, self.answers, self.max)

    def among(self, stages: Mapping[str, Stage]) -> "Loop":
        known = {name: one.among({**stages, **self.body}) for name, one in self.body.items()}
        return self.model_copy(update={"body": known})

    @property
    def gives_data(self) -> bool:
        stage = self.body[self.answers]
        return stage.gives_data or stage.output_fields[0].feed

    def prompts(self) -> Iterator[PromptUse]:
        for name, stage in self.body.items():
            for use in stage.prompts():
                yield replace(use, key=f"body.{name}.{use.key}", offers=use.offers | self._own_names)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("until", self.until, self._own_names)
        for name, one in self.carry.items():
            if one.first is not None:
                yield ExpressionUse(f"carry.{name}.first", one.first)
            yield ExpressionUse(f"carry.{name}.next", one.next, self._own_names)
        for name, stage in self.body.items():
            for inner in stage.expressions():
                offers = inner.offers | stage.item_offers | self._own_names
                yield replace(inner, key=f"body.{name}.{inner.key}", offers=offers, flows=False)

    def roles(self) -> Iterator[tuple[str, str]]:
        for name, stage in self.body.items():
            for key, role in stage.roles():
                yield f"body.{name}.{key}", role

    @property
    def _own_names(self) -> frozenset[str]:
        return frozenset({*self.body, LOOP})

    def _most_calls(self, within: Within | None) -> int | None:
        if within is not None:
            calls = [within.get("")]
        else:
            each = self.body.values()
            calls = [None if stage.follows else stage.estimate.calls(stage, 1, None) for stage in each]
        known = [count for count in calls if count is not None]
        return self.max * sum(known) if len(known) == len(calls) else None

    def _supposed(self, chance: Chance) -> "Loop":
        """Return the loop with a number of rounds that is left to chance: then it ends with its last answer."""
        rounds = next((n for n in range(1, self.max) if not chance.worst and chance.happens(_HOLDS)), self.max)
        return self.model_copy(update={"until": "false", "max": rounds, "on_max": "answer"})

    async def run(self, ctx: StageContext) -> None:
        around = await ctx.inputs.values()
        carried = {
            name: None if one.first is None else await ctx.inputs.value_of(one.first, around)
            for name, one in self.carry.items()
        }
        done: Round | None = None
        for number in range(1, self.max + 1):
            own = {**around, LOOP: {"round": number, **carried}}
            try:
                with nullcontext() if done is None else optional():
                    turn = await ctx.models.run_round(number, own)
            except BudgetError as error:
                if done is None or not ctx.finishing:
                    raise
                self._end(ctx, done, number - 1, f"round {number} exceeds the budget: {error}", noted=True)
                return
            done = turn
            if await self._value(ctx, done, own, "until", self.until):
                self._end(ctx, done, number, "`until` holds")
                return
            if number < self.max:
                carried = {
                    name: await self._value(ctx, done, own, f"carry.{name}.next", one.next)
                    for name, one in self.carry.items()
                }
        assert done is not None
        why = f"`until` does not hold after {self.max} round{'s' * (self.max > 1)}"
        if self.on_max == "fail":
            raise StageError(f"{why}; raise `max`, or take the last answer by `on_max: answer`")
        self._end(ctx, done, self.max, f"{why}: the last answer is taken", noted=True)

    async def _value(self, ctx: StageContext, turn: Round, own: Variables, key: str, source: str) -> Any:
        """Return the value of an expression over the stages of a round."""
        return await ctx.inputs.value_of(source, {**own, **await turn.read(key)})

    def _end(self, ctx: StageContext, turn: Round, number: int, reason: str, *, noted: bool = False) -> None:
        ctx.events.decided(f"round-{number}", reason)
        if noted:
            ctx.events.note(reason)
        for name, value in turn.outcome._asdict().items():
            ctx.outputs.give(name, value)
