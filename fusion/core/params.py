"""Parameters of a call, and the chain of models behind a role."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from fusion.core.types import Hedge, JsonSchema, Message, OnOutage, ToolSpec
from fusion.core.validation import Authored

_OURS: Final = {
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "messages": "prompt",
    "model": "chain",
    "reasoning_effort": "reasoning_effort",
    "response_format": "schema",
    "seed": "seed",
    "stop": "stop",
    "stream": "",
    "stream_options": "",
    "system": "prompt",
    "temperature": "temperature",
    "thinking": "thinking_budget",
    "top_p": "top_p",
}


_CHOICES: Final = ("n", "num_choices")


def _not_ours(extra: dict[str, Any]) -> dict[str, Any]:
    for name in extra:
        if name in _CHOICES:
            raise ValueError(f"{name!r} is no extra: a call has one reply; use `panel`, `vote` or items for several")
        if name in _OURS:
            own = _OURS[name]
            raise ValueError(f"{name!r} is no extra: " + (f"give it as `{own}`" if own else "Fusion sets it itself"))
    return extra


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Temperature = Annotated[float | None, Field(ge=0, le=2, description="Sampling temperature.")]
"""A sampling temperature; None is the provider's default."""


class Params(Authored):
    """Parameters of a request beside its messages. None leaves the provider's default."""

    temperature: Temperature = None
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Nucleus sampling: the share of probability to sample from."
    )
    seed: int | None = Field(
        default=None, description="Seed for repeatable sampling, as far as the provider supports it."
    )
    stop: Annotated[
        tuple[str, ...],
        BeforeValidator(_listed),
        WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}, "maxItems": 4}),
    ] = Field(default=(), max_length=4, description="Stop sequences: texts that end the answer.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="Effort of a reasoning model."
    )
    thinking_budget: int | None = Field(
        default=None,
        ge=1,
        description="Reasoning tokens, a part of `max_tokens`, for models that take such a budget.",
    )
    extra: Annotated[dict[str, Any], AfterValidator(_not_ours)] = Field(
        default={}, description="Further fields of the HTTP body, named as the provider does."
    )

    def params(self) -> dict[str, Any]:
        """Return the parameters that are set, by name."""
        found = {name: getattr(self, name) for name in PARAMS}
        return {name: value for name, value in found.items() if value not in (None, (), {})}


CacheMode = Literal["off", "run", "shared"]
"""Scope of cached replies: none ("off"), the same run ("run"), or all runs of the store ("shared")."""
_CACHE: Final = "Cache of equal requests: none (off), this run (run), or all runs of the store (shared)."


class Cacheable(Authored):
    """Settings of stages and runs whose replies can be cached."""

    cache: CacheMode | None = Field(default=None, description=_CACHE)


BatchMode = Literal["auto", "always", "off"]


class Resilience(Authored):
    """Settings of a call that fails or has to wait; they are no part of its request."""

    on_outage: OnOutage | None = Field(
        default=None,
        description="Calls while the last model of a chain is down: wait until it is back (wait, the default), or "
        "fail at once (fail).",
    )
    hedge: Hedge | None = Field(
        default=None,
        description="Late calls: ask the next model of the chain too and take the first answer (auto), or wait (off, "
        "the default).",
    )
    patience: float | None = Field(
        default=None,
        ge=0,
        description="Seconds for which a call is repeated while its last model refuses or is down; by default 300.",
    )

    batch: BatchMode | None = Field(
        default=None,
        description="Provider's batch, at a lower price and within a day: for runs with --batch (auto, the default), "
        "for every run (always), or never (off).",
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        description="Seconds from the first input of a stage after which calls still in a batch go to the live API.",
    )

    @model_validator(mode="after")
    def _is_in_a_batch(self) -> Self:
        if self.deadline is not None and self.batch == "off":
            raise ValueError("`deadline` is that of batches and has no effect with `batch: off`; leave one out")
        return self

    def resilience(self) -> dict[str, Any]:
        """Return the settings that are set, by name."""
        found = {name: getattr(self, name) for name in Resilience.model_fields}
        return {name: value for name, value in found.items() if value is not None}


PARAMS: Final = tuple(Params.model_fields)
"""Names of all parameters."""


NO_MODEL: Final = "none"
"""The chain of a role that no model plays. A stage that can do without passes its items on."""


def _some_models(chain: tuple[str, ...]) -> tuple[str, ...]:
    if not chain:
        raise ValueError("a chain without a model; give at least one, as in [provider/model]")
    twice = next((model for model in chain if chain.count(model) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is in the chain twice; list it once, since each model is retried anyway")
    if NO_MODEL in chain and len(chain) > 1:
        raise ValueError(f"{NO_MODEL!r} is no model to fall back to; write it alone, for a role without a model")
    return chain


class RoleSpec(Params, Resilience):
    """The models of a role, with their parameters. Short form: the id of one model.

    The first model gets each call; if it fails, the call falls back to the next, with an event. `none` is for a
    reviewer: items pass unreviewed.
    """

    chain: Annotated[tuple[str, ...], AfterValidator(_some_models)] = Field(
        description="Models as provider/model, or names of endpoints, in order of preference."
    )
    timeout: float | None = Field(default=None, gt=0, description="Seconds for one attempt of a call.")
    concurrency: int | None = Field(default=None, ge=1, description="Concurrent calls of this role, over all stages.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"chain": (given,)} if isinstance(given, str) else given


TOOL_CHOICES: Final = ("auto", "none", "required")
"""Choices of tools that name no tool."""
_OF_THE_ANSWER: Final = ("max_tokens", "tools", "tool_choice", "json_schema", "turns")
ANSWER_LIMITS: Final = frozenset({*PARAMS, "max_tokens"})
"""Options of an answer that every model takes: sampling, and the limit."""


class AnswerOptions(Params):
    """Options of the stage that writes the answer, for one run.

    `max_tokens` lowers the stage's own limit. `tools` are tools of the caller: the answer stage may call them, and
    the caller runs them. `tool_choice` is "auto", "none", "required" or the name of one. `json_schema` is the schema
    of the answer; an empty one asks for any JSON object. `turns` follow the messages of the stage: the calls of
    tools that it made, and their results.
    """

    max_tokens: int | None = Field(default=None, gt=0, description="Most output tokens of the answer.")
    tools: tuple[ToolSpec, ...] = Field(default=(), description="Tools of the caller.")
    tool_choice: str = Field(default="auto", description="Choice of tools: auto, none, required, or a name.")
    json_schema: JsonSchema | None = Field(default=None, description="Schema of the answer.")
    turns: tuple[Message, ...] = Field(default=(), description="Calls of tools and their results so far.")

    @model_validator(mode="after")
    def _tools_are_named_once(self) -> Self:
        names = [tool.name for tool in self.tools]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"two tools have the name {twice!r}; give each a name of its own")
        if self.tool_choice not in (*TOOL_CHOICES, *names):
            known = ", ".join(map(repr, names)) or "none is given"
            raise ValueError(f"`tool_choice` is {self.tool_choice!r}, and the tools are: {known}")
        if self.tool_choice == "required" and not names:
            raise ValueError("`tool_choice: required` needs `tools` to choose from")
        return self

    @model_validator(mode="after")
    def _turns_follow_each_other(self) -> Self:
        open_ones: dict[str, None] = {}
        for at, turn in enumerate(self.turns, start=1):
            if turn.role == "system":
                raise ValueError(f"turn {at} is a system message; turns are of user, assistant and tool")
            if turn.role == "tool":
                if turn.tool_call_id not in open_ones:
                    raise ValueError(f"turn {at} is the result of {turn.tool_call_id!r}, which no turn before calls")
                del open_ones[turn.tool_call_id]
                continue
            if open_ones:
                raise ValueError(f"turn {at} follows calls of tools without their results: {', '.join(open_ones)}")
            open_ones = {call.id: None for call in turn.tool_calls}
        if open_ones:
            raise ValueError(f"these calls of tools have no result: {', '.join(open_ones)}")
        if self.turns and self.turns[-1].role == "assistant":
            raise ValueError("the last turn is the assistant's; the model answers a turn of user or tool")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The options that are set, by name."""
        found = {**self.params(), **{name: getattr(self, name) for name in _OF_THE_ANSWER}}
        return {name: value for name, value in found.items() if value is not None and value not in ((), "auto")}

    @cached_property
    def terms(self) -> str:
        """The parameters and the limit as one text, equal for equal ones."""
        return json.dumps([self.params(), self.max_tokens], sort_keys=True)

    def only(self, names: Collection[str]) -> "AnswerOptions | None":
        """Return the options of these names; None if none of them is set."""
        given = self.given
        if given.keys() <= set(names):
            return self if given else None
        kept = {name: value for name, value in given.items() if name in names}
        return AnswerOptions.model_construct(**kept) if kept else None


class Defaults(Params, Cacheable, Resilience):
    """Defaults of every call, overridden by its role and its stage.

    A parameter that a model does not support is omitted for it.
    """

    max_tokens: int | None = Field(
        default=None, gt=0, description="Output limit of a call in tokens, reasoning included."
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds for one attempt of a call; by default 120, or 900 for local models.",
    )

    def over(self, other: "Defaults") -> "Defaults":
        """Return these defaults, with those of `other` for all that is unset here."""
        given = merged(self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True))
        return Defaults(**given) if other.model_fields_set else self


def merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Merge parameters of several levels, the first taking precedence; `extra` is merged by field."""
    found: dict[str, Any] = {}
    for level in reversed(levels):
        extra = {**found.get("extra", {}), **level.get("extra", {})}
        found |= level
        if extra:
            found["extra"] = extra
    return found
