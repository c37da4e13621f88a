"""tool: one call of a tool, without a model."""

from typing import ClassVar, Literal

from pydantic import Field

from fusion.stages.hands.calling import Calling
from fusion.stages.simulation import Estimate


class ToolStage(Calling):
    """Calls a tool once or, with `over`, once for each item. Fields: `text` and `data`, or `items`.

    An item has the data of the result as its `value`, or its text if it has no data. A call that fails is a failure
    of the stage or item, and is made again when the run is resumed.
    """

    kind: Literal["tool"] = "tool"
    tool: str = Field(min_length=1, description="The name of the tool.")

    called_key: ClassVar[str] = "tool"
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model.",
        example="""\
inputs: {city: A city.}
stages:
  weather: {kind: tool, tool: weather, arguments: {city: inputs.city, days: "3"}}
  answer:
    kind: generate
    role: bulk
    prompt: |
      Which day suits a walk?
      {{ weather.text | fence }}
output: answer
""",
        items=lambda stage, items: items,
    )

    @property
    def called(self) -> str:
        return self.tool
