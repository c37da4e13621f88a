"""map: one prompt for every item, many at once."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusion.core.errors import StageError
from fusion.core.types import Attached, Item
from fusion.stages.base import OutputField, shown_in
from fusion.stages.context import StageContext
from fusion.stages.fields import Choice, RoleChoice
from fusion.stages.hands.stage import HandedStage
from fusion.stages.items import ItemStage
from fusion.stages.simulation import Estimate
from fusion.stages.subtasks.checked import checked_value
from fusion.stages.subtasks.combine import is_brief, value_kind, value_schema
from fusion.stages.text.reading import (
    Reading,
    is_object,
    missing_in,
    with_missing,
    without_missing,
    without_notice,
)
from fusion.stages.text.sections import ranges


class Map(ItemStage, HandedStage):
    """Calls a model for each item. Field: `items`, each with the answer as its `value`.

    An item that needs results of earlier ones waits for them; its template reads them in `needed`. A subtask of a
    plan over long material reads the sections that it names. If they lack what it needs, it is worked once more
    with as many others.
    """

    kind: Literal["map"] = "map"
    role: RoleChoice = Field(
        default=(Choice(use="bulk"),), description="The role that is called.", validate_default=True
    )
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True),)
    works_sections: ClassVar[bool] = True
    default_prompt: ClassVar[str] = "map/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"item", "needed"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "A call for each item; one more if an answer does not match the `schema` at first, or for each "
            "continuation of a truncated text. With `tools`, up to `max_steps` for each item, twice for a model "
            "without functions."
        ),
        example="""\
inputs: {text: "Notes, one on each line."}
stages:
  read:
    kind: map
    over: inputs.text.splitlines()
    role: bulk
    schema: {who: string, what: string}
    prompt: |
      Who wants what in this note?
      {{ item.source | fence }}
output: read
""",
        calls=lambda stage, items, within: items * stage.calls_of_one(),
        items=lambda stage, items: items,
    )

    @property
    def keeps_sources(self) -> bool:
        return True

    @property
    def works_subtasks(self) -> bool:
        return self.output_schema is None

    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        reading = ctx.inputs.reading(item, needed) if self.reading == "item" else None
        worked, missing = await self._worked(ctx, item, variables, reading, "work")
        if reading is None or not missing:
            return worked
        more = reading.with_more("\n".join([*_words(item), missing]))
        if more is not None:
            numbers = ranges(set(more.numbers) - set(reading.numbers))
            ctx.events.note(f"not in its sections: {missing}; working it once more with {numbers}", item=item.index)
            worked, missing = await self._worked(ctx, item, variables, more, "work-2")
        if missing:
            raise StageError(f"the material has no section with what it needs: {missing}")
        return worked

    async def shown(self, ctx: StageContext, item: Item, needed: Sequence[Item]) -> Attached:
        given = item.model_copy(update={"value": item.source})
        material = ctx.inputs.material(item, needed) if self.reading == "item" else None
        own = {"item": given, "needed": list(needed), **({"material": material} if material else {})}
        variables = {**await ctx.inputs.values(), **own}
        ask = self.ask(ctx, variables, "work", item.index)
        return without_notice(shown_in(ask.messages, variables.get("material")))

    async def _worked(
        self, ctx: StageContext, item: Item, variables: dict[str, Any], reading: Reading | None, step: str
    ) -> tuple[Item, str]:
        """Return the worked item, and what its sections lack; empty if nothing."""
        kind = value_kind(item) if self.output_schema is None else None
        schema = ctx.inputs.schema("schema") if kind is None else value_schema(item)
        shaped, brief = is_object(schema), kind is not None and is_brief(item)
        if reading is not None:
            variables = {**variables, "material": reading.material(shaped=shaped, brief=brief)}
            schema = with_missing(schema) if schema is not None and shaped and not brief else schema
        ask = self.ask(ctx, variables, step, item.index)._replace(schema=schema)
        answer = await self.answer(ctx, ask)
        missing = "" if reading is None else missing_in(answer.text, answer.data)
        value = answer.value if reading is None else without_missing(answer.value)
        shown: Attached | None = None
        if kind is not None or ctx.outputs.keeps_shown:
            shown = without_notice(shown_in((*ask.messages, *answer.results), variables.get("material")))
        if kind is not None and not missing:
            value = checked_value(ctx, item, value, shown)
            missing = _left_open(item, value) if brief and reading is not None else ""
        return item.worked(value, answer.by, shown), missing


def _left_open(item: Item, value: dict[str, Any]) -> str:
    """Return the questions of a brief subtask that its values leave open; empty if none."""
    asked = {"value": item.source["instructions"], "other": item.source["other"]}
    return "; ".join(question for key, question in asked.items() if question and value.get(key) is None)


def _words(item: Item) -> list[str]:
    """Return title and instructions of a subtask."""
    source = item.source if isinstance(item.source, dict) else {}
    return [str(source.get(key, "")) for key in ("title", "instructions", "other")]
