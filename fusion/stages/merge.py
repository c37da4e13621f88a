"""merge: many items become one answer."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fusion.errors import StageError
from fusion.stages.base import ExpressionUse, OutputField, PromptUse, ShapedStage, StageContext
from fusion.types import as_text

__all__ = ["Merge"]


class Merge(ShapedStage):
    """Brings items together: `llm` has a model write the answer, `concat` puts them one after the other.

    Fields: `text`, and `data` where a `schema` is given. The template sees the usable `items` in their order,
    and in `failed` those that have no value.
    """

    kind: Literal["merge"] = "merge"
    over: str = Field(description="The items to bring together.")
    strategy: Literal["llm", "concat"] = Field(default="llm", description="Who writes the answer.")
    separator: str = Field(default="\n\n", description="What `concat` puts between two items.")
    min_ok: int = Field(default=1, ge=0, description="How many items must be usable.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    own_max_tokens: ClassVar[int] = 4000
    default_prompt: ClassVar[str] = "merge/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"items", "failed"})
    cost: ClassVar[str] = (
        "One call, whatever the number of items; one more where the answer does not hold to the `schema` at first. "
        "None with `strategy: concat`."
    )
    example: ClassVar[str] = """\
inputs: {text: "Chapters, a blank line between two."}
stages:
  sums: {kind: map, over: "inputs.text.split('\\n\\n')", role: bulk, prompt: "Sum up: {{ item.source | fence }}"}
  answer:
    kind: merge
    over: sums
    role: frontier
    prompt: |
      Make one summary of these.
      {% for item in items %}
      {{ item.value | fence }}
      {% endfor %}
output: answer
"""

    def most_calls(self, items: int) -> int:
        return self.calls_of_one() if self.strategy == "llm" else 0

    @model_validator(mode="after")
    def _concat_asks_nobody(self) -> "Merge":
        model_keys = {"role", "prompt", "output_schema", "max_tokens", "temperature", "escalate_to"}
        if self.strategy == "concat" and (given := sorted(model_keys & self.model_fields_set)):
            names = ", ".join("schema" if name == "output_schema" else name for name in given)
            raise ValueError(f"`strategy: concat` asks no model, so these have no effect: {names}")
        if self.strategy == "llm" and "separator" in self.model_fields_set:
            raise ValueError("`separator` has an effect with `strategy: concat` only")
        return self

    def prompts(self) -> Iterator[PromptUse]:
        if self.strategy == "llm":
            yield from super().prompts()

    def roles(self) -> Iterator[tuple[str, str]]:
        if self.strategy == "llm":
            yield from super().roles()

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("over", self.over, flows=True)

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.variables()
        came = sorted([item async for item in ctx.follow(self.over)], key=lambda item: item.index)
        items = [item for item in came if item.ok]
        failed = [item for item in came if not item.ok]
        if len(items) < self.min_ok:
            why = f"; the first: {failed[0].failure.message}" if failed and failed[0].failure else ""
            raise StageError(f"{len(items)} of {len(came)} items can be merged, {self.min_ok} are needed{why}")
        if self.strategy == "concat":
            ctx.give("text", self.separator.join(as_text(item.value) for item in items))
        else:
            await self.write(ctx, {**variables, "items": items, "failed": failed}, "merge")
