"""Value: the base of what travels through a run, and the words that its fields choose from.

Money is a Decimal of US dollars. Times are seconds. Tokens are whole numbers.
"""

from collections.abc import Mapping
from copy import deepcopy
from decimal import Decimal
from typing import Any, Final, Literal, Self

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
        fields = type(self).__pydantic_fields__
        own = {name: value for name, value in self.__dict__.items() if name in fields}
        copied = type(self).__new__(type(self))
        _set(copied, "__dict__", {**(deepcopy(own) if deep else own), **(update or {})})
        _set(copied, "__pydantic_fields_set__", self.model_fields_set.union(update or ()))
        _set(copied, "__pydantic_extra__", None)  # no value has any
        _set(copied, "__pydantic_private__", self.__pydantic_private__ and dict(self.__pydantic_private__))
        return copied


_set: Final = object.__setattr__
