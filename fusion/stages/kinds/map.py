"""map: one prompt for every item, many at once."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from fusion.core.types import Item
from fusion.stages.answer import AnswerStage
from fusion.stages.base import OutputField
from fusion.stages.context import StageContext
from fusion.stages.fields import Choice, RoleChoice
from fusion.stages.items import ItemStage
from fusion.stages.simulation import Estimate


class Map(ItemStage, AnswerStage):
    """Calls a model for each item. Field: `items`, each with the answer as its `value`.

    An item that needs results of earlier ones waits for them; its template reads them in `needed`.
    """

    kind: Literal["map"] = "map"
    role: RoleChoice = Field(
        default=(Choice(use="bulk"),), description="The role that is called.", validate_default=True
    )
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True),)
    default_prompt: ClassVar[str] = "map/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"item", "needed"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "A call for each item; one more if an answer does not match the `schema` at first, or for each "
            "continuation of a truncated text."
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

    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        answer = await self.answer(ctx, self.ask(ctx, variables, "work", item.index))
        return item.worked(answer.value, answer.by)
