"""Pairs: a judge compares two answers to one task twice, once in each order."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from fusion.core.schema import closed_object, enum, string
from fusion.core.types import JsonSchema
from fusion.core.validation import Authored
from fusion.stages.answer import own_verdict
from fusion.stages.base import whole
from fusion.stages.context import Ask, StageContext, Variables
from fusion.stages.fields import Texts

SIDES: Final = ("first", "second")
COMPARISON: Final[JsonSchema] = closed_object({"reason": string(400), "better": enum([*SIDES, "same"])})
"""Schema of a comparison of two answers."""
OF_COMPARISON: Final = frozenset({"task", "first", "second", "criteria"})
"""Variables of the template of a comparison."""


class Comparing(Authored):
    """A judge of pairs of answers. Short form: its role alone."""

    role: str = Field(description="The role that compares.")
    criteria: Texts = Field(default=(), description="Criteria for an answer, in words; one text or a list.")
    prompt: str = Field(default="best_of/compare", description="The template that asks for the better of two.")


def worth(said: Mapping[str, Any], place: int) -> float:
    """Return what a comparison says of the answer at this place, 0 or 1: 1 if it is better, 0.5 if both are alike.

    The mean of both orders is fair to both places: Zheng et al. 2023, arXiv:2306.05685.
    """
    better = said["better"]
    return 0.5 if better == "same" else float(better == SIDES[place])


class Pairs:
    """Compares answers in one run of a stage."""

    def __init__(self, ctx: StageContext, judge: Comparing) -> None:
        self._ctx = ctx
        self._judge = judge

    async def worth(
        self, one: Any, other: Any, variables: Variables, *, task: Any, item: int | None, step: str
    ) -> float:
        """Return the mean worth of the first answer against the other. Raises ModelError for a missing comparison."""
        forth = await self._said(one, other, variables, task, item, f"{step}-1")
        back = await self._said(other, one, variables, task, item, f"{step}-2")
        return (worth(forth, 0) + worth(back, 1)) / 2

    async def _said(
        self, first: Any, second: Any, variables: Variables, task: Any, item: int | None, step: str
    ) -> Mapping[str, Any]:
        seen = {**variables, "first": first, "second": second, "task": task, "criteria": self._judge.criteria}
        messages = self._ctx.inputs.render(self._judge.prompt, seen)
        ask = Ask(self._judge.role, messages, step, item=item, schema=COMPARISON)
        answer = whole(await self._ctx.models.call(ask))
        said: Mapping[str, Any] = own_verdict(own_verdict(answer, first), second).data
        return said
