"""merge: many items become one answer."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fusion.core.params import PARAMS, AnswerOptions
from fusion.core.types import Item, as_text
from fusion.models.base import BYTES_PER_TOKEN, tools_bound
from fusion.stages.answer import AnswerStage
from fusion.stages.base import Following, OutputField, PromptUse, Reads
from fusion.stages.context import StageContext
from fusion.stages.fields import Enough
from fusion.stages.items import check_enough
from fusion.stages.simulation import Estimate
from fusion.stages.subtasks.combine import Combine, Computed, answer_of, combine_of, computed
from fusion.stages.subtasks.tree_merge import Levels

_OF_A_MODEL = frozenset(
    {
        "role",
        "prompt",
        "output_schema",
        "max_tokens",
        "escalate_to",
        "continuations",
        "continue_prompt",
        *PARAMS,
    }
)


class Merge(AnswerStage, Following):
    """Merges items: `llm` has a model write the answer, `concat` joins the values.

    Fields: `text`, and `data` with a `schema`. The template reads the usable `items` in their order, and the `failed`
    ones without a value.

    If the plan behind the items chose a combination of their values, code computes it: the template reads it as
    `computed` (`how`, `text`, `values`, `missing`), and if it is the whole answer, no model is called.

    `tree` is for more than the model can read at once. Neighbours are merged in the fewest calls, and the results
    again, until the rest fits into the stage's own call. Items that fit are merged as with `llm`.
    """

    kind: Literal["merge"] = "merge"
    strategy: Literal["llm", "concat", "tree"] = Field(
        default="llm", description="A model in one call, no model, or a model in levels."
    )
    separator: str = Field(default="\n\n", description="The text between two items, with `concat`.")
    level_prompt: str = Field(default="merge/level", description="The template of the levels, with `tree`.")
    max_input: int | None = Field(
        default=None, gt=0, description="Input tokens of a call, with `tree`; by default those of its model."
    )
    min_ok: Enough = Field(default=1, description="Items that must be usable, as a count or share.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    own_reads: ClassVar[Reads] = "none"
    combines: ClassVar[bool] = True
    own_max_tokens: ClassVar[int] = 4000
    default_prompt: ClassVar[str] = "merge/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"items", "failed"})
    prompt_extras: ClassVar[frozenset[str]] = frozenset({"computed"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "One call, whatever the number of items; one more if the answer does not match the `schema` at first. "
            "None with `strategy: concat`."
        ),
        example="""\
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
""",
        calls=lambda stage, items, within: stage._most_calls(items),
    )

    def _most_calls(self, items: int) -> int:
        """Return the most calls: the first level of a tree calls for every part, each later one for half as many."""
        return {"concat": 0, "llm": 1, "tree": 2 * items + 1}[self.strategy] * self.calls_of_one()

    @model_validator(mode="after")
    def _keys_have_their_effect(self) -> "Merge":
        given = self.model_fields_set
        if self.strategy == "concat" and (asked := sorted(_OF_A_MODEL & given)):
            names = ", ".join("schema" if name == "output_schema" else name for name in asked)
            raise ValueError(f"`strategy: concat` calls no model, so these have no effect: {names}")
        if self.strategy != "concat" and "separator" in given:
            raise ValueError("`separator` has an effect with `strategy: concat` only")
        if self.strategy != "tree" and (of_tree := sorted({"level_prompt", "max_input"} & given)):
            raise ValueError(f"these have an effect with `strategy: tree` only: {', '.join(of_tree)}")
        return self

    def prompts(self) -> Iterator[PromptUse]:
        if self.strategy != "concat":
            yield from super().prompts()
        if self.strategy == "tree":
            yield PromptUse("level_prompt", self.level_prompt, frozenset({"items", "words"}))

    def roles(self) -> Iterator[tuple[str, str]]:
        if self.strategy != "concat":
            yield from super().roles()

    @property
    def obeys(self) -> frozenset[str]:
        return frozenset() if self.strategy == "concat" else super().obeys

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        came = sorted([item async for item in ctx.inputs.follow(self.over)], key=lambda item: item.index)
        items = [item for item in came if item.ok]
        failed = [item for item in came if not item.ok]
        check_enough(came, self.min_ok)
        combine = combine_of(ctx.inputs.planned("combine"))
        result = None if combine is None else self._computed(ctx, combine, came)
        if self.strategy == "concat":
            ctx.outputs.give("text", self.separator.join(as_text(answer_of(item)) for item in items))
            return
        if combine is not None and combine.only and result is not None and not self._is_formed(ctx.answer):
            ctx.outputs.give("text", result.text)
            return
        variables = {"computed": None if result is None else result._asdict(), **variables}
        if self.strategy == "tree":
            beside = _beside(ctx.answer)
            levels = Levels(self, ctx, variables, prompt=self.level_prompt, most=self.max_input, beside=beside)
            items = await levels.brought_down(items, failed)
        await self.write(ctx, {**variables, "items": items, "failed": failed}, "merge")

    def _is_formed(self, options: AnswerOptions | None) -> bool:
        """Return True for an answer that a model has to write: one of a schema, by a tool, or after further turns."""
        own = self.output_schema is not None
        if options is None:
            return own
        asked = options.tool_choice not in ("auto", "none")
        return own or asked or options.json_schema is not None or bool(options.turns)

    def _computed(self, ctx: StageContext, combine: Combine, items: list[Item]) -> Computed | None:
        """Return the combination of the values; None, with a note, if it cannot be computed."""
        result = computed(combine.how, items)
        if result.done:
            ctx.events.decided(combine.how, f"computed from {result.values} values: {result.text[:200]}")
            return result
        why = f"no value of {', '.join(result.missing)}" if result.missing else f"{result.values} values"
        ctx.events.note(f"the {combine.how} is not computed: {why}")
        return None


def _beside(options: AnswerOptions | None) -> int:
    """Return the tokens that options of the run put beside the items in the last call."""
    if options is None:
        return 0
    schema = len(repr(options.json_schema)) if options.json_schema else 0
    turns = sum(message.size for message in options.turns)
    return -(-(tools_bound(options.tools) + schema + turns) // BYTES_PER_TOKEN)
