"""Hands: the tools that a model may call in the middle of its work, and the limits of their calls."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fusion.core.types import OnUnsure, ToolTerms
from fusion.core.validation import Authored


class ToolOptions(Authored):
    """Options of the tools of one name."""

    timeout: float | None = Field(default=None, gt=0, description="Seconds of a call at most; else the tool's own.")
    max_result: int = Field(
        default=2000, ge=16, le=250_000, description="Most tokens of a result; the rest is cut off, and that is said."
    )
    on_unsure: OnUnsure | None = Field(default=None, description="Replaces `on_unsure` of the stage.")


def _by_name(given: Any) -> Any:
    """Return options by name for a name, a list of names, or a mapping in which a name may have no options."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, (list, tuple)):
        if not all(isinstance(name, str) for name in given):
            raise ValueError("expected names of tools, or a mapping of names to options")
        if len(set(given)) < len(given):
            raise ValueError("a tool is named twice")
        return {name: {} for name in given}
    if isinstance(given, Mapping):
        return {name: {} if options is None else options for name, options in given.items()}
    return given


ToolNames = Annotated[
    dict[str, ToolOptions],
    BeforeValidator(_by_name, json_schema_input_type=str | tuple[str, ...] | dict[str, ToolOptions | None]),
]
"""Names of tools, each with its options: a list of names, or a mapping of names to options."""


class Hands(Authored):
    """Tools that a model may call before it answers, and the limits of the calls."""

    tools: ToolNames = Field(
        default={}, description="Tools that the model may call: names, or a mapping of names to options."
    )
    max_steps: int = Field(
        default=8,
        ge=2,
        le=200,
        description="Most calls of the model for an answer; it calls no tool in the last one.",
    )
    max_tool_calls: int = Field(default=16, ge=1, le=10_000, description="Most calls of tools for an answer.")
    parallel: int = Field(
        default=4, ge=1, le=100, description="Tools called at once; those that write are called one by one, in order."
    )
    on_unsure: Literal["ask", "repeat", "fail"] = Field(
        default="ask",
        description="A call that writes and was under way when the run was killed: ask a person, repeat it, or fail.",
    )

    @model_validator(mode="after")
    def _options_of_tools(self) -> "Hands":
        own = Hands.model_fields.keys() - {"tools"}
        given = [key for key in Hands.model_fields if key in own & self.model_fields_set]
        if given and not self.has_hands:
            raise ValueError(f"`{given[0]}` has an effect with `tools` only")
        return self

    @property
    def has_hands(self) -> bool:
        """True if the model may call tools."""
        return bool(self.tools)

    def terms(self, name: str) -> ToolTerms:
        """Return the terms of calls of the tools of a name."""
        options = self.tools[name]
        return ToolTerms(
            timeout=options.timeout,
            max_result=options.max_result,
            on_unsure=options.on_unsure or self.on_unsure,
        )

    @property
    def most_asked(self) -> int:
        """The most requests to models for an answer with tools: one that misses its form is repeated."""
        return 2 * self.max_steps
