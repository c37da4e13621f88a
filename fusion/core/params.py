"""On what terms a model is asked: the chain behind a role, and the parameters of a call."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

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


def _not_ours(extra: dict[str, Any]) -> dict[str, Any]:
    for name in extra:
        if name in _OURS:
            own = _OURS[name]
            raise ValueError(f"{name!r} is no extra: " + (f"give it as `{own}`" if own else "Fusion sets it itself"))
    return extra


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Temperature = Annotated[float | None, Field(ge=0, le=2, description="Sampling temperature.")]
"""A sampling temperature; None is the provider's default."""


class Params(Authored):
    """What a model is told beside the messages. None is the provider's own default."""

    temperature: Temperature = None
    top_p: float | None = Field(default=None, gt=0, le=1, description="Sample from so much of the probability.")
    seed: int | None = Field(default=None, description="Sample alike, as far as the provider can.")
    stop: Annotated[
        tuple[str, ...],
        BeforeValidator(_listed),
        WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}, "maxItems": 4}),
    ] = Field(default=(), max_length=4, description="Texts at which the answer ends.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="How much a reasoning model thinks."
    )
    thinking_budget: int | None = Field(
        default=None, ge=1, description="Tokens to think with, a part of `max_tokens`, for models that count them."
    )
    extra: Annotated[dict[str, Any], AfterValidator(_not_ours)] = Field(
        default={}, description="Further fields of the request's body, as the provider names them."
    )

    def params(self) -> dict[str, Any]:
        """Those that are given, by name."""
        found = {name: getattr(self, name) for name in PARAMS}
        return {name: value for name, value in found.items() if value not in (None, (), {})}


CacheMode = Literal["off", "run", "shared"]
"""Where a call's reply may come from, if the same was asked before: nowhere, the same run, all runs of the store."""
_CACHE: Final = "Answer the same request from: nowhere (off), this run, or all runs of the store (shared)."


class Cacheable(Authored):
    """What has calls whose replies may be found again."""

    cache: CacheMode | None = Field(default=None, description=_CACHE)


PARAMS: Final = tuple(Params.model_fields)
"""The names of all parameters."""


def _some_models(chain: tuple[str, ...]) -> tuple[str, ...]:
    if not chain:
        raise ValueError("a chain without a model; give at least one, as in [provider/model]")
    twice = next((model for model in chain if chain.count(model) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands in the chain twice; it is tried again by itself where that may help")
    return chain


class RoleSpec(Params):
    """The models behind a role, and how they are asked. Short form: one model alone.

    The first model is asked; where it cannot answer, the next one is, and the run says so.
    """

    chain: Annotated[tuple[str, ...], AfterValidator(_some_models)] = Field(
        description="Models as provider/model, or endpoints by name, in order of preference."
    )
    timeout: float | None = Field(default=None, gt=0, description="Seconds for one attempt of a call.")
    concurrency: int | None = Field(default=None, ge=1, description="Calls of this role at once, over all stages.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"chain": (given,)} if isinstance(given, str) else given


class Defaults(Params, Cacheable):
    """What holds for every call where neither its stage nor its role says otherwise.

    A parameter that a model does not take is left out for it.
    """

    max_tokens: int | None = Field(default=None, gt=0, description="Output limit of a call, thinking included.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds for one attempt of a call; else 120, and 900 for local models.",
    )

    def over(self, other: "Defaults") -> "Defaults":
        """These, and those of `other` where nothing is said here."""
        given = merged(self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True))
        return Defaults(**given) if other.model_fields_set else self


def merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of several levels, the first before all others; `extra` field by field."""
    found: dict[str, Any] = {}
    for level in reversed(levels):
        extra = {**found.get("extra", {}), **level.get("extra", {})}
        found |= level
        if extra:
            found["extra"] = extra
    return found
