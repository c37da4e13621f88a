"""Spec of tiers: the roles of each, and the conditions for accepting an answer."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, model_validator

from fusion.core.params import Cacheable, Temperature
from fusion.core.validation import Authored
from fusion.stages.base import OF_CHECKS, ExpressionUse, OutputField, PromptUse, Shaped
from fusion.stages.fields import Texts, short_form
from fusion.stages.items import OneOrMany
from fusion.stages.simulation import Chance
from fusion.stages.text.checks import Checks
from fusion.stages.text.extract import Extractor, ExtractorSpec
from fusion.stages.tiers.calibration import Calibration
from fusion.stages.tiers.patterns import LearnedAcceptance
from fusion.stages.verification.spec import Check

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
"""Names of the members of a tier."""
_RULES: Final = "`agree`, `checks`, `verify`, `judge`, `confidence` or `learned`"


class Accept(Authored):
    """Conditions for accepting a tier's answer; all that are given must hold."""

    agree: int | None = Field(default=None, ge=2, le=len(LETTERS), description="Answers that must be equal.")
    extract: ExtractorSpec = Field(default=Extractor(), description="Compared part of an answer.")
    checks: Checks | None = Field(default=None, description="Checks of an answer without a model.")
    verify: Check | None = Field(
        default=None, description="A check as of the kind verify, behind the `checks`: tests, a command, a judge."
    )
    judge: str | None = Field(default=None, description="The role that judges an answer.")
    judge_prompt: str = Field(
        default="cascade/judge",
        description="The template that asks for the judgement; cascade/judge-item of an item.",
    )
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Confidence that its judge must state; without a judge, the model that answers.",
    )
    calibration: Calibration | None = Field(
        default=None, description="A calibrated threshold, in place of `confidence` and the number to `agree`."
    )

    learned: LearnedAcceptance | None = Field(
        default=None,
        description="Accepted patterns of agreement, written by `fusion calibrate --learned`.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "Accept":
        if not (self.compares or self.checks or self.verify or self.judge is not None or self.confidence is not None):
            raise ValueError(f"no condition for accepting an answer; give {_RULES}")
        if "extract" in self.model_fields_set and not self.compares:
            raise ValueError("`extract` has an effect with `agree` only")
        if self.learned is not None and (self.agree is not None or self.confidence is not None):
            raise ValueError("`learned` takes the place of `agree` and `confidence`; give one of them")
        if "judge_prompt" in self.model_fields_set and self.judge is None:
            raise ValueError("`judge_prompt` has an effect with `judge` only")
        if self.calibration is not None and self.agree is None and self.confidence is None:
            raise ValueError("`calibration` is of the number to `agree` or of the `confidence`; give one of them")
        if self.calibration is not None and self.agree is not None and self.confidence is not None:
            raise ValueError("`calibration` is of one number; give `agree` or `confidence`, not both")
        return self

    def supposed(self, chance: Chance, *, shaped: bool = False) -> "Accept":
        """Return the rule as a quote simulates it: numbers or data are compared, and checks hold in 6 of 10 cases.

        Data never agrees in the worst case.
        """
        if self.learned is not None:
            groups = any(len(one) > 1 for row in self.learned.accepted for one in row.pattern.split("|"))
            return self.model_copy(update={"learned": None, "agree": 2 if groups else None}).supposed(
                chance, shaped=shaped
            )
        alone = self.agree is None and self.judge is None and self.confidence is None
        verify = self.verify if self.verify is not None and self.verify.judge is not None else None
        free = self.checks is not None or (self.verify is not None and verify is None)
        fails = free and alone and chance.happens(0.4)
        checks = Checks(contains=("\0",)) if fails else None
        if shaped or self.stated:
            extract = Extractor(pattern="(?!)") if chance.worst else Extractor()
        else:
            extract = Extractor(read="number")
        supposed = None if verify is None else verify.supposed(chance)
        return self.model_copy(update={"extract": extract, "checks": checks, "verify": supposed})

    @property
    def compares(self) -> bool:
        """True if the answers of the tier are compared with each other."""
        return self.agree is not None or self.learned is not None

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

    roles: Texts = Field(min_length=1, max_length=len(LETTERS), description="The roles that answer; one or a list.")
    samples: int = Field(default=1, ge=1, le=len(LETTERS), description="Answers of each role.")
    temperature: Temperature = None
    accept: Accept | None = Field(default=None, description="Its conditions for an answer, in place of the stage's.")

    @property
    def members(self) -> tuple[str, ...]:
        """The role of each answer."""
        return tuple(role for role in self.roles for _ in range(self.samples))


AnyTier = Annotated[Tier, BeforeValidator(short_form("roles"), json_schema_input_type=str | Tier)]


class Tiered(OneOrMany, Shaped, Cacheable):
    """A stage that asks tier after tier."""

    tiers: tuple[AnyTier, ...] = Field(min_length=2, max_length=9, description="The tiers, from cheap to strong.")
    accept: Accept | None = Field(default=None, description="Conditions for accepting a tier's answer.")
    early_stop: bool = Field(default=True, description="Make no call that cannot change the outcome.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    default_prompt: ClassVar[str] = "cascade/default"
    item_prompt: ClassVar[str] = "cascade/item"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"confident"})

    @model_validator(mode="after")
    def _every_tier_but_the_last_accepts(self) -> "Tiered":
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

    def judge_prompt(self, accept: Accept) -> str:
        """Return the template for the judge of a rule: its own, or the shipped one."""
        own = self.over is None or "judge_prompt" in accept.model_fields_set
        return accept.judge_prompt if own else "cascade/judge-item"

    @property
    def judging(self) -> frozenset[str]:
        return frozenset(f"{key}.verify.judge.prompt" for key, _ in self.accepts())

    def accepts(self) -> Iterator[tuple[str, Accept]]:
        """Yield (key, rule) for every rule that is given."""
        if self.accept is not None:
            yield "accept", self.accept
        for at, tier in enumerate(self.tiers):
            if tier.accept is not None:
                yield f"tiers.{at}.accept", tier.accept

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        for key, accept in self.accepts():
            if accept.judge is not None:
                yield PromptUse(f"{key}.judge_prompt", self.judge_prompt(accept), frozenset({"candidate"}))
            if accept.verify is not None:
                yield from accept.verify.prompts(f"{key}.verify")

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        for key, accept in self.accepts():
            for name, source in accept.checks.expressions() if accept.checks is not None else ():
                yield ExpressionUse(f"{key}.{name}", source, OF_CHECKS)
            if accept.verify is not None:
                yield from accept.verify.uses(f"{key}.verify")
            if accept.learned is not None and accept.learned.label is not None:
                yield ExpressionUse(f"{key}.learned.label", accept.learned.label)

    def roles(self) -> Iterator[tuple[str, str]]:
        for at, tier in enumerate(self.tiers):
            for place, role in enumerate(tier.roles):
                yield f"tiers.{at}.roles.{place}", role
        for key, accept in self.accepts():
            if accept.judge is not None:
                yield f"{key}.judge", accept.judge
            if accept.verify is not None:
                yield from accept.verify.roles(f"{key}.verify")

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        for key, accept in self.accepts():
            for name, schema in accept.checks.schemas() if accept.checks is not None else ():
                yield f"{key}.{name}", schema
            if accept.verify is not None:
                yield from accept.verify.schemas(f"{key}.verify")


def _check_members(number: int, members: int, accept: Accept) -> None:
    if members > len(LETTERS):
        raise ValueError(f"tier {number} has {members} members; the most are {len(LETTERS)}")
    if accept.agree is not None and accept.agree > members:
        raise ValueError(f"{accept.agree} answers of tier {number} must agree, and it has {members}")
    if accept.learned is not None:
        letters = {letter for one in accept.learned.patterns for letter in one.pattern.replace("|", "")}
        strange = sorted(letters - {*LETTERS[:members]})
        if strange:
            raise ValueError(f"`learned` names the member {strange[0]!r} of tier {number}, which has {members}")
        return
    if accept.agree is None and members > 1:
        raise ValueError(f"tier {number} has {members} answers; set `agree`, the number of them that must be equal")
