"""python: a function of the user's, without a model."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from fusion.core.types import Effect, ToolTerms
from fusion.stages.base import tool_pipeline
from fusion.stages.hands.calling import Calling
from fusion.stages.simulation import Estimate


class PythonStage(Calling):
    """Calls a Python function once or, with `over`, once for each item. Fields: `text` and `data`, or `items`.

    The function runs in a thread, or on the event loop if it is async. Its signature types the arguments; it returns
    text or JSON data. `[python] allow` in fusion.toml has to allow it. A call that fails, or raises an exception, is
    a failure of the stage or item, and is made again when the run is resumed.
    """

    kind: Literal["python"] = "python"
    function: str = Field(min_length=1, description="The function: `module:function`, or the name of an entry point.")
    effect: Effect | None = Field(
        default=None,
        description="`read` for a function that may be called again after a kill, `write` for another; by default as "
        "`[python] read` in fusion.toml says.",
    )
    max_result: int = Field(
        default=1_000_000, ge=16, le=5_000_000, description="Most tokens of a result; the rest is cut off, and said."
    )

    called_key: ClassVar[str] = "function"
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model.",
        example="""\
inputs: {orders: {description: A table of orders., format: csv}}
stages:
  totals: {kind: python, function: "shop.tools:totals", arguments: {orders: inputs.orders}, effect: read}
  answer:
    kind: generate
    role: bulk
    prompt: |
      Which months stand out?
      {{ totals.text | fence }}
output: answer
""",
        items=lambda stage, items: items,
    )

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, function: str) -> str:
        if tool_pipeline(function) is not None:
            raise ValueError(f"{function!r} is a pipeline; write a stage of the kind `pipeline`")
        return function

    @property
    def called(self) -> str:
        return self.function

    def terms(self) -> ToolTerms:
        return super().terms().model_copy(update={"effect": self.effect})
