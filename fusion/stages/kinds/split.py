"""split: a long text becomes chunks, each with its place in the text."""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fusion.core.bounded import clock
from fusion.core.errors import InputError
from fusion.core.types import Item
from fusion.stages.base import ExpressionUse, OutputField, Stage
from fusion.stages.context import StageContext
from fusion.stages.simulation import Estimate
from fusion.stages.text.chunks import By, Cutting, chunks

_AT_ONCE = 200
_LEAST = 16  # tokens of a chunk, however little room there is


class Split(Stage):
    """Cuts a text into chunks, without a model. Field: `items`, each with a chunk's text as its `value`.

    An item has `text`, `number` and `count` (chunk 3 of 12), `title` and `headings` (its place in the outline),
    `start` and `end` in characters of the text, `overlap` (its first characters that are also in the chunk before),
    `tokens`, and `before` and `after`, the words around it.

    A token counts as four bytes. No chunk has more than `size`, nor more than half of the room of a stage that reads
    the chunks. A longer paragraph or section is cut at a line, sentence or word if possible, never inside of a
    character. Without overlap the chunks add up to the text.
    """

    kind: Literal["split"] = "split"
    text: str = Field(description="The text to cut: an expression, such as inputs.document.")
    by: By = Field(default="paragraphs", description="The unit of a chunk: so many tokens, or a part of the text.")
    size: int = Field(default=1500, ge=_LEAST, le=1_000_000, description="Tokens of a chunk at most.")
    pack: bool = Field(default=False, description="Join neighbouring units while they fit into `size`.")
    separator: str | None = Field(default=None, min_length=1, description="End of a part, with `by: separator`.")
    overlap: int = Field(default=0, ge=0, description="Tokens of the chunk before that a chunk repeats.")
    around: int = Field(default=100, ge=0, le=10_000, description="Tokens of `before` and of `after` at most.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True),)
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model. A stage that follows it makes a call for each chunk.",
        example="""\
inputs: {document: A long text.}
stages:
  chunks: {kind: split, text: inputs.document, by: headings, size: 1000, pack: true}
  notes:
    kind: map
    over: chunks
    role: bulk
    prompt: |
      Note down what this part, {{ item.number }} of {{ item.count }}, says.
      {{ item.text | fence }}
  answer: {kind: merge, over: notes}
output: answer
""",
    )

    @model_validator(mode="after")
    def _keys_have_their_effect(self) -> "Split":
        if (self.by == "separator") != (self.separator is not None):
            raise ValueError("`by: separator` and `separator`, the text that ends a part, go together")
        if self.pack and self.by == "tokens":
            raise ValueError("`pack` has no effect with `by: tokens`, whose chunks are full")
        if self.overlap * 2 > self.size:
            raise ValueError(f"an overlap of {self.overlap} is more than half of the size, {self.size}")
        return self

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("text", self.text, worked_on=True)

    async def run(self, ctx: StageContext) -> None:
        from asyncio import sleep  # here: checking and drawing stages needs no event loop

        text = await ctx.inputs.value_of(self.text, await ctx.inputs.values())
        if not isinstance(text, str):
            raise InputError(f"`text: {self.text}` is {type(text).__name__}, not a text; name one, such as an input")
        if not text.strip():
            raise InputError(f"`text: {self.text}` is empty; give a text to split")
        cut = await clock.run(partial(chunks, text, self._cutting(ctx)), size=len(text))
        for index, chunk in enumerate(cut):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await sleep(0)  # let others work between the chunks of a long text
            ctx.outputs.feed("items").append(Item(index=index, source=chunk, value=chunk["text"]))
        ctx.outputs.grow(len(ctx.outputs.feed("items")), final=True)

    def _cutting(self, ctx: StageContext) -> Cutting:
        """Return the sizes of the cut: chunks take at most half of the room of their readers."""
        room = ctx.models.readable()
        size = self.size if room is None else max(min(self.size, room // 2), _LEAST)
        if size < self.size:
            ctx.events.note(
                f"chunks have at most {size:,} tokens, not {self.size:,}: their readers have room for {room:,}"
            )
        return Cutting(
            by=self.by,
            size=size,
            overlap=min(self.overlap, size // 2),
            pack=self.pack,
            separator=self.separator or "",
            around=self.around,
        )
