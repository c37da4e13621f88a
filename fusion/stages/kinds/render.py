"""render: a text from a template, without a model: sums, tables and JSON out of earlier results."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fusion.core.errors import StageError
from fusion.core.schema import validate
from fusion.core.schema.strict_json import loaded
from fusion.stages.base import OutputField, PromptUse, Shaped
from fusion.stages.context import StageContext
from fusion.stages.simulation import Estimate


class Render(Shaped):
    """Writes a text with a template, without a model. Fields: `text`, and `data` with `parse: json` or a `schema`.

    The template reads the inputs and every stage that it names; of a feed all items in their order, also failed ones
    (`work | selectattr("ok")` leaves these out). Filters beside those of Jinja: `sum` (exact, also for decimals and
    numbers in text), `decimals(2)`, `table` (Markdown) and `json`. With a `schema` the text is JSON that matches it.
    """

    kind: Literal["render"] = "render"
    template: str = Field(description="A template's name, or the template itself.")
    parse: Literal["text", "json"] = Field(default="text", description="`json` parses the text into `data`.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"))
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model.",
        example="""\
inputs: {notes: "Notes of invoices, one on each line."}
stages:
  read:
    kind: map
    over: inputs.notes.splitlines()
    role: bulk
    schema: {supplier: string, amount: number}
    prompt: "Who sent the invoice, and what is to be paid? {{ item.source | fence }}"
  answer:
    kind: render
    template: |
      {{ read | selectattr("ok") | map(attribute="value") | table }}

      Total: {{ read | selectattr("ok") | map(attribute="value.amount") | sum | decimals(2) }}
output: answer
""",
    )

    @model_validator(mode="after")
    def _a_schema_is_of_data(self) -> "Render":
        if self.output_schema is not None and self.parse == "text" and "parse" in self.model_fields_set:
            raise ValueError("`parse: text` makes no data for the `schema`; leave `parse` out")
        return self

    @property
    def gives_data(self) -> bool:
        return self.parse == "json" or super().gives_data

    def prompts(self) -> Iterator[PromptUse]:
        yield PromptUse("template", self.template, for_model=False)

    async def run(self, ctx: StageContext) -> None:
        text = await ctx.inputs.text(self.template, await ctx.inputs.values())
        data = self._data(text, ctx) if self.gives_data else None
        ctx.outputs.give("text", text)
        ctx.outputs.give("data", data)

    def _data(self, text: str, ctx: StageContext) -> Any:
        try:
            data = loaded(text)
        except (ValueError, RecursionError) as error:
            raise StageError(f"the rendered text is not JSON: {error}; write values with `| json`") from error
        schema = ctx.inputs.schema("schema")
        if schema is not None and (flaws := validate(data, schema)):
            raise StageError(f"the rendered data does not match the schema: {'; '.join(flaws[:5])}")
        return data
