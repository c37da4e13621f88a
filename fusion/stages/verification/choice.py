"""Choice: the way in which the best of several candidates is found."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator

from fusion.core.validation import Authored
from fusion.stages.base import OF_CHECKS, ExpressionUse, PromptUse
from fusion.stages.fields import short_form
from fusion.stages.simulation import Chance
from fusion.stages.text.checks import Checks
from fusion.stages.text.extract import Extractor, ExtractorSpec
from fusion.stages.verification.pairs import OF_COMPARISON, Comparing
from fusion.stages.verification.spec import Check

_WAYS: Final = ("verify", "checks", "vote", "judge", "score", "function")
_SCORES: Final = ("score", "function")


class Choosing(Authored):
    """The way to choose among candidates: one of `verify`, `checks`, `vote`, `judge`, `score` and `function`."""

    verify: Check | None = Field(
        default=None, description="A check as of the kind verify; the first to pass is taken."
    )
    checks: Checks | None = Field(default=None, description="Checks without a model; the first to pass is taken.")
    vote: ExtractorSpec | None = Field(
        default=None, description="Part of an answer that is counted; the most frequent is taken."
    )
    judge: Annotated[
        Comparing | None, BeforeValidator(short_form("role"), json_schema_input_type=str | Comparing)
    ] = Field(default=None, description="A judge of pairs, each in both orders: a role, or more about it.")
    score: str | None = Field(
        default=None, description="An expression over `value`, or the `number` in it: the highest score is taken."
    )
    function: str | None = Field(
        default=None, description="A function `module:name` of an answer that returns its score."
    )
    enough: float | None = Field(default=None, description="The score from which no further candidate is asked for.")

    @model_validator(mode="after")
    def _is_one_way(self) -> "Choosing":
        given = [way for way in _WAYS if getattr(self, way) is not None]
        if len(given) != 1:
            both = f"both `{given[0]}` and `{given[1]}` choose" if given else "nothing chooses"
            raise ValueError(f"{both}; give one of {', '.join(f'`{way}`' for way in _WAYS)}")
        if self.enough is not None and given[0] not in _SCORES:
            raise ValueError("`enough` is a score: it has an effect with `score` or `function` only")
        return self

    @property
    def way(self) -> str:
        """The key of the way that is given."""
        return next(way for way in _WAYS if getattr(self, way) is not None)

    @property
    def stops_early(self) -> bool:
        """True if one candidate alone can be sure."""
        return self.verify is not None or self.checks is not None or self.enough is not None

    @property
    def shows_task(self) -> bool:
        """True if a judge reads the task."""
        return self.judge is not None or (self.verify is not None and self.verify.judge is not None)

    def calls(self, candidates: int) -> int:
        """Return the most calls that choose among so many candidates."""
        if self.judge is not None:
            return 4 * max(candidates - 1, 0)  # both orders, each reply repeated once if its shape is wrong
        return 0 if self.verify is None else candidates * self.verify.calls()

    def supposed(self, chance: Chance) -> "Choosing":
        """Return the way as a quote simulates it: none that stops early finds a sure one by its words."""
        if self.verify is not None and self.verify.judge is not None:
            return self.model_copy(update={"verify": self.verify.supposed(chance)})
        if self.vote is not None:
            return self.model_copy(update={"vote": Extractor(read="number")})
        if self.judge is not None:
            return self
        return Choosing.model_construct(checks=Checks(contains=("\0",)))

    def prompts(self) -> Iterator[PromptUse]:
        """Yield the templates of the way."""
        if self.verify is not None:
            yield from self.verify.prompts("choose.verify")
        if self.judge is not None:
            yield PromptUse("choose.judge.prompt", self.judge.prompt, OF_COMPARISON)

    def expressions(self) -> Iterator[ExpressionUse]:
        """Yield the expressions of the way."""
        if self.verify is not None:
            yield from self.verify.uses("choose.verify")
        if self.checks is not None:
            for key, source in self.checks.expressions("choose.checks"):
                yield ExpressionUse(key, source, OF_CHECKS)
        if self.score is not None:
            yield ExpressionUse("choose.score", self.score, OF_CHECKS)

    def roles(self) -> Iterator[tuple[str, str]]:
        """Yield (key, role) for each role that chooses."""
        if self.verify is not None:
            yield from self.verify.roles("choose.verify")
        if self.judge is not None:
            yield "choose.judge.role", self.judge.role

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        """Yield (key, schema) of the shapes that checks declare."""
        if self.verify is not None:
            yield from self.verify.schemas("choose.verify")
        if self.checks is not None:
            yield from self.checks.schemas("choose.checks")
