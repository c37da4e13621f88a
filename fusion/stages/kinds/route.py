"""route: one of several ways is taken, by rules, by a classifier, or by the nearest example."""

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from fusion.core.bounded import clock
from fusion.core.errors import ModelError, close_names
from fusion.core.params import ANSWER_LIMITS, Cacheable, Temperature
from fusion.core.schema import closed_object, enum
from fusion.core.types import Attached, Item, JsonSchema, as_text
from fusion.stages.answer import give_answer
from fusion.stages.base import (
    INLINE_SHAPE,
    OF_CONDITIONS,
    ExpressionUse,
    InlineStage,
    OutputField,
    PromptUse,
    Shaped,
    Stage,
    check_inner,
    expressions_within,
    prompts_within,
    roles_within,
    schemas_within,
    shown_in,
    whole,
)
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.items import Hand, OneOrMany
from fusion.stages.simulation import Chance, Estimate, Within, plausible
from fusion.stages.text.classify import capabilities, nearest
from fusion.stages.text.reading import without_notice
from fusion.stages.text.rules import Example, RouteOrLabel, Rule
from fusion.stages.tiers.capability import ByCapability

Target = Annotated[
    Annotated[str, Tag("role")] | Annotated[InlineStage, Tag("stage")],
    Discriminator(lambda given: "role" if isinstance(given, str) else "stage"),
    WithJsonSchema({"anyOf": [{"type": "string"}, dict(INLINE_SHAPE)]}),
]
"""A role that answers, or a stage of any kind: also `{kind: pipeline, …}`."""


class _Decision(NamedTuple):
    route: str
    reason: str


class Route(OneOrMany, Shaped, Cacheable):
    """Takes one of several routes to the answer: a role, an inner stage, or a pipeline.

    Fields: `text`, `data` and `confidence` of the route. With `over` it works item by item, and its field is `items`:
    each has the answer as its `value`, and the decision as its `route`, `reason`, `confidence` and `cost`. Inner
    stages and the inputs of pipelines then read the `item`.

    The first of the `rules` that holds decides; if none does, the model behind `classifier`, or the nearest of the
    `examples` by shared words; else `default`. The decision and its reason are an event. A role is called with the
    stage's own `prompt`.

    With `by: capability`, the learned figures of the routes' models decide. Rules and examples give the text a
    `label`; without one it is the first of code, math and json that the text calls for. With `enough`, the cheapest
    route is taken whose accuracy on the label is shown to reach it (the lower end of its 95% interval); without it,
    the most accurate. A run keeps the figures that it began with. Without figures `default` is taken, with a note.
    """

    kind: Literal["route"] = "route"
    routes: dict[str, Target] = Field(min_length=1, description="The routes by name: a role, or a stage.")
    default: str = Field(description="The route if nothing else decides.")
    text: str | None = Field(
        default=None, description="An expression: the text that decides; by default the request, or the item's value."
    )
    rules: tuple[Rule, ...] = Field(default=(), description="Rules on the text; the first that holds decides.")
    classifier: str | None = Field(default=None, description="The role that chooses if no rule holds.")
    classifier_prompt: str = Field(default="route/default", description="The template that asks for a choice.")
    meaning: dict[str, str] = Field(default={}, description="The purpose of each route, in words for the classifier.")
    examples: tuple[Example, ...] = Field(default=(), description="Texts with their right routes.")
    by: Literal["capability"] | None = Field(
        default=None, description="Choose by the learned figures of the models on the label of the text."
    )
    enough: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Accuracy that is enough: take the cheapest such route.",
    )
    at_least: float = Field(default=0.1, ge=0, le=1, description="Similarity that an example needs; 1 is equal.")
    temperature: Temperature = None

    own_default: ClassVar[bool] = True
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    inner_key: ClassVar[str] = "routes"
    default_prompt: ClassVar[str] = "generate/default"
    item_prompt: ClassVar[str] = "map/default"
    estimate: ClassVar[Estimate] = Estimate(
        cost="The calls of the route that is taken; one more for a classifier.",
        expects="`rules`, `examples` and learned figures decide on the text as it is; a classifier takes each route"
        " equally often.",
        example="""\
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
""",
        calls=lambda stage, *given: stage._most_calls(*given),
        items=lambda stage, items: None if stage.over is None else items,
        supposed=lambda stage, chance: stage._supposed(chance),
        reply=lambda stage, *call: stage._reply(*call),
    )

    @field_validator("routes")
    @classmethod
    def _inner_stages_say_the_rest(cls, routes: dict[str, Any]) -> dict[str, Any]:
        for name in routes:
            if "/" in name or not name:
                raise ValueError(f"invalid route name {name!r}: use a name without a slash")
        check_inner("route", {name: target for name, target in routes.items() if isinstance(target, Stage)})
        return routes

    @model_validator(mode="after")
    def _decides(self) -> "Route":
        if not (self.rules or self.classifier or self.examples or self.by):
            raise ValueError("nothing decides the route; give `rules`, `classifier`, `examples` or `by: capability`")
        self._check_labels()
        if self.classifier is not None and self.examples:
            raise ValueError("`classifier` and `examples` both choose if no rule holds; give one of them")
        named = [self.default, *(one.use for one in (*self.rules, *self.examples)), *self.meaning]
        for name in named:
            if name is not None and name not in self.routes:
                raise ValueError(f"no route {name!r}{close_names(name, self.routes)}")
        for key, needed in (("classifier_prompt", "classifier"), ("meaning", "classifier"), ("at_least", "examples")):
            if key in self.model_fields_set and not getattr(self, needed):
                raise ValueError(f"`{key}` has an effect with `{needed}` only")
        return self

    def _check_labels(self) -> None:
        if self.by is None:
            if self.enough is not None:
                raise ValueError("`enough` has an effect with `by: capability` only")
            if any(one.label is not None for one in (*self.rules, *self.examples)):
                raise ValueError("`label` has an effect with `by: capability` only; give `use`, the route")
            return
        if self.classifier is not None:
            raise ValueError("`classifier` and `by: capability` both choose if no rule holds; give one of them")
        if not self._measured_roles():
            raise ValueError("`by: capability` chooses among routes of one role each, and there is none")

    def _measured_roles(self) -> dict[str, str]:
        """Return the role of each route that has exactly one, whose model's figures tell of it."""
        roles = {
            name: {target} if isinstance(target, str) else {role for _, role in target.roles()}
            for name, target in self.routes.items()
        }
        return {name: next(iter(found)) for name, found in roles.items() if len(found) == 1}

    @property
    def reads_learned(self) -> bool:
        return self.by is not None

    @property
    def if_skipped(self) -> Any:
        return None

    @property
    def keeps_sources(self) -> bool:
        return self.over is not None and not self.inner()

    @property
    def decides_on(self) -> str:
        """The expression of the text that decides."""
        return self.text or ("request" if self.over is None else "item.value")

    @property
    def gives_data(self) -> bool:
        return super().gives_data or any(stage.gives_data for stage in self.inner().values())

    def inner(self) -> Mapping[str, Stage]:
        return {name: target for name, target in self.routes.items() if isinstance(target, Stage)}

    def _asked_roles(self) -> dict[str, str]:
        return {name: target for name, target in self.routes.items() if isinstance(target, str)}

    def prompts(self) -> Iterator[PromptUse]:
        if self._asked_roles():
            yield from super().prompts()
        if self.classifier is not None:
            yield PromptUse("classifier_prompt", self.classifier_prompt, frozenset({"text", "routes"}))
        yield from prompts_within(self)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("text", self.decides_on)
        for at, rule in enumerate(self.rules):
            if rule.when is not None:
                yield ExpressionUse(f"rules.{at}.when", rule.when, OF_CONDITIONS)
        yield from expressions_within(self)

    def roles(self) -> Iterator[tuple[str, str]]:
        for name, role in self._asked_roles().items():
            yield f"routes.{name}", role
        if self.classifier is not None:
            yield "classifier", self.classifier
        yield from roles_within(self)

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        yield from schemas_within(self)

    def _most_calls(self, items: int, within: Within | None) -> int | None:
        """Return the most calls of any route, with those of the classifier."""
        if within is None:
            within = {name: stage.estimate.calls(stage, items, None) for name, stage in self.inner().items()}
        if self.over is not None and any(stage.follows for stage in self.inner().values()):
            return None  # the number of items within an item is not known
        known = [calls for calls in within.values() if calls is not None]
        if len(known) < len(within):
            return None
        own = (1 if self.output_schema is None else 2) if self._asked_roles() else 0
        of_one = max([own, *known]) + (2 if self.classifier is not None else 0)
        return of_one if self.over is None else of_one * items

    def _supposed(self, chance: Chance) -> "Route":
        if not chance.worst:
            return self
        return self.model_copy(update={"rules": (), "examples": (), "by": None, "default": self._way(chance)})

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        if step == "classify" and chance.worst:
            return {"route": self._way(chance)}
        return plausible(self, step, schema, tokens, chance)

    def _way(self, chance: Chance) -> str:
        return list(self.routes)[chance.way % len(self.routes)]

    async def once(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        decision = await self._decision(ctx, variables, self.by_capability(ctx))
        ctx.events.decided(decision.route, decision.reason)
        target = self.routes[decision.route]
        if isinstance(target, str):
            deltas = ctx.models.stream("answer") if self.output_schema is None else None
            give_answer(ctx, await self._answer(ctx, self._ask(ctx, target, variables)._replace(deltas=deltas)))
            return
        for name, value in (await ctx.models.run_stage(decision.route))._asdict().items():
            ctx.outputs.give(name, value)

    def hand(self, ctx: StageContext) -> Hand:
        return _Routing(self, ctx)

    async def shown(self, ctx: StageContext, item: Item, needed: Sequence[Item]) -> Attached | None:
        if not self._asked_roles():
            return None
        own = {"item": item.model_copy(update={"value": item.source}), "needed": list(needed)}
        variables = {**await ctx.inputs.values(), **own}
        return shown_in(ctx.inputs.render(self.template, variables), variables.get("material"))

    def by_capability(self, ctx: StageContext) -> ByCapability | None:
        """Return the choice by learned figures for one run, if they decide."""
        return None if self.by is None else ByCapability(ctx, self._measured_roles(), self.enough)

    async def routed(
        self, ctx: StageContext, item: Item, variables: Mapping[str, Any], by: ByCapability | None
    ) -> Item:
        """Return the item with the answer of its route, and the decision."""
        decision = await self._decision(ctx, variables, by, item.index)
        target = self.routes[decision.route]
        taken: dict[str, Any] = {"route": decision.route, "reason": decision.reason}
        if isinstance(target, str):
            ask = self._ask(ctx, target, variables, item.index)
            answer = await self._answer(ctx, ask)
            shown = shown_in(ask.messages, variables.get("material")) if ctx.outputs.keeps_shown else None
            return item.worked(answer.value, answer.by, shown).model_copy(update=taken)
        outcome = await ctx.models.run_stage(decision.route, variables)
        value = outcome.text if outcome.data is None else outcome.data
        worked = Item(index=item.index, source=item.source, value=value, needs=item.needs, shown=item.shown)
        return worked.model_copy(update={**taken, "confidence": outcome.confidence})

    def _ask(self, ctx: StageContext, role: str, variables: Mapping[str, Any], item: int | None = None) -> Ask:
        return Ask(
            role=role,
            messages=ctx.inputs.render(self.template, variables),
            step="answer",
            item=item,
            schema=ctx.inputs.schema("schema"),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )

    @property
    def obeys(self) -> frozenset[str]:
        return ANSWER_LIMITS if self.over is None and not self.inner() else frozenset()

    async def _answer(self, ctx: StageContext, ask: Ask) -> Answer:
        options = ctx.answer
        answer = await ctx.models.call(ask if options is None else ask._replace(options=options))
        return answer if options is not None and options.max_tokens is not None else whole(answer)

    async def _decision(
        self, ctx: StageContext, variables: Mapping[str, Any], by: ByCapability | None, item: int | None = None
    ) -> _Decision:
        text = as_text(await ctx.inputs.value_of(self.decides_on, variables))
        found, reason = await self._by_rule(ctx, variables, text)
        if found is None and self.classifier is not None:
            seen = {**variables, "text": text, "routes": self._meant()}
            return await self._classified(ctx, self.classifier, seen, item)
        if found is None and self.examples:
            found, reason = await self._by_example(text)
        if found is not None and found.use is not None:
            return _Decision(found.use, reason)
        if by is None:
            return _Decision(self.default, f"the default: {reason}")
        label = found.label if found is not None else await _own_label(text)
        chosen = by.choice(label, item=item)
        before = reason if found is not None else "by its words"
        if chosen.route is None:
            return _Decision(self.default, f"the default: {chosen.reason}" + (f" ({before})" if label else ""))
        return _Decision(chosen.route, f"{chosen.reason} ({before})")

    async def _by_rule(
        self, ctx: StageContext, variables: Mapping[str, Any], text: str
    ) -> tuple[RouteOrLabel | None, str]:
        """Return the first rule that holds, and the reason."""
        for number, rule in enumerate(self.rules, start=1):
            missed = await clock.run(partial(rule.miss, text), size=len(text))
            if not missed and (rule.when is None or await ctx.inputs.value_of(rule.when, variables)):
                return rule, f"rule {number}: {rule}"
        return None, "no rule holds"

    async def _by_example(self, text: str) -> tuple[RouteOrLabel | None, str]:
        """Return the nearest example, if it is near enough, and the reason."""
        near = await clock.run(partial(nearest, text, [one.text for one in self.examples]), size=len(text))
        words = f"example {near.at + 1} is the nearest, with {near.similarity:.2f}"
        if near.similarity >= self.at_least:
            return self.examples[near.at], words
        return None, f"{words}, and {self.at_least:g} is needed"

    def _meant(self) -> dict[str, str]:
        return {name: self.meaning.get(name, "") for name in self.routes}

    async def _classified(
        self, ctx: StageContext, role: str, variables: Mapping[str, Any], item: int | None
    ) -> _Decision:
        if self.reads is None:  # a classifier reads the request alone
            variables = {**variables, "material": Attached()}
        schema = _choice(tuple(self.routes))
        messages = ctx.inputs.render(self.classifier_prompt, variables)
        try:
            ask = Ask(role=role, messages=messages, step="classify", item=item, schema=schema)
            said = whole(await ctx.models.call(ask))
        except ModelError as error:
            if error.stops:
                raise
            return _Decision(self.default, f"the default: the classifier named no route: {error}")
        return _Decision(said.data["route"], f"{said.by!r} chose it")


class _Routing(Hand):
    """Answers items by the routes of a stage."""

    def __init__(self, stage: Route, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx
        self._by = stage.by_capability(ctx)

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        material = variables.get("material")
        if material:
            variables = {**variables, "material": without_notice(material)}
        return self._stage.routed(self._ctx, item, variables, self._by)


@lru_cache(maxsize=64)
def _choice(routes: tuple[str, ...]) -> JsonSchema:
    """Return the schema of a choice: the same object for each item."""
    return closed_object({"route": enum(routes)})


async def _own_label(text: str) -> str | None:
    """Return the label of a text without any: the first of code, math and json that it calls for."""
    found = await clock.run(partial(capabilities, text), size=len(text))
    return next((name for name in ("code", "math", "json") if name in found), None)
