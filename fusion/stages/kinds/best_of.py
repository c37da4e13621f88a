"""best_of: several candidates answer, and the best of them is taken."""

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import nullcontext
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from fusion.core.budget import optional
from fusion.core.errors import BudgetError, FusionError, ModelError, StageError
from fusion.core.params import Cacheable, Temperature
from fusion.core.types import Attached, Item, JsonSchema, as_text
from fusion.stages.base import (
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
from fusion.stages.context import Ask, Conclusion, StageContext
from fusion.stages.fields import Texts
from fusion.stages.items import Hand, OneOrMany, gathered
from fusion.stages.simulation import Chance, Estimate, Within, plausible
from fusion.stages.text.reading import without_notice
from fusion.stages.tiers.spec import LETTERS
from fusion.stages.verification.choice import Choosing
from fusion.stages.verification.choosers import Candidate, Choice, Question, chooser

_PASSES = 0.6
"""Share of candidates that a quote supposes to pass."""


class _Member(NamedTuple):
    """A candidate to come: its name, and its role, or "" for that of an inner stage; the number of its sample."""

    name: str
    role: str
    sample: int = 0


class BestOf(OneOrMany, Shaped, Cacheable):
    """Asks for several candidates, and takes the best.

    Fields: `text`, `data` and `confidence` of the candidate that is taken. With `over` it works item by item, and its
    field is `items`: each has the answer as its `value`, the name of the candidate as its `route`, and the `reason`,
    `confidence` and `cost`.

    Candidates are `n` answers of each of the `roles`, or inner `stages`. They come from the cheapest model on, and of
    equally good ones the cheaper is taken. One that fails does not count.

    `choose` names one way. With `verify`, a check as of the kind verify without repairs, or with `checks`, the first
    candidate to pass is taken and no further one is asked. With `vote` the most frequent answer wins, and none is
    asked that cannot change it. A `judge` compares pairs in both orders, each candidate with the best before it. A
    `score` (an expression over `value`) or a `function` of yours gives a number; with `enough`, the first to reach it
    is taken.

    If no candidate passes, the best one is taken, with a note; with `on_fail: fail` the stage fails.
    """

    kind: Literal["best_of"] = "best_of"
    asked_roles: Texts = Field(
        default=(), alias="roles", max_length=len(LETTERS), description="Roles of the candidates."
    )
    n: int = Field(default=1, ge=1, le=len(LETTERS), description="Candidates of each role.")
    stages: dict[str, InlineStage] = Field(default={}, description="Candidates by name, each a stage of any kind.")
    choose: Choosing = Field(description="The way to choose: one of verify, checks, vote, judge, score, function.")
    temperature: Temperature = None
    on_fail: Literal["answer", "fail"] = Field(
        default="answer", description="If no candidate passes: take the best one, or fail."
    )

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    inner_key: ClassVar[str] = "stages"
    default_prompt: ClassVar[str] = "generate/default"
    item_prompt: ClassVar[str] = "map/default"
    estimate: ClassVar[Estimate] = Estimate(
        cost="One call for each candidate that is asked, and those of the way to choose: a verdict's judge for each "
        "candidate, or two for each pair.",
        expects="6 of 10 candidates pass a check or reach `enough`, and two answers agree in 6 of 10 cases.",
        shares={"verdict": {"accept": 0.6, "revise": 0.4}},
        example="""\
inputs: {task: A function to write.}
stages:
  write:
    kind: best_of
    roles: bulk
    n: 4
    temperature: 0.8
    choose: {checks: {contains: "def "}}
output: write
""",
        calls=lambda stage, *given: stage._most_calls(*given),
        items=lambda stage, items: None if stage.over is None else items,
        supposed=lambda stage, chance: stage._supposed(chance),
        reply=lambda stage, *call: stage._reply(*call),
    )

    @field_validator("stages")
    @classmethod
    def _inner_stages_say_the_rest(cls, stages: dict[str, Any]) -> dict[str, Any]:
        check_inner("candidate", stages)
        return stages

    @model_validator(mode="after")
    def _has_candidates(self) -> "BestOf":
        if bool(self.asked_roles) == bool(self.stages):
            raise ValueError("give `roles`, which answer the prompt, or `stages`, each a candidate")
        if self.stages and (given := {"n", "prompt", "temperature", "max_tokens"} & self.model_fields_set):
            raise ValueError(f"`{min(given)}` has an effect with `roles` only; set it for the stages")
        if self.stages and self.output_schema is not None:
            raise ValueError("`schema` has an effect with `roles` only; set it for the stages")
        if not 2 <= (count := len(self.stages) or len(self.asked_roles) * self.n) <= len(LETTERS):
            raise ValueError(f"the best of {count}; it takes 2 to {len(LETTERS)} candidates: `n` for each role")
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"{self.n} candidates of a role at temperature 0 are all the same")
        if "on_fail" in self.model_fields_set and not (self.choose.verify or self.choose.checks):
            raise ValueError("`on_fail` has an effect with `verify` or `checks` only")
        return self

    @property
    def members(self) -> tuple[_Member, ...]:
        """The candidates in the order of the file."""
        if self.stages:
            return tuple(_Member(name, "") for name in self.stages)
        roles = [role for role in self.asked_roles for _ in range(self.n)]
        return tuple(
            _Member(f"candidate-{LETTERS[at]}", role, roles[:at].count(role)) for at, role in enumerate(roles)
        )

    @property
    def keeps_sources(self) -> bool:
        return self.over is not None and not self.stages

    @property
    def gives_data(self) -> bool:
        return super().gives_data or any(stage.gives_data for stage in self.stages.values())

    @property
    def judging(self) -> frozenset[str]:
        return frozenset({"choose.verify.judge.prompt", "choose.judge.prompt"})

    def inner(self) -> Mapping[str, Stage]:
        return self.stages

    def prompts(self) -> Iterator[PromptUse]:
        if self.asked_roles:
            yield from super().prompts()
        elif self.choose.shows_task:
            yield PromptUse("choose", self._task)
        yield from self.choose.prompts()
        yield from prompts_within(self)

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield from self.choose.expressions()
        yield from expressions_within(self)

    def roles(self) -> Iterator[tuple[str, str]]:
        for at, role in enumerate(self.asked_roles):
            yield f"roles.{at}", role
        yield from self.choose.roles()
        yield from roles_within(self)

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        yield from self.choose.schemas()
        yield from schemas_within(self)

    def tools_used(self) -> Iterator[tuple[str, str]]:
        if self.choose.function is not None:
            yield "choose.function", self.choose.function

    @property
    def _task(self) -> str:
        """The template of the task of inner stages, for a judge."""
        return "verify/task" if self.over is None else "verify/task-item"

    # The estimate.

    def _most_calls(self, items: int, within: Within | None) -> int | None:
        """Return the most calls of all candidates and of the choice."""
        if self.over is not None and any(stage.follows for stage in self.stages.values()):
            return None  # the number of items within an item is not known
        own = len(self.members) * (1 if self.output_schema is None else 2) if self.asked_roles else 0
        made = [(within or {}).get(name, stage.estimate.calls(stage, 1, None)) for name, stage in self.stages.items()]
        known = [calls for calls in made if calls is not None]
        if len(known) < len(made):
            return None
        of_one = own + sum(known) + self.choose.calls(len(self.members))
        return of_one if self.over is None else of_one * items

    def _supposed(self, chance: Chance) -> "BestOf":
        """Return the stage with as many candidates as are asked until one is sure."""
        changes: dict[str, Any] = {"choose": self.choose.supposed(chance), "on_fail": "answer"}
        count = len(self.members)
        if self.choose.stops_early and not (self.choose.verify and self.choose.verify.judge):
            asked = next((n for n in range(1, count) if not chance.worst and chance.happens(_PASSES)), count)
            if self.stages:
                changes["stages"] = dict(list(self.stages.items())[:asked])
            else:
                changes |= {"asked_roles": tuple(member.role for member in self.members[:asked]), "n": 1}
        return self.model_copy(update=changes)

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        if schema is None and self.choose.vote is not None:
            return f"{chance.text(tokens)[:-12]} answer: {chance.ballot(_PASSES)}"
        return plausible(self, step, schema, tokens, chance)

    # The work.

    async def once(self, ctx: StageContext) -> None:
        choice = await self.best(ctx, Question(await ctx.inputs.values()))
        taken = choice.candidate
        ctx.events.decided(taken.name, choice.reason, confidence=choice.confidence)
        ctx.outputs.give("text", as_text(taken.value))
        ctx.outputs.give("data", taken.data)
        ctx.outputs.give("confidence", choice.confidence)
        ctx.outputs.conclude(Conclusion(by=taken.by))

    def hand(self, ctx: StageContext) -> Hand:
        return _Choosing(self, ctx)

    async def shown(self, ctx: StageContext, item: Item, needed: Sequence[Item]) -> Attached | None:
        if self.stages:
            return None
        own = {"item": item.model_copy(update={"value": item.source}), "needed": list(needed)}
        variables = {**await ctx.inputs.values(), **own}
        return shown_in(ctx.inputs.render(self.template, variables), variables.get("material"))

    async def of_item(self, ctx: StageContext, item: Item, variables: dict[str, Any]) -> Item:
        """Return the item with the best candidate, and the decision on it."""
        choice = await self.best(ctx, Question(variables, item))
        taken = choice.candidate
        shown = taken.task if ctx.outputs.keeps_shown and self.asked_roles else None
        return item.worked(taken.value, taken.by, shown).model_copy(
            update={
                "by": taken.by or None,
                "route": taken.name,
                "reason": choice.reason,
                "confidence": choice.confidence,
            }
        )

    async def best(self, ctx: StageContext, question: Question) -> Choice:
        """Return the best candidate. Raises StageError if there is none."""
        choosing, members = chooser(ctx, question, self.choose), self._ordered(ctx)
        failures: list[FusionError] = []
        asked, came, wave, sure = 0, 0, choosing.at_first(len(members)), False
        while asked < len(members) and not sure and not any(isinstance(one, BudgetError) for one in failures):
            with optional() if came else nullcontext():
                made = await gathered(
                    self._candidate(ctx, question, one, failures) for one in members[asked : asked + wave]
                )
            asked, wave = min(asked + wave, len(members)), 1
            for candidate in (one for one in made if one is not None):
                came += 1
                sure = sure or await choosing.take(candidate, len(members) - asked)
        if not came:
            raise failures[0] if isinstance(failures[0], BudgetError) else StageError(_no_candidate(failures))
        choice = await choosing.chosen()
        if not choice.passed and self.on_fail == "fail":
            raise StageError(f"no candidate passed: {choice.reason.removeprefix('none passed: ')}")
        if not choice.passed:
            ctx.events.note(f"{choice.reason}; {choice.candidate.name} is taken", item=question.place)
        by = f", by {choice.candidate.by}" if choice.candidate.by else ""
        return choice._replace(reason=f"{choice.reason}; {came} of {len(members)} candidates{by}")

    def _ordered(self, ctx: StageContext) -> list[_Member]:
        """Return the candidates from the cheapest model on, those of unknown price last."""
        return sorted(self.members, key=lambda member: self._price(ctx, member))

    def _price(self, ctx: StageContext, member: _Member) -> tuple[bool, Decimal]:
        """Return the price of a candidate, of so many tokens, that of its dearest role; True if it is unknown."""
        roles = [member.role] if member.role else [role for _, role in self.stages[member.name].roles()]
        prices = [ctx.models.info(role).price for role in roles if ctx.models.plays(role)]
        known = [price.bound(1000, 1000) for price in prices if price is not None]
        return len(known) < len(prices), max(known, default=Decimal(0))

    async def _candidate(
        self, ctx: StageContext, question: Question, member: _Member, failures: list[FusionError]
    ) -> Candidate | None:
        """Return a candidate; None if it fails, or if the budget ends and the run finishes."""
        try:
            return await (self._answered(ctx, question, member) if member.role else self._ran(ctx, question, member))
        except BudgetError as error:
            if not ctx.finishing:
                raise
            failures.insert(0, error)
            ctx.events.note(f"{member.name} exceeds the budget", item=question.place)
        except (ModelError, StageError) as error:
            if isinstance(error, ModelError) and error.stops:
                raise
            failures.append(error)
            ctx.events.note(f"{member.name}: {error}", item=question.place)
        return None

    async def _answered(self, ctx: StageContext, question: Question, member: _Member) -> Candidate:
        ask = Ask(
            role=member.role,
            messages=ctx.inputs.render(self.template, question.variables),
            step=member.name,
            item=question.place,
            schema=ctx.inputs.schema("schema"),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            sample=member.sample,
        )
        answer = whole(await ctx.models.call(ask))
        task = shown_in(ask.messages, question.variables.get("material"))
        return Candidate(member.name, answer.value, answer.data, answer.by, task)

    async def _ran(self, ctx: StageContext, question: Question, member: _Member) -> Candidate:
        variables = None if question.item is None else question.variables
        outcome = await ctx.models.run_stage(member.name, variables)
        value = outcome.text if outcome.data is None else outcome.data
        task: Any = ""
        if self.choose.shows_task:
            messages = ctx.inputs.render(self._task, question.variables)
            task = shown_in(messages, question.variables.get("material"))
        return Candidate(member.name, value, outcome.data, "", task)


class _Choosing(Hand):
    """Takes the best candidate for each item."""

    def __init__(self, stage: BestOf, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        material = variables.get("material")
        if material:
            variables = {**variables, "material": without_notice(material)}
        return self._stage.of_item(self._ctx, item, variables)


def _no_candidate(failures: Sequence[FusionError]) -> str:
    return f"no candidate: {'; '.join(dict.fromkeys(map(str, failures)))}"
