"""Base classes of stages: the spec of a stage, its output fields, and everything that it reads."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from fusion.core.errors import BadResponseError, BudgetError, FusionError, ModelError
from fusion.core.params import Cacheable, Params, Resilience
from fusion.core.types import Attached, Item, JsonSchema, Limits, Message
from fusion.core.validation import Authored
from fusion.stages.context import Answer, Ask, StageContext, Variables
from fusion.stages.fields import Choice, OutputSchema, RoleChoice
from fusion.stages.simulation import Estimate

Reads = Literal["item", "all", "outline", "none"]
LEARNED: Final = "learned"
"""Variable of conditions: the learned figures, as in `learned.LABEL.ROLE.accuracy`."""
OF_CONDITIONS: Final = frozenset({LEARNED})
_PIPELINE: Final = "pipeline"
_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")
NUMBER: Final = "number"
"""Variable of checks: the number that the checked value gives, such as 4634.5 of "The total is 4,634.50."."""
OF_CHECKS: Final = frozenset({"value", NUMBER})
LOOP: Final = "loop"
"""Variable of a body: the number of its round, and the values carried on, as in `loop.round`."""
OUTER_KEYS: Final = ("when", "needs", "default")
"""Keys that an inner stage leaves to the stage around it."""
REPLACED: Final = frozenset({LEARNED, NUMBER})
"""Variables of expressions that a stage of the same name replaces."""


class OutputField(NamedTuple):
    """An output field of a stage: a value, or a feed of items."""

    name: str
    feed: bool = False


@dataclass(frozen=True, slots=True)
class PromptUse:
    """A template of a stage: its key, its text or name, and the variables that the stage adds to it.

    A template `for_model` can print the `material`, too. A stage of the pipeline replaces one of the `extras` of its
    name. One `of_inputs` reads nothing that a model wrote.
    """

    key: str
    template: str
    offers: frozenset[str] = frozenset()
    extras: frozenset[str] = frozenset()
    for_model: bool = True
    of_inputs: bool = False


@dataclass(frozen=True, slots=True)
class ExpressionUse:
    """An expression of a stage; with `flows`, a bare path is followed item by item.

    Inputs that a `worked_on` expression reads are material.
    """

    key: str
    source: str
    offers: frozenset[str] = frozenset()
    flows: bool = False
    worked_on: bool = False


@dataclass(frozen=True, slots=True)
class PipelineUse:
    """A pipeline that a stage runs: its key, its name or path, and the names of its inputs.

    One that the stage calls as a `tool` takes its inputs from the arguments of each call. Paths of its stages have
    the name of the tool behind that of the stage.
    """

    key: str
    pipeline: str
    inputs: frozenset[str] = frozenset()
    tool: str = ""

    @property
    def within(self) -> str:
        """The end of the paths of the pipeline's stages, behind the path of the stage that runs it."""
        return f"/{self.tool}" if self.tool else ""


MATERIAL_SEARCH: Final = "material.search"
"""The built-in tool that searches the material of the run."""
MATERIAL_SECTIONS: Final = "material.sections"
"""The built-in tool that lists the sections of the material of the run."""
BUILT_IN: Final = frozenset({MATERIAL_SEARCH, MATERIAL_SECTIONS})
"""Tools that need no settings."""


def tool_pipeline(name: str) -> PipelineUse | None:
    """Return the pipeline that the name of a tool stands for: `pipeline:NAME`, or a file; None for other tools."""
    prefix, colon, pipeline = name.partition(":")
    if (prefix, colon) != (_PIPELINE, ":"):
        if not name.endswith((".yaml", ".yml")):
            return None
        pipeline = name
    stem = PurePath(pipeline).stem if pipeline.endswith((".yaml", ".yml")) else pipeline
    return PipelineUse("", pipeline, tool=_OTHER.sub("_", stem)[:64])


@dataclass(frozen=True, slots=True)
class Body:
    """A graph within a stage, run in rounds: its key, its stages, and the most rounds.

    `outputs` are expressions over its stages by their keys; `answer` names the stage whose output is that of a round.
    """

    key: str
    stages: "Mapping[str, Stage]"
    outputs: Mapping[str, str]
    answer: str
    rounds: int


class Stage(Authored, ABC):
    """A node of the graph. The YAML node is this object; a kind is a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    outputs: ClassVar[tuple[OutputField, ...]]
    """The output fields; the stage's bare name means the first."""
    item_outputs: ClassVar[tuple[OutputField, ...]] = ()
    """The output fields of a kind that answers once or, with `over`, once for each item, in the second case."""
    own_max_tokens: ClassVar[int] = 2000
    """The output limit of a call if neither the stage nor `defaults` sets one."""
    inner_key: ClassVar[str] = ""
    """The key of the inner stages."""
    keeps_time: ClassVar[bool] = False
    """True for a kind that ends itself at its `timeout`, keeps finished items, and applies `on_error` to items."""
    passes_on: ClassVar[bool] = False
    """True for a kind whose items keep the shape of those that it follows."""
    plans: ClassVar[bool] = False
    """True for a kind whose items are subtasks, which name sections of the material."""
    combines: ClassVar[bool] = False
    """True for a kind that combines the values of a plan's subtasks."""
    judges: ClassVar[bool] = False
    """True for a kind that judges values: its template must show what they are judged against."""
    states_costs: ClassVar[bool] = False
    """True for a kind whose items state their cost."""
    spares: ClassVar[frozenset[str]] = frozenset()
    """Keys of roles that may be `none`: the stage then passes its items on."""
    own_default: ClassVar[bool] = False
    """True for a kind whose `default` is no value for the readers of a skipped stage."""
    asks_person: ClassVar[bool] = False
    """True for a kind that asks a person, so that its run may wait."""
    loses: ClassVar[bool] = True
    """False for a kind whose items are answers to one question, so that nothing is lost with a failed one."""
    estimate: ClassVar[Estimate] = Estimate()
    """Estimates for quotes and explain."""

    kind: str
    when: str | None = Field(default=None, description="Run the stage only if this expression is true.")
    needs: tuple[str, ...] = Field(default=(), description="Stages to wait for beside those that expressions name.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds for the stage, from its first input.")
    on_error: Literal["fail", "skip"] = Field(default="fail", description="Failure: end the run, or skip the stage.")
    default: Any = Field(default=None, description="The value for readers if the stage is skipped.")
    budget: Limits | None = Field(default=None, description="Limits of this stage, within those of the run.")

    @abstractmethod
    async def run(self, ctx: StageContext) -> None:
        """Read the inputs and fill the output fields."""

    works_sections: ClassVar[bool] = False
    """True for a kind that works a subtask once more if its sections lack what it needs."""

    async def shown(self, ctx: StageContext, item: Item, needed: Sequence[Item]) -> Attached | None:
        """Return what the value of an item would be written from, for a preview; None if the stage writes none."""
        return None

    @property
    def output_fields(self) -> tuple[OutputField, ...]:
        """The output fields of the stage as it is written; the bare name means the first."""
        return self.outputs

    @property
    def follows(self) -> bool:
        """True if the stage reads the items of an expression, `over`."""
        return False

    @property
    def ends_itself(self) -> bool:
        """True if the stage ends itself at its `timeout`, and applies `on_error` to items."""
        return self.keeps_time

    @property
    def item_offers(self) -> frozenset[str]:
        """Variables of every template and expression of the stage and its inner ones, for the item at work."""
        return frozenset()

    @property
    def reads_learned(self) -> bool:
        """True if the stage decides by learned figures itself."""
        return False

    @property
    def keeps_sources(self) -> bool:
        """True if the items of the stage have the sources of those that it follows, and values of its `schema`."""
        return False

    @property
    def works_subtasks(self) -> bool:
        """True if the stage gives each subtask of a plan the value that the plan asks for."""
        return False

    @property
    def obeys(self) -> frozenset[str]:
        """Names of the options of an answer that the stage obeys if it writes the answer of a run."""
        return frozenset()

    @property
    def acts(self) -> bool:
        """True if the stage calls tools or the user's code, which a preview or a quote must not do."""
        return False

    @property
    def heard(self) -> int | None:
        """The most input tokens that the results of its acts add to a call; None if unknown."""
        return None if self.acts else 0

    def tools_used(self) -> Iterator[tuple[str, str]]:
        """Yield (key, name) for every tool that the stage may call, or have called by a model."""
        yield from ()

    @property
    def most_tool_calls(self) -> int:
        """The most calls of tools for one answer or item."""
        return 1 if self.acts else 0

    @property
    def if_skipped(self) -> Any:
        """The first field's value if the stage is skipped; if it is None, readers are skipped too."""
        return self.default

    def among(self, stages: "Mapping[str, Stage]") -> "Stage":
        """Return the stage with what it takes from these stages of its pipeline."""
        known = {name: one.among({**stages, **self.inner()}) for name, one in self.inner().items()}
        if all(known[name] is one for name, one in self.inner().items()):
            return self
        return self.model_copy(update={self.inner_key: {**getattr(self, self.inner_key), **known}})

    def flaws(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for each mistake that shows only among the other stages."""
        yield from ()

    @property
    def judging(self) -> frozenset[str]:
        """Keys of the templates that judge: they must show what a value is judged against."""
        return frozenset({"prompt", "batch_prompt"}) if self.judges else frozenset()

    def inner(self) -> "Mapping[str, Stage]":
        """Return the inner stages by name. This stage lists their prompts, expressions and roles as its own."""
        return {}

    def pipelines(self) -> Iterator[PipelineUse]:
        """Yield the pipelines that the stage itself runs, or calls as tools."""
        for key, name in self.tools_used():
            if (use := tool_pipeline(name)) is not None:
                yield replace(use, key=key)

    @property
    def graph(self) -> Body | None:
        """The graph that the stage runs in rounds, if any. The stage lists its prompts and roles as its own."""
        return None

    @property
    def gives_data(self) -> bool:
        """False if the stage, as written, leaves its field `data` empty."""
        return True

    def survives(self, error: FusionError, *, finishing: bool) -> bool:
        """Return True if the run goes on without this stage after `error`."""
        if self.ends_itself or (isinstance(error, BudgetError) and not finishing):
            return False  # `on_error` of a kind that keeps its time is for its items
        return self.on_error == "skip" and not (isinstance(error, ModelError) and error.stops)

    def prompts(self) -> Iterator[PromptUse]:
        """Yield the templates that the stage renders."""
        yield from ()

    def expressions(self) -> Iterator[ExpressionUse]:
        """Yield the expressions that the stage evaluates."""
        if self.when is not None:
            yield ExpressionUse("when", self.when, OF_CONDITIONS)

    def roles(self) -> Iterator[tuple[str, str]]:
        """Yield (key, role) for every role that the stage may call."""
        yield from ()

    @property
    def idle_when_spared(self) -> bool:
        """True if the stage calls no model at all while its roles of `spares` are `none`."""
        return False

    def schemas(self) -> Iterator[tuple[str, "dict[str, Any] | str"]]:
        """Yield (key, schema) for every shape that the stage declares."""
        yield from ()


class Prompted(Stage):
    """A stage with a prompt of its own, and a limit on the output of its calls."""

    prompt: str | None = Field(default=None, description="A template's name, or the template itself.")
    max_tokens: int | None = Field(default=None, gt=0, description="Output limit of a call, thinking included.")
    reads: Reads | None = Field(
        default=None,
        description="The `material` of its templates: all of it, its outline, the part of an item, or none.",
    )

    own_reads: ClassVar[Reads] = "all"
    """The material that the kind reads if `reads` is not set."""
    default_prompt: ClassVar[str]
    """The shipped template, used if `prompt` is not set."""
    prompt_offers: ClassVar[frozenset[str]] = frozenset()
    """Variables of the template beside the inputs and other stages."""
    prompt_extras: ClassVar[frozenset[str]] = frozenset()
    """More variables; a stage of the same name replaces one."""

    @property
    def template(self) -> str:
        """The template in use: the stage's own, or the shipped one."""
        return self.prompt or self.default_prompt

    @property
    def reading(self) -> Reads:
        """The material that the stage reads."""
        return self.reads or self.usual_reads

    @property
    def usual_reads(self) -> Reads:
        """The material that the stage reads if `reads` is not set."""
        return self.own_reads

    @field_validator("reads")
    @classmethod
    def _only_items_have_parts(cls, reads: Reads | None) -> Reads | None:
        if reads == "item" and cls.own_reads != "item" and not cls.item_outputs:
            raise ValueError("`reads: item` is for stages that work on items one by one; write all, outline or none")
        return reads

    def prompts(self) -> Iterator[PromptUse]:
        yield PromptUse("prompt", self.template, self.prompt_offers, self.prompt_extras)


class Shaped(Stage):
    """A stage whose answer may have a shape: with a `schema` the answer is data that matches it."""

    output_schema: OutputSchema | None = Field(default=None, alias="schema", description="The shape of the answer.")

    @property
    def gives_data(self) -> bool:
        return self.output_schema is not None

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        if self.output_schema is not None:
            yield "schema", self.output_schema


class Following(Stage):
    """A stage that reads the items of an expression, one by one for a bare path."""

    over: str = Field(description="The items: a bare path such as `plan` flows item by item.")

    @property
    def follows(self) -> bool:
        return True

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("over", self.over, flows=True, worked_on=True)


class ModelStage(Prompted, Params, Cacheable, Resilience):
    """A stage that calls a model."""

    on_error: Literal["fail", "skip", "escalate"] = Field(  # type: ignore[assignment]
        default="fail", description="Effect of a failure: end the run, skip the stage, or call `escalate_to`."
    )
    role: RoleChoice = Field(
        default=(Choice(use="frontier"),), description="The role that is called.", validate_default=True
    )
    escalate_to: str | None = Field(default=None, description="The role that is called after the first one failed.")

    choice_offers: ClassVar[frozenset[str]] = frozenset()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The lines of the choice of its role."""
        return self.role

    @model_validator(mode="after")
    def _escalation_is_whole(self) -> "ModelStage":
        if self.on_error == "escalate" and self.escalate_to is None:
            raise ValueError("`on_error: escalate` needs `escalate_to`, the role to call then")
        if self.escalate_to is not None and not self._escalates():
            raise ValueError("`escalate_to` has no effect without `on_error: escalate`")
        return self

    def _escalates(self) -> bool:
        return self.on_error == "escalate"

    def calls_of_an_answer(self, *, shaped: bool, continued: int = 0) -> int:
        """Return the most calls of an answer: one retry of its shape or its continuations, twice if it escalates."""
        return (2 if shaped else 1 + continued) * (2 if self.on_error == "escalate" else 1)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        for at, choice in enumerate(self.choices):
            if choice.when is not None:
                yield ExpressionUse(f"role.{at}.when", choice.when, self.choice_offers | OF_CONDITIONS)

    def roles(self) -> Iterator[tuple[str, str]]:
        for at, choice in enumerate(self.choices):
            yield ("role" if len(self.choices) == 1 else f"role.{at}.use"), choice.use
        if self.escalate_to is not None:
            yield "escalate_to", self.escalate_to

    def chosen_role(self, ctx: StageContext, variables: Variables) -> str:
        """Return the role of the first line whose `when` is true."""
        for choice in self.choices:
            if choice.when is None or ctx.inputs.evaluate(choice.when, variables):
                return choice.use
        raise AssertionError("the last line of a choice has no `when`")

    def ask(
        self, ctx: StageContext, variables: Variables, step: str, item: int | None = None, *, template: str = ""
    ) -> Ask:
        """Return the call that the stage's role, template, schema and limits make; `template` replaces its own."""
        return Ask(
            role=self.chosen_role(ctx, variables),
            messages=ctx.inputs.render(template or self.template, variables),
            step=step,
            item=item,
            schema=ctx.inputs.schema("schema"),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )

    async def answer(self, ctx: StageContext, ask: Ask) -> Answer:
        """Call a model; a truncated answer is a failure. With `on_error: escalate`, a failure calls `escalate_to`."""
        try:
            return await self.entire(ctx, ask)
        except ModelError as error:
            if self.on_error != "escalate" or self.escalate_to is None or error.stops:
                raise
            ctx.events.note(f"{ask.step}: {error}; asking {self.escalate_to!r}", item=ask.item)
            step = f"{ask.step}-escalated"
            return await self.entire(ctx, ask._replace(role=self.escalate_to, model=None, step=step))

    async def entire(self, ctx: StageContext, ask: Ask) -> Answer:
        """Return the complete answer; raises BadResponseError for a truncated one."""
        return whole(await ctx.models.call(ask))


def whole(answer: Answer) -> Answer:
    """Return the answer if it is complete; raises BadResponseError if it was truncated."""
    if answer.finish_reason == "length":
        raise BadResponseError(
            f"{answer.by!r} was cut off at its output limit; raise `max_tokens` of the stage, or ask for less",
            model=answer.by,
            text=answer.text,
            calls=answer.calls,
        )
    return answer


def shown_in(messages: Sequence[Message], material: Any) -> Attached:
    """Return what a call shows beside its instructions: user and tool messages, material of a system message."""
    users = [message for message in messages if message.role in ("user", "tool")]
    text = "\n\n".join(message.content for message in users)
    files = tuple(file for message in users for _, file in message.files)
    above = any(material and str(material) in message.content for message in messages if message.role == "system")
    return Attached(f"{material}\n\n{text}" if above else text, files)


def check_inner(what: str, stages: Mapping[str, Stage]) -> None:
    """Raise ValueError for inner stages with a slash in the name, or with keys that only the outer one can have."""
    for name, stage in stages.items():
        if "/" in name or not name:
            raise ValueError(f"invalid {what} name {name!r}: use a name without a slash")
        given = [key for key in OUTER_KEYS if key in stage.model_fields_set]
        if given and not (stage.own_default and given == ["default"]):
            raise ValueError(
                f"`{given[0]}` of the {what} {name!r} has no effect here; set it for the stage around it"
            )


def prompts_within(stage: Stage) -> Iterator[PromptUse]:
    """Yield the templates of the inner stages, under the stage's own keys."""
    for name, inner in stage.inner().items():
        for use in inner.prompts():
            yield replace(use, key=f"{stage.inner_key}.{name}.{use.key}", offers=use.offers | inner.item_offers)


def expressions_within(stage: Stage) -> Iterator[ExpressionUse]:
    """Yield the expressions of the inner stages, under the stage's own keys; none of them flows."""
    for name, inner in stage.inner().items():
        for use in inner.expressions():
            offers = use.offers if use.flows else use.offers | inner.item_offers
            yield replace(use, key=f"{stage.inner_key}.{name}.{use.key}", offers=offers, flows=False)


def roles_within(stage: Stage) -> Iterator[tuple[str, str]]:
    """Yield (key, role) for every role of the inner stages, under the stage's own keys."""
    for name, inner in stage.inner().items():
        for key, role in inner.roles():
            yield f"{stage.inner_key}.{name}.{key}", role


def schemas_within(stage: Stage) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield (key, schema) for every shape of the inner stages, under the stage's own keys."""
    for name, inner in stage.inner().items():
        for key, schema in inner.schemas():
            yield f"{stage.inner_key}.{name}.{key}", schema


def _stage(given: Any, info: ValidationInfo) -> Any:
    read = (info.context or {}).get(STAGE_READER)
    return given if read is None or isinstance(given, Stage) else read(given)


def _as_written(stage: Stage) -> dict[str, Any]:
    return {"kind": stage.kind, **stage.model_dump(exclude_defaults=True, by_alias=True)}


STAGE_READER: Final = "stage"
"""Key of the validation context: the function that reads a stage of any kind."""

BODY_SHAPE: Final[JsonSchema] = {
    "type": "object",
    "required": ["kind"],
    "properties": {"kind": {"type": "string"}, "when": {"type": "string"}},
}
"""Placeholder for the schema of a stage in a body; `pipeline.json_schema` replaces it by those of all kinds."""

INLINE_SHAPE: Final[JsonSchema] = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}}
"""Placeholder for the schema of an inner stage; `pipeline.json_schema` replaces it by those of all kinds."""

InlineStage = Annotated[
    Stage, BeforeValidator(_stage), PlainSerializer(_as_written), WithJsonSchema(dict(INLINE_SHAPE))
]
"""A stage within another one."""

BodyStage = Annotated[Stage, BeforeValidator(_stage), PlainSerializer(_as_written), WithJsonSchema(dict(BODY_SHAPE))]
"""A stage in the body of another one."""
