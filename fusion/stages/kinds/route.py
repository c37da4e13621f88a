"""route: one of several ways is taken, by rules, by a classifier, or by the nearest example."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from fusion.core.errors import ModelError, close_names
from fusion.core.params import Cacheable
from fusion.core.types import JsonSchema, as_text
from fusion.core.validation import Authored, check_pattern
from fusion.stages.base import (
    INLINE_SHAPE,
    ExpressionUse,
    InlineStage,
    OutputField,
    OutputSchema,
    PromptUse,
    Stage,
    whole,
)
from fusion.stages.context import Ask, StageContext
from fusion.stages.simulation import Chance
from fusion.stages.text.classify import Capability, capabilities, language, nearest

_SAID_OUTSIDE = ("when", "needs", "default")


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


class Rule(Authored):
    """Where all that it says holds of the text, its route is taken."""

    when: str | None = Field(default=None, description="An expression that is true.")
    matches: Annotated[str, AfterValidator(check_pattern)] | None = Field(
        default=None, description="A regular expression that is found in the text."
    )
    longer: int | None = Field(default=None, ge=0, description="The text has more characters than this.")
    shorter: int | None = Field(default=None, ge=1, description="The text has fewer characters than this.")
    language: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])] = (
        Field(default=(), description="The text's language is one of these, as in [de, fr].")
    )
    capability: Capability | None = Field(default=None, description="What it takes to answer, by the text's looks.")
    use: str = Field(description="The route that is taken.")

    @model_validator(mode="after")
    def _says_something(self) -> "Rule":
        if not self.model_fields_set - {"use"}:
            raise ValueError("a rule without a condition is always true; the route to take otherwise is `default`")
        return self

    def miss(self, text: str) -> bool:
        """True where something that it says of the text does not hold; `when` is not looked at."""
        return (
            (self.matches is not None and re.search(self.matches, text) is None)
            or (self.longer is not None and len(text) <= self.longer)
            or (self.shorter is not None and len(text) >= self.shorter)
            or bool(self.language and language(text) not in self.language)
            or (self.capability is not None and self.capability not in capabilities(text))
        )

    def __str__(self) -> str:
        said = {name: getattr(self, name) for name in ("when", "matches", "longer", "shorter", "capability")}
        said["language"] = ", ".join(self.language) or None
        return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)


class Example(Authored):
    """A text, and the route that is right for it."""

    text: str = Field(min_length=1, description="A text as it may come.")
    use: str = Field(description="The route that is right for it.")


Target = Annotated[
    Annotated[str, Tag("role")] | Annotated[InlineStage, Tag("stage")],
    Discriminator(lambda given: "role" if isinstance(given, str) else "stage"),
    WithJsonSchema({"anyOf": [{"type": "string"}, dict(INLINE_SHAPE)]}),
]
"""A role that answers, or a stage of any kind: also `{kind: pipeline, …}`."""


class _Decision(NamedTuple):
    route: str
    reason: str


class Route(Stage, Cacheable):
    """Takes one of several ways to the answer: a role, a stage of its own, or a pipeline.

    Fields: `text`, `data` and `confidence`, those of the way that was taken.

    The first of the `rules` that holds says which; where none does, the model behind `classifier`, or the nearest of
    the `examples` by the words that it shares; where that does not help either, it is `default`. What was decided,
    and why, is an event. A role is asked with the stage's own `prompt`.
    """

    kind: Literal["route"] = "route"
    routes: dict[str, Target] = Field(min_length=1, description="The ways by their names: a role, or a stage.")
    default: str = Field(description="The route that is taken where nothing says another.")
    text: str = Field(default="request", description="An expression: the text that is looked at.")
    rules: tuple[Rule, ...] = Field(default=(), description="What of the text says which route; the first counts.")
    classifier: str | None = Field(default=None, description="The role that chooses where no rule does.")
    classifier_prompt: str = Field(default="route/default", description="The template that asks it to.")
    meaning: dict[str, str] = Field(default={}, description="What each route is for, in words for the classifier.")
    examples: tuple[Example, ...] = Field(default=(), description="Texts with the routes that are right for them.")
    at_least: float = Field(default=0.1, ge=0, le=1, description="How near an example must be, 1 being the same.")
    prompt: str | None = Field(default=None, description="What a role is asked: a template's name, or the template.")
    max_tokens: int | None = Field(default=None, gt=0, description="Output limit of a call, thinking included.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature of a role.")
    output_schema: OutputSchema | None = Field(
        default=None, alias="schema", description="The shape of a role's answer."
    )

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    inner_key: ClassVar[str] = "routes"
    default_prompt: ClassVar[str] = "generate/default"
    cost: ClassVar[str] = "The calls of the way that is taken; one more where a classifier is asked."
    expects: ClassVar[str] = (
        "What `rules` and `examples` say of the text as it is; a classifier takes each way as often as another."
    )
    example: ClassVar[str] = """\
inputs: {question: A question.}
stages:
  answer:
    kind: route
    routes: {easy: bulk, hard: frontier}
    rules: [{longer: 2000, use: hard}, {capability: math, use: hard}]
    classifier: bulk
    meaning: {easy: "one step, or a fact that everybody knows", hard: everything else}
    default: hard
output: answer
"""

    @field_validator("routes")
    @classmethod
    def _inner_stages_say_the_rest(cls, routes: dict[str, Any]) -> dict[str, Any]:
        for name, target in routes.items():
            if "/" in name or not name:
                raise ValueError(f"{name!r} is no name of a route; leave out the slash")
            given = [key for key in _SAID_OUTSIDE if isinstance(target, Stage) and key in target.model_fields_set]
            if given and not (isinstance(target, Route) and given == ["default"]):
                raise ValueError(f"`{given[0]}` of the route {name!r} has no effect here; say it of the stage itself")
        return routes

    @model_validator(mode="after")
    def _decides(self) -> "Route":
        if not (self.rules or self.classifier or self.examples):
            raise ValueError("nothing says which route to take; give `rules`, `classifier` or `examples`")
        if self.classifier is not None and self.examples:
            raise ValueError("`classifier` and `examples` both choose where no rule does; give one of them")
        named = [self.default, *(rule.use for rule in self.rules), *(one.use for one in self.examples), *self.meaning]
        for name in named:
            if name not in self.routes:
                raise ValueError(f"no route {name!r}{close_names(name, self.routes)}")
        for key, needed in (("classifier_prompt", "classifier"), ("meaning", "classifier"), ("at_least", "examples")):
            if key in self.model_fields_set and not getattr(self, needed):
                raise ValueError(f"`{key}` has an effect with `{needed}` only")
        return self

    @property
    def if_skipped(self) -> Any:
        return None

    @property
    def gives_data(self) -> bool:
        return self.output_schema is not None or any(stage.gives_data for stage in self.inner().values())

    def inner(self) -> Mapping[str, Stage]:
        return {name: target for name, target in self.routes.items() if isinstance(target, Stage)}

    def _asked_roles(self) -> dict[str, str]:
        return {name: target for name, target in self.routes.items() if isinstance(target, str)}

    def prompts(self) -> Iterator[PromptUse]:
        if self._asked_roles():
            yield PromptUse("prompt", self.prompt or self.default_prompt)
        if self.classifier is not None:
            yield PromptUse("classifier_prompt", self.classifier_prompt, frozenset({"text", "routes"}))
        for name, stage in self.inner().items():
            for use in stage.prompts():
                yield PromptUse(f"routes.{name}.{use.key}", use.template, use.offers)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("text", self.text)
        for at, rule in enumerate(self.rules):
            if rule.when is not None:
                yield ExpressionUse(f"rules.{at}.when", rule.when)
        for name, stage in self.inner().items():
            for use in stage.expressions():
                yield ExpressionUse(f"routes.{name}.{use.key}", use.source, use.offers)

    def roles(self) -> Iterator[tuple[str, str]]:
        for name, role in self._asked_roles().items():
            yield f"routes.{name}", role
        if self.classifier is not None:
            yield "classifier", self.classifier
        for name, stage in self.inner().items():
            for key, role in stage.roles():
                yield f"routes.{name}.{key}", role

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        if self.output_schema is not None:
            yield "schema", self.output_schema
        for name, stage in self.inner().items():
            for key, schema in stage.schemas():
                yield f"routes.{name}.{key}", schema

    def most_calls(self, items: int) -> int | None:
        return self.most_calls_with(items, {name: stage.most_calls(items) for name, stage in self.inner().items()})

    def most_calls_with(self, items: int, within: Mapping[str, int | None]) -> int | None:
        known = [calls for calls in within.values() if calls is not None]
        if len(known) < len(within):
            return None
        own = (1 if self.output_schema is None else 2) if self._asked_roles() else 0
        return max([own, *known]) + (2 if self.classifier is not None else 0)

    def supposed(self, chance: Chance) -> "Route":
        if not chance.worst:
            return self
        return self.model_copy(update={"rules": (), "examples": (), "default": self._way(chance)})

    def said(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        if step == "classify" and chance.worst:
            return {"route": self._way(chance)}
        return super().said(step, schema, tokens, chance)

    def _way(self, chance: Chance) -> str:
        return list(self.routes)[chance.way % len(self.routes)]

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.variables()
        decision = await self._decision(ctx, variables)
        ctx.decided(decision.route, decision.reason)
        target = self.routes[decision.route]
        if isinstance(target, str):
            await self._ask(ctx, target, variables)
            return
        for name, value in (await ctx.run_inner(decision.route))._asdict().items():
            ctx.give(name, value)

    async def _ask(self, ctx: StageContext, role: str, variables: Mapping[str, Any]) -> None:
        answer = whole(
            await ctx.call(
                Ask(
                    role=role,
                    messages=ctx.render(self.prompt or self.default_prompt, variables),
                    step="answer",
                    schema=ctx.schema("schema"),
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    deltas=ctx.deltas("answer") if self.output_schema is None else None,
                )
            )
        )
        ctx.give("text", as_text(answer.value))
        ctx.give("data", answer.data)

    async def _decision(self, ctx: StageContext, variables: Mapping[str, Any]) -> _Decision:
        text = as_text(ctx.evaluate(self.text, variables))
        for number, rule in enumerate(self.rules, start=1):
            if not rule.miss(text) and (rule.when is None or ctx.evaluate(rule.when, variables)):
                return _Decision(rule.use, f"rule {number}: {rule}")
        if self.classifier is not None:
            return await self._classified(ctx, self.classifier, {**variables, "text": text, "routes": self._meant()})
        if self.examples:
            near = nearest(text, [one.text for one in self.examples])
            words = f"example {near.at + 1} is the nearest, with {near.similarity:.2f}"
            if near.similarity >= self.at_least:
                return _Decision(self.examples[near.at].use, words)
            return _Decision(self.default, f"the default: {words}, and {self.at_least:g} is wanted")
        return _Decision(self.default, "the default: no rule holds")

    def _meant(self) -> dict[str, str]:
        return {name: self.meaning.get(name, "") for name in self.routes}

    async def _classified(self, ctx: StageContext, role: str, variables: Mapping[str, Any]) -> _Decision:
        schema = {
            "type": "object",
            "properties": {"route": {"type": "string", "enum": list(self.routes)}},
            "required": ["route"],
            "additionalProperties": False,
        }
        messages = ctx.render(self.classifier_prompt, variables)
        try:
            said = whole(await ctx.call(Ask(role=role, messages=messages, step="classify", schema=schema)))
        except ModelError as error:
            if error.stops:
                raise
            return _Decision(self.default, f"the default: the classifier gave no route: {error}")
        return _Decision(said.data["route"], f"{said.by!r} chose it")
