"""route: one of several ways is taken, by rules, by a classifier, or by the nearest example."""

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
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
from fusion.core.bounded.patterns import found
from fusion.core.errors import ModelError, close_names
from fusion.core.params import Cacheable, Temperature
from fusion.core.schema import closed_object, enum
from fusion.core.types import Attached, Item, JsonSchema, as_text
from fusion.core.validation import Authored
from fusion.stages.answer import give_answer
from fusion.stages.base import (
    INLINE_SHAPE,
    ExpressionUse,
    InlineStage,
    OutputField,
    PromptUse,
    Shaped,
    Stage,
    shown_in,
    whole,
)
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.fields import Pattern, Texts
from fusion.stages.items import Hand, OneOrMany
from fusion.stages.simulation import Chance, Estimate, Within, plausible
from fusion.stages.text.classify import Capability, capabilities, language, nearest
from fusion.stages.text.reading import without_notice

_OUTER_KEYS = ("when", "needs", "default")


class Rule(Authored):
    """A rule: its route is taken if all of its conditions hold for the text."""

    when: str | None = Field(default=None, description="An expression that must be true.")
    matches: Pattern | None = Field(default=None, description="A regular expression to be found in the text.")
    longer: int | None = Field(default=None, ge=0, description="The text must have more characters than this.")
    shorter: int | None = Field(default=None, ge=1, description="The text must have fewer characters than this.")
    language: Texts = Field(default=(), description="The languages that the text may have, as in [de, fr].")
    capability: Capability | None = Field(default=None, description="Capability that the text calls for.")
    use: str = Field(description="The route that is taken.")

    @model_validator(mode="after")
    def _says_something(self) -> "Rule":
        if not self.model_fields_set - {"use"}:
            raise ValueError("a rule without a condition always holds; set `default` for all other texts")
        return self

    def miss(self, text: str) -> bool:
        """Return True if a condition other than `when` does not hold for the text."""
        return (
            (self.matches is not None and not found(self.matches, text))
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
    """A text, and its right route."""

    text: str = Field(min_length=1, description="A typical text.")
    use: str = Field(description="Its right route.")


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
    at_least: float = Field(default=0.1, ge=0, le=1, description="Similarity that an example needs; 1 is equal.")
    temperature: Temperature = None

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    inner_key: ClassVar[str] = "routes"
    default_prompt: ClassVar[str] = "generate/default"
    item_prompt: ClassVar[str] = "map/default"
    estimate: ClassVar[Estimate] = Estimate(
        cost="The calls of the route that is taken; one more for a classifier.",
        expects="`rules` and `examples` decide on the text as it is; a classifier takes each route equally often.",
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
        for name, target in routes.items():
            if "/" in name or not name:
                raise ValueError(f"invalid route name {name!r}: use a name without a slash")
            given = [key for key in _OUTER_KEYS if isinstance(target, Stage) and key in target.model_fields_set]
            if given and not (isinstance(target, Route) and given == ["default"]):
                raise ValueError(f"`{given[0]}` of the route {name!r} has no effect here; set it for the route stage")
        return routes

    @model_validator(mode="after")
    def _decides(self) -> "Route":
        if not (self.rules or self.classifier or self.examples):
            raise ValueError("nothing decides the route; give `rules`, `classifier` or `examples`")
        if self.classifier is not None and self.examples:
            raise ValueError("`classifier` and `examples` both choose if no rule holds; give one of them")
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
        for name, stage in self.inner().items():
            for use in stage.prompts():
                yield replace(use, key=f"routes.{name}.{use.key}", offers=use.offers | stage.item_offers)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("text", self.decides_on)
        for at, rule in enumerate(self.rules):
            if rule.when is not None:
                yield ExpressionUse(f"rules.{at}.when", rule.when)
        for name, stage in self.inner().items():
            for use in stage.expressions():
                offers = use.offers if use.flows else use.offers | stage.item_offers
                yield replace(use, key=f"routes.{name}.{use.key}", offers=offers, flows=False)

    def roles(self) -> Iterator[tuple[str, str]]:
        for name, role in self._asked_roles().items():
            yield f"routes.{name}", role
        if self.classifier is not None:
            yield "classifier", self.classifier
        for name, stage in self.inner().items():
            for key, role in stage.roles():
                yield f"routes.{name}.{key}", role

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        for name, stage in self.inner().items():
            for key, schema in stage.schemas():
                yield f"routes.{name}.{key}", schema

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
        return self.model_copy(update={"rules": (), "examples": (), "default": self._way(chance)})

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        if step == "classify" and chance.worst:
            return {"route": self._way(chance)}
        return plausible(self, step, schema, tokens, chance)

    def _way(self, chance: Chance) -> str:
        return list(self.routes)[chance.way % len(self.routes)]

    async def once(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        decision = await self._decision(ctx, variables)
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

    async def routed(self, ctx: StageContext, item: Item, variables: Mapping[str, Any]) -> Item:
        """Return the item with the answer of its route, and the decision."""
        decision = await self._decision(ctx, variables, item.index)
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

    async def _answer(self, ctx: StageContext, ask: Ask) -> Answer:
        return whole(await ctx.models.call(ask))

    async def _decision(self, ctx: StageContext, variables: Mapping[str, Any], item: int | None = None) -> _Decision:
        text = as_text(await ctx.inputs.value_of(self.decides_on, variables))
        for number, rule in enumerate(self.rules, start=1):
            missed = await clock.run(partial(rule.miss, text), size=len(text))
            if not missed and (rule.when is None or await ctx.inputs.value_of(rule.when, variables)):
                return _Decision(rule.use, f"rule {number}: {rule}")
        if self.classifier is not None:
            seen = {**variables, "text": text, "routes": self._meant()}
            return await self._classified(ctx, self.classifier, seen, item)
        if self.examples:
            near = await clock.run(partial(nearest, text, [one.text for one in self.examples]), size=len(text))
            words = f"example {near.at + 1} is the nearest, with {near.similarity:.2f}"
            if near.similarity >= self.at_least:
                return _Decision(self.examples[near.at].use, words)
            return _Decision(self.default, f"the default: {words}, and {self.at_least:g} is needed")
        return _Decision(self.default, "the default: no rule holds")

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

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        material = variables.get("material")
        if material:
            variables = {**variables, "material": without_notice(material)}
        return self._stage.routed(self._ctx, item, variables)


@lru_cache(maxsize=64)
def _choice(routes: tuple[str, ...]) -> JsonSchema:
    """Return the schema of a choice: the same object for each item."""
    return closed_object({"route": enum(routes)})
