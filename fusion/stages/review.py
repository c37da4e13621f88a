"""review: each item is checked, judged, revised where it has to be, and escalated where that does not help."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from fusion.checks import Checks
from fusion.errors import BudgetError, StageError
from fusion.stages.base import Ask, ExpressionUse, OutputField, PromptUse, StageContext
from fusion.stages.items import ItemStage
from fusion.types import Item, JsonSchema

__all__ = ["VERDICT_SCHEMA", "Review"]

VERDICT_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {
        "issues": {
            "type": "array",
            "maxItems": 5,
            "items": {
                "type": "object",
                "properties": {
                    "quote": {"type": "string", "maxLength": 200},
                    "problem": {"type": "string", "maxLength": 300},
                },
                "required": ["quote", "problem"],
                "additionalProperties": False,
            },
        },
        "verdict": {"type": "string", "enum": ["accept", "revise", "escalate", "reject"]},
    },
    "required": ["issues", "verdict"],
    "additionalProperties": False,
}


def _texts(given: object) -> object:
    return (given,) if isinstance(given, str) else given


@dataclass(frozen=True)
class _Verdict:
    """What was said of a value, and by whom: a model, or the checks."""

    verdict: str
    issues: list[dict[str, str]]
    by: str

    def __str__(self) -> str:
        said = [f"{i['problem']} ({i['quote']!r})" if i["quote"] else i["problem"] for i in self.issues]
        return "; ".join(said) or "no issue was named"


class Review(ItemStage):
    """Lets through what holds.

    Fields: `items` (accepted or revised; the rest failed, with the reason) and `verdicts`.

    First the free `checks`; then the reviewer's verdict: accept, revise, escalate or reject, with quoted issues. A
    value to revise goes back to the model that wrote it, `revisions` times at most; then `escalate_to` writes it
    anew, if it is given. A missing verdict is never a pass.
    """

    kind: Literal["review"] = "review"
    criteria: Annotated[tuple[str, ...], BeforeValidator(_texts, json_schema_input_type=str | tuple[str, ...])] = (
        Field(default=(), description="What a value has to hold, in words; one text or a list.")
    )
    checks: Checks | None = Field(default=None, description="What a value has to hold, checked without a model.")
    revisions: int = Field(default=1, ge=0, le=5, description="How often a value goes back to who wrote it.")
    revise_prompt: str = Field(default="review/revise", description="The template that asks for a revision.")
    escalate_to: str | None = Field(default=None, description="The role that writes anew what revisions do not mend.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True), OutputField("verdicts", feed=True))
    own_max_tokens: ClassVar[int] = 1000
    passes_on: ClassVar[bool] = True
    default_prompt: ClassVar[str] = "review/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"item", "criteria"})
    cost: ClassVar[str] = (
        "A call for each item that passes the `checks`; for each of its `revisions` two more, the revised value and "
        "its verdict; one more with `escalate_to`. Each is asked once more where it does not hold to its shape."
    )
    example: ClassVar[str] = """\
inputs: {text: "Notes, one on each line."}
stages:
  read: {kind: map, over: inputs.text.splitlines(), role: bulk, prompt: "Say it in a word: {{ item.source | fence }}"}
  check:
    kind: review
    over: read
    role: frontier
    checks: {max_length: 200}
    criteria: [It is one word., It says what the note says.]
    revisions: 1
output: check
"""

    def most_calls(self, items: int) -> int:
        answers = 1 + 2 * self.revisions + (self.escalate_to is not None)
        return items * answers * self.calls_of_an_answer(shaped=True)

    def _escalates(self) -> bool:
        return True

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        yield PromptUse("revise_prompt", self.revise_prompt, self.prompt_offers | {"issues"})

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self.checks is not None:
            for key, source in self.checks.expressions():
                yield ExpressionUse(key, source, frozenset({"item", "value"}))

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        if self.checks is not None:
            yield from self.checks.schemas()

    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        variables = {**variables, "criteria": self.criteria}
        for revision in range(self.revisions + 1):
            verdict = await self._verdict(ctx, item, {**variables, "item": item}, revision)
            if verdict.verdict != "revise" or revision == self.revisions:
                break
            item = await self._revised(ctx, item, variables, verdict, f"revise-{revision + 1}")
        if verdict.verdict in ("revise", "escalate") and self.escalate_to is not None:
            item = await self._revised(ctx, item, variables, verdict, "escalate", role=self.escalate_to)
            left = self._failed_checks(ctx, item, {**variables, "item": item})
            verdict = left or _Verdict("accept", [], self.escalate_to)
        _say(ctx, item, verdict)
        if verdict.verdict != "accept":
            raise StageError(f"not accepted ({verdict.verdict} by {verdict.by}): {verdict}")
        return item

    def unaffordable(self, ctx: StageContext, item: Item, error: BudgetError) -> Item:
        """A review is optional: what there is no money to judge goes on as it is, and that is said."""
        _say(ctx, item, _Verdict("unreviewed", [], "budget"))
        ctx.note("goes on without a review, the budget is used up", item=item.index)
        return item

    async def _verdict(self, ctx: StageContext, item: Item, variables: dict[str, Any], revision: int) -> _Verdict:
        failed = self._failed_checks(ctx, item, variables)
        if failed is not None:
            return failed
        step = f"verdict-{revision + 1}" if revision else "verdict"
        ask = self.ask(ctx, variables, step, item.index)._replace(schema=VERDICT_SCHEMA)
        answer = await self.answer(ctx, ask)
        return _Verdict(answer.data["verdict"], answer.data["issues"], answer.by)

    def _failed_checks(self, ctx: StageContext, item: Item, variables: dict[str, Any]) -> _Verdict | None:
        if self.checks is None:
            return None
        seen = {**variables, "value": item.value}
        failures = self.checks.failures(
            item.value, schema=ctx.schema("checks.schema"), evaluate=lambda source: ctx.evaluate(source, seen)
        )
        if not failures:
            return None
        return _Verdict("revise", [{"quote": "", "problem": failure} for failure in failures], "checks")

    async def _revised(
        self,
        ctx: StageContext,
        item: Item,
        variables: dict[str, Any],
        verdict: _Verdict,
        step: str,
        *,
        role: str | None = None,
    ) -> Item:
        variables = {**variables, "item": item, "issues": verdict.issues}
        ask = Ask(
            role=role or self.chosen_role(ctx, variables),
            model=None if role else item.by,
            messages=ctx.render(self.revise_prompt, variables),
            step=step,
            item=item.index,
            schema=ctx.schema_of(self.over),
            max_tokens=ctx.max_tokens_of(self.over),
            temperature=self.temperature,
        )
        answer = await self.answer(ctx, ask)
        return item.worked(answer.value, answer.by)


def _say(ctx: StageContext, item: Item, verdict: _Verdict) -> None:
    value = {"verdict": verdict.verdict, "issues": verdict.issues, "by": verdict.by}
    ctx.feed("verdicts").append(Item(index=item.index, source=item.source, value=value, by=verdict.by))
