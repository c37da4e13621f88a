"""cascade: cheap models answer first; an answer that is not accepted goes to the next tier."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from fusion.core.budget import optional
from fusion.core.errors import BudgetError, ModelError, StageError
from fusion.core.params import Cacheable, Temperature
from fusion.core.schema import closed_object, enum, string
from fusion.core.types import JsonSchema, as_text
from fusion.core.validation import Authored
from fusion.stages.answer import extracted, failed_checks, give_answer, own_verdict
from fusion.stages.base import ExpressionUse, OutputField, Prompted, PromptUse, Shaped, whole
from fusion.stages.calibration import Calibration
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.fields import Texts, short_form
from fusion.stages.items import gathered
from fusion.stages.simulation import Chance, Estimate, plausible
from fusion.stages.text.checks import Checks
from fusion.stages.text.extract import Extractor, ExtractorSpec

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_RULES = "`agree`, `checks`, `judge` or `confidence`"
_SURE: JsonSchema = {"type": "number", "minimum": 0, "maximum": 1}
_JUDGED = closed_object({"problem": string(300), "verdict": enum(["accept", "escalate"]), "confidence": _SURE})


class Accept(Authored):
    """Conditions for accepting a tier's answer; all that are given must hold."""

    agree: int | None = Field(default=None, ge=2, le=len(_LETTERS), description="Answers that must be equal.")
    extract: ExtractorSpec = Field(default=Extractor(), description="Compared part of an answer.")
    checks: Checks | None = Field(default=None, description="Checks of an answer without a model.")
    judge: str | None = Field(default=None, description="The role that judges an answer.")
    judge_prompt: str = Field(default="cascade/judge", description="The template that asks for the judgement.")
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Confidence that its judge must state; without a judge, the model that answers.",
    )
    calibration: Calibration | None = Field(
        default=None, description="A calibrated threshold, in place of `confidence` and the number to `agree`."
    )

    @model_validator(mode="after")
    def _says_something(self) -> "Accept":
        if self.agree is None and self.checks is None and self.judge is None and self.confidence is None:
            raise ValueError(f"no condition for accepting an answer; give {_RULES}")
        if "extract" in self.model_fields_set and self.agree is None:
            raise ValueError("`extract` has an effect with `agree` only")
        if "judge_prompt" in self.model_fields_set and self.judge is None:
            raise ValueError("`judge_prompt` has an effect with `judge` only")
        if self.calibration is not None and self.agree is None and self.confidence is None:
            raise ValueError("`calibration` is of the number to `agree` or of the `confidence`; give one of them")
        if self.calibration is not None and self.agree is not None and self.confidence is not None:
            raise ValueError("`calibration` is of one number; give `agree` or `confidence`, not both")
        return self

    def supposed(self, chance: Chance) -> "Accept":
        """Return the rule as a quote simulates it: numbers are compared, and checks hold in 6 of 10 cases."""
        alone = self.agree is None and self.judge is None and self.confidence is None
        fails = self.checks is not None and alone and chance.happens(0.4)
        checks = Checks(contains=("\0",)) if fails else None
        return self.model_copy(update={"extract": Extractor(read="number"), "checks": checks})

    @property
    def stated(self) -> bool:
        """True if the model that answers must state its confidence."""
        return self.confidence is not None and self.judge is None

    @property
    def threshold(self) -> float | None:
        """The confidence at which an answer is accepted."""
        if self.confidence is None:
            return None
        return self.confidence if self.calibration is None else self.calibration.threshold

    def wanted(self, members: int) -> int:
        """Return the number of members that must agree."""
        if self.agree is None:
            return 1
        return self.agree if self.calibration is None else math.ceil(self.calibration.threshold * members - 1e-9)


class Tier(Authored):
    """A tier: roles, each with `samples` answers. Short form: one role alone."""

    roles: Texts = Field(min_length=1, max_length=len(_LETTERS), description="The roles that answer; one or a list.")
    samples: int = Field(default=1, ge=1, le=len(_LETTERS), description="Answers of each role.")
    temperature: Temperature = None
    accept: Accept | None = Field(default=None, description="Its conditions for an answer, in place of the stage's.")

    @property
    def members(self) -> tuple[str, ...]:
        """The role of each answer."""
        return tuple(role for role in self.roles for _ in range(self.samples))


AnyTier = Annotated[Tier, BeforeValidator(short_form("roles"), json_schema_input_type=str | Tier)]


class _Given(NamedTuple):
    """A member's answer, and the key of its compared part; None if it has no such part."""

    answer: Answer
    key: str | None
    confidence: float | None


class Verdict(NamedTuple):
    """The verdict on a tier: its answer, True if it is accepted, the reason, and the confidence."""

    answer: Answer | None
    accepted: bool
    reason: str
    confidence: float | None = None


class Cascade(Prompted, Shaped, Cacheable):
    """Calls tier after tier, from cheap to strong, until an answer is accepted; the last tier's is always taken.

    Fields: `text`, `data` with a `schema`, and `confidence`: the share of answers that agree, or the confidence that
    the judge or the model states.

    `accept` names the conditions: enough answers of the tier agree, checks hold, a judge accepts the answer, its
    confidence is high enough; all given ones must hold. With `early_stop` no call is made that cannot change the
    outcome: if two of three must agree and do, the third is not called. The tier and the reason are in an event and
    in the result; the receipt counts escalated cascades. `fusion.calibrate` finds a threshold for a target.
    """

    kind: Literal["cascade"] = "cascade"
    tiers: tuple[AnyTier, ...] = Field(min_length=2, max_length=9, description="The tiers, from cheap to strong.")
    accept: Accept | None = Field(default=None, description="Conditions for accepting a tier's answer.")
    early_stop: bool = Field(default=True, description="Make no call that cannot change the outcome.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    default_prompt: ClassVar[str] = "cascade/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"confident"})
    estimate: ClassVar[Estimate] = Estimate(
        cost="One call for each member of the first tier, and of the next ones if its answer is not accepted.",
        expects="Two answers of a tier agree in 6 of 10 runs; checks, a judge or a stated confidence accept 6 of 10.",
        shares={
            "verdict": {"accept": 0.6, "escalate": 0.4},
            "confidence": {1.0: 0.6, 0.0: 0.4},
        },
        example="""\
inputs: {question: A question.}
stages:
  answer:
    kind: cascade
    tiers: [{roles: bulk, samples: 3}, frontier]
    accept: {agree: 2, extract: number}
output: answer
""",
        calls=lambda stage, items, within: stage._most_calls(),
        supposed=lambda stage, chance: stage._supposed(chance),
        reply=lambda stage, *call: stage._reply(*call),
    )

    @model_validator(mode="after")
    def _every_tier_but_the_last_accepts(self) -> "Cascade":
        for number, tier in enumerate(self.tiers[:-1], start=1):
            accept = tier.accept or self.accept
            if accept is None:
                raise ValueError(f"no condition for accepting the answer of tier {number}; give `accept` {_RULES}")
            _check_members(number, len(tier.members), accept)
        if self.tiers[-1].accept is not None:
            raise ValueError("the answer of the last tier is always taken; leave out its `accept`")
        if len(self.tiers[-1].members) > 1:
            raise ValueError("the last tier has one answer; leave out its `samples` and give one role")
        return self

    def _accepts(self) -> Iterator[tuple[str, Accept]]:
        """Yield (key, rule) for every rule that is given."""
        if self.accept is not None:
            yield "accept", self.accept
        for at, tier in enumerate(self.tiers):
            if tier.accept is not None:
                yield f"tiers.{at}.accept", tier.accept

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        for key, accept in self._accepts():
            if accept.judge is not None:
                yield PromptUse(f"{key}.judge_prompt", accept.judge_prompt, frozenset({"candidate"}))

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        for key, accept in self._accepts():
            for name, source in accept.checks.expressions() if accept.checks is not None else ():
                yield ExpressionUse(f"{key}.{name}", source, frozenset({"value"}))

    def roles(self) -> Iterator[tuple[str, str]]:
        for at, tier in enumerate(self.tiers):
            for place, role in enumerate(tier.roles):
                yield f"tiers.{at}.roles.{place}", role
        for key, accept in self._accepts():
            if accept.judge is not None:
                yield f"{key}.judge", accept.judge

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        for key, accept in self._accepts():
            for name, schema in accept.checks.schemas() if accept.checks is not None else ():
                yield f"{key}.{name}", schema

    def _most_calls(self) -> int:
        """Return the most calls of all tiers."""
        calls = 0
        for tier in self.tiers:
            accept = tier.accept or self.accept
            shaped = self.output_schema is not None or (accept is not None and accept.stated)
            calls += len(tier.members) * (1 + shaped)
            calls += 2 if accept is not None and accept.judge is not None else 0
        return calls

    def _supposed(self, chance: Chance) -> "Cascade":
        tiers = [
            tier if tier.accept is None else tier.model_copy(update={"accept": tier.accept.supposed(chance)})
            for tier in self.tiers
        ]
        accept = None if self.accept is None else self.accept.supposed(chance)
        return self.model_copy(update={"tiers": tuple(tiers), "accept": accept})

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        if schema is not None:
            return plausible(self, step, schema, tokens, chance)
        return f"{chance.text(tokens)[:-12]} answer: {chance.ballot(math.sqrt(0.6))}"

    async def verdict(self, ctx: StageContext, number: int, variables: Mapping[str, Any]) -> Verdict:
        """Return the verdict on the tier of this number, counted from 1."""
        return await _Run(self, ctx, number, self.tiers[number - 1], variables).verdict()

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        best, taken = Verdict(None, False, ""), 0
        for number in range(1, len(self.tiers) + 1):
            try:
                with optional() if best.answer is not None else nullcontext():
                    verdict = await self.verdict(ctx, number, variables)
            except BudgetError:
                if best.answer is None or not ctx.finishing:
                    raise
                why = f"tier {number} exceeds the budget: the answer of the tier before is taken, though not accepted"
                ctx.events.note(why)
                best = best._replace(reason=why)
                break
            if verdict.answer is not None:
                best, taken = verdict, number
            if verdict.accepted:
                break
            ctx.events.note(f"tier {number}: {verdict.reason}")
        if best.answer is None:
            raise StageError(f"no tier has an answer; the last one: {verdict.reason}")
        ctx.events.decided(f"tier-{taken}", best.reason, confidence=best.confidence, escalated=taken > 1)
        give_answer(ctx, best.answer)
        ctx.outputs.give("confidence", best.confidence)


def _check_members(number: int, members: int, accept: Accept) -> None:
    if members > len(_LETTERS):
        raise ValueError(f"tier {number} has {members} members; the most are {len(_LETTERS)}")
    if accept.agree is not None and accept.agree > members:
        raise ValueError(f"{accept.agree} answers of tier {number} must agree, and it has {members}")
    if accept.agree is None and members > 1:
        raise ValueError(f"tier {number} has {members} answers; set `agree`, the number of them that must be equal")


class _Run:
    """One run of a tier."""

    def __init__(
        self, stage: Cascade, ctx: StageContext, number: int, tier: Tier, variables: Mapping[str, Any]
    ) -> None:
        self._stage = stage
        self._ctx = ctx
        self._number = number
        self._tier = tier
        self._variables = dict(variables)
        self._last = number == len(stage.tiers)
        self._rule = tier.accept or (None if self._last else stage.accept)
        self._checks = f"tiers.{number - 1}.accept.checks" if tier.accept is not None else "accept.checks"
        self._failures: list[str] = []

    async def verdict(self) -> Verdict:
        """Call the members, and return the verdict on their answers."""
        rule = self._rule
        if rule is None:
            return await self._only()
        given, agreeing = await self._asked(rule)
        if not given:
            return Verdict(None, self._last, f"no answer: {'; '.join(self._failures)}")
        chosen, reason = agreeing[0], ""
        wanted = rule.wanted(len(self._tier.members))
        confidence = chosen.confidence if rule.stated else len(agreeing) / len(given) if rule.agree else None
        if len(agreeing) < wanted:
            reason = f"{len(agreeing)} of {len(given)} answers agree, {wanted} must"
        elif flaws := await self._flaws(rule, chosen.answer.value):
            reason = "; ".join(flaws)
        elif rule.judge is not None:
            reason, confidence = await self._judged(rule, chosen.answer)
        if not reason and rule.threshold is not None and (confidence is None or confidence < rule.threshold):
            reason = f"a confidence of {confidence:g}, {rule.threshold:g} is needed"
        words = f"{len(agreeing)} of {len(given)} answers agree" if rule.agree else "accepted"
        return Verdict(chosen.answer, not reason or self._last, reason or words, confidence)

    async def _flaws(self, rule: Accept, value: Any) -> list[str]:
        return await failed_checks(self._ctx, rule.checks, value, self._variables, self._checks)

    async def _only(self) -> Verdict:
        given = await self._member(0, None)
        if given is None:
            return Verdict(None, False, "; ".join(self._failures))
        return Verdict(given.answer, True, "the last tier")

    async def _asked(self, rule: Accept) -> tuple[list[_Given], list[_Given]]:
        """Return all answers, and the largest group that agrees; the calls that are always needed run at once."""
        members = len(self._tier.members)
        wanted = rule.wanted(members) if self._stage.early_stop else members
        given, asked = await self._wave(0, wanted, rule), wanted
        agreeing = _largest(given)
        while asked < members and len(agreeing) < wanted <= len(agreeing) + members - asked:
            given += await self._wave(asked, asked + 1, rule)
            asked += 1
            agreeing = _largest(given)
        return given, agreeing

    async def _wave(self, first: int, behind: int, rule: Accept) -> list[_Given]:
        members = await gathered(self._member(at, rule) for at in range(first, behind))
        return [given for given in members if given is not None]

    async def _member(self, at: int, rule: Accept | None) -> _Given | None:
        stated = rule is not None and rule.stated
        step = f"tier-{self._number}-{_LETTERS[at]}"
        ask = Ask(
            role=self._tier.members[at],
            messages=self._ctx.inputs.render(self._stage.template, {**self._variables, "confident": stated}),
            step=step,
            schema=self._schema(stated),
            max_tokens=self._stage.max_tokens,
            temperature=self._tier.temperature,
            deltas=self._ctx.models.stream(step) if self._last and self._stage.output_schema is None else None,
            sample=self._tier.members[:at].count(self._tier.members[at]),
        )
        try:
            answer = whole(await self._ctx.models.call(ask))
        except ModelError as error:
            if error.stops or (self._last and rule is None):
                raise
            self._failures.append(str(error))
            self._ctx.events.note(f"{step}: {error}")
            return None
        confidence = None
        if stated:
            said, confidence = answer.data["answer"], float(answer.data["confidence"])
            answer = answer._replace(text=as_text(said), data=said if self._stage.output_schema is not None else None)
        found = None if rule is None else await extracted(self._ctx, rule.extract, answer.value)
        return _Given(answer, None if found is None else found.key, confidence)

    def _schema(self, stated: bool) -> JsonSchema | None:
        """Return the schema of an answer, with its confidence if that must be stated."""
        own = self._ctx.inputs.schema("schema")
        if not stated:
            return own
        return closed_object({"answer": own or string(20_000), "confidence": _SURE})

    async def _judged(self, rule: Accept, answer: Answer) -> tuple[str, float | None]:
        """Return (reason against the answer, confidence of the judge); a failed judgement is never a pass."""
        assert rule.judge is not None
        messages = self._ctx.inputs.render(rule.judge_prompt, {**self._variables, "candidate": answer.value})
        step = f"tier-{self._number}-judge"
        try:
            ask = Ask(role=rule.judge, messages=messages, step=step, schema=_JUDGED)
            said = own_verdict(whole(await self._ctx.models.call(ask)), answer.value)
        except ModelError as error:
            if error.stops:
                raise
            return f"no judgement: {error}", None
        confidence = float(said.data["confidence"])
        if said.data["verdict"] == "accept":
            return "", confidence
        return f"{said.by!r} does not accept it: {said.data['problem'] or 'it gives no reason'}", confidence


def _largest(given: Sequence[_Given]) -> list[_Given]:
    """Return the largest group of equal answers, the first of equal groups; one without a key is alone."""
    groups: dict[str, list[_Given]] = {}
    for at, one in enumerate(given):
        groups.setdefault(f"={one.key}" if one.key is not None else f"?{at}", []).append(one)
    found = [group for name, group in groups.items() if name.startswith("=")]
    return max(found or list(groups.values()), key=len, default=[])
