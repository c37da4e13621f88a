"""gate: a person approves, edits or answers before the run goes on."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from fusion.core.bounded import clock
from fusion.core.errors import FusionError, StageError, UsageError
from fusion.core.schema import to_json_schema, validate
from fusion.core.types import REJECT, AskedFor, GateAnswer, GateQuestion, Item, JsonSchema, as_text
from fusion.stages.base import ExpressionUse, OutputField, PromptUse, Stage
from fusion.stages.context import StageContext, Variables
from fusion.stages.fields import Duration
from fusion.stages.simulation import Chance, Estimate

_ANSWER: Final = 20_000
"""Characters that a person may always answer with."""
_APPROVE: Final = "approve"

Form = Annotated[
    str | dict[str, Any],
    WithJsonSchema({"anyOf": [{"enum": ["approve", "edit"]}, {"type": "object"}]}),
]


class _Shown(NamedTuple):
    """A shown value: its text, and its data if it is no text."""

    text: str
    data: Any = None


class Gate(Stage):
    """Asks a person, and waits for the answer. Fields: `text`, `data`, and `by`, the person who answered.

    `show` is a template, or an expression such as `draft`. With `ask: approve` the answer is yes or no, and the
    fields hold what was shown. With `ask: edit` the person may change it first. With a schema the person fills it in,
    and `data` holds the answer. A no is a failure: "rejected by NAME".

    All other stages go on until nothing more can be done. Then the run waits, without a process and at no cost, until
    `fusion approve`, the page or a program answers; `fusion resume` goes on from there. The first answer counts. With
    a `timeout`, `default` is the answer at the deadline: `approve`, `reject`, or data that match the schema.
    """

    kind: Literal["gate"] = "gate"
    show: str = Field(
        min_length=1, description="The text for the person: a template, or an expression such as `draft`."
    )
    ask: Form = Field(default="approve", description="The answer: approve, edit, or data in short types.")
    title: str = Field(default="", max_length=200, description="The question in a few words, for lists.")
    who: str = Field(default="", max_length=200, description="The person or team to ask, in words.")
    timeout: Duration | None = Field(
        default=None,
        description="Time until `default` is the answer: seconds, or 90m, 36h, 3d.",
    )
    default: Any = Field(
        default=None, description="The answer at the deadline: `approve`, `reject`, or data of the schema."
    )

    keeps_time: ClassVar[bool] = True
    own_default: ClassVar[bool] = True
    asks_person: ClassVar[bool] = True
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("by"))
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model.",
        expects="A person approves at once.",
        example="""\
inputs: {task: What to write.}
stages:
  draft: {kind: generate, role: frontier}
  approval: {kind: gate, show: draft, ask: edit, title: Send this?, timeout: 3d, default: reject}
output: approval
""",
        calls=lambda stage, items, within: 0,
        supposed=lambda stage, chance: _Supposed(**{**dict(stage), "chance": chance}),
    )

    @field_validator("ask")
    @classmethod
    def _a_known_form(cls, ask: Any) -> Any:
        if isinstance(ask, str) and ask not in ("approve", "edit"):
            raise ValueError(f"expected approve, edit, or a schema such as {{amount: number}}, got {ask!r}")
        return ask

    @model_validator(mode="after")
    def _default_is_an_answer(self) -> "Gate":
        if (self.timeout is None) != (self.default is None):
            missing = "`timeout`, the time until it holds" if self.timeout is None else "`default`, the answer then"
            given = "default" if self.timeout is None else "timeout"
            raise ValueError(f"`{given}` needs {missing}")
        if self.default is not None and self.default != REJECT and (flaw := self._flaw(self.default)):
            raise ValueError(f"`default` is no answer: {flaw}")
        return self

    def _flaw(self, default: Any) -> str:
        """Return the reason why a default is no answer; empty for one that is."""
        if isinstance(self.ask, str):
            return "" if default == _APPROVE else f"expected approve or reject, got {default!r}"
        try:
            schema = to_json_schema(self.ask)
        except UsageError:
            return ""  # told with its own place
        return "; ".join(validate(default, schema)[:3])

    @property
    def asked_for(self) -> AskedFor:
        """The form of the answer."""
        return "data" if isinstance(self.ask, dict) else "edit" if self.ask == "edit" else "approve"

    @property
    def if_skipped(self) -> Any:
        return None

    @property
    def gives_data(self) -> bool:
        return self.asked_for == "data" or self._is_expression

    @property
    def _is_expression(self) -> bool:
        """True if `show` names a value, False for a template or its name."""
        return not any(mark.isspace() or mark in "/{" for mark in self.show.strip())

    def survives(self, error: FusionError, *, finishing: bool) -> bool:
        return self.on_error == "skip" and isinstance(error, StageError)

    def prompts(self) -> Iterator[PromptUse]:
        if not self._is_expression:
            yield PromptUse("show", self.show, for_model=False)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self._is_expression:
            yield ExpressionUse("show", self.show.strip())

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        if isinstance(self.ask, dict):
            yield "ask", self.ask

    async def run(self, ctx: StageContext) -> None:
        shown = await self._shown(ctx, await ctx.inputs.values())
        answer = await self._answer(ctx, shown)
        if answer.answer == "rejected":
            why = f": {answer.text}" if answer.text else ""
            raise StageError(f"rejected by {answer.by}{why}")
        ctx.events.decided(answer.answer, f"by {answer.by} ({answer.via}), {answer.at:%Y-%m-%d %H:%M:%S} UTC")
        self._give(ctx, shown, answer)

    async def _answer(self, ctx: StageContext, shown: _Shown) -> GateAnswer:
        return await ctx.gates.ask(
            GateQuestion(
                text=shown.text,
                ask=self.asked_for,
                title=self.title,
                who=self.who,
                json_schema=ctx.inputs.schema("ask"),
                is_data=shown.data is not None,
                timeout=self.timeout,
                default=self.default,
            )
        )

    async def _shown(self, ctx: StageContext, variables: Variables) -> _Shown:
        if not self._is_expression:
            return _Shown(await ctx.inputs.text(self.show, variables))
        value = await ctx.inputs.value_of(self.show.strip(), variables)
        return await clock.run(partial(_shown, value), size=clock.size_of(value))

    def _give(self, ctx: StageContext, shown: _Shown, answer: GateAnswer) -> None:
        text, data = shown
        if answer.answer == "answered":
            text, data = as_text(answer.data), answer.data
        elif answer.answer == "edited":
            text, data = (as_text(answer.data) if answer.text is None else answer.text), answer.data
        ctx.outputs.give("text", text)
        ctx.outputs.give("data", data)
        ctx.outputs.give("by", answer.by)


class _Supposed(Gate):
    """A gate in a simulated run: the person approves, or gives data of the schema, at once.

    In the worst case the person edits the text, to the greatest length.
    """

    chance: Any = None

    async def _answer(self, ctx: StageContext, shown: _Shown) -> GateAnswer:
        from datetime import UTC, datetime  # a run needs none of it

        given = {"by": "a person", "at": datetime.now(UTC), "via": "timeout"}
        chance: Chance = self.chance
        schema: JsonSchema | None = ctx.inputs.schema("ask")
        if schema is not None:
            return GateAnswer(answer="answered", data=chance.data(schema, self.estimate, _ANSWER // 4), **given)
        if self.ask == "edit" and chance.worst:
            return GateAnswer(answer="edited", text=chance.text(max(_ANSWER, 2 * len(shown.text)) // 4), **given)
        return GateAnswer(answer="approved", **given)


def _shown(value: Any) -> _Shown:
    """Return a value as it is shown: texts as they are, the values of items, other data as JSON."""
    if isinstance(value, str):
        return _Shown(str(value))
    if isinstance(value, list) and value and all(isinstance(item, Item) for item in value):
        value = [item.value for item in value if item.ok]
    data = json.loads(as_text(value))
    return _Shown(json.dumps(data, indent=2, ensure_ascii=False), data)
