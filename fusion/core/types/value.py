"""Value: the base of what travels through a run, and the words that its fields choose from.

Money is a Decimal of US dollars. Times are seconds. Tokens are whole numbers.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

JsonSchema = dict[str, Any]
JsonMode = Literal["schema", "object"]
FileKind = Literal["image", "pdf"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
Reuse = Literal["journal", "other run", "cache"]
OnOutage = Literal["wait", "fail"]
Hedge = Literal["off", "auto"]
Money = Decimal


class Value(BaseModel):
    """A frozen pydantic model that rejects undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy as pydantic does, without the cached properties of the original."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied
