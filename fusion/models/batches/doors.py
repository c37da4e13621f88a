"""Doors of batches: which models have a batch API, and the way to it."""

from collections.abc import Callable
from typing import Any, Final

from fusion.core.config import Settings
from fusion.core.types import Request
from fusion.models.base import ModelInfo
from fusion.models.batches.anthropic import AnthropicBatches
from fusion.models.batches.base import BatchDoor
from fusion.models.batches.openai import OpenAIBatches
from fusion.models.batches.openrouter import OpenRouterBatches
from fusion.models.batches.provider import Check
from fusion.models.providers.direct import direct, of_endpoint
from fusion.models.providers.doors import door_of

_BATCHES: Final[dict[str, Callable[[Any, Check], BatchDoor]]] = {
    "anthropic": AnthropicBatches,
    "groq": OpenAIBatches,
    "openai": OpenAIBatches,
    "openrouter": OpenRouterBatches,
}
"""The batch APIs of providers that Fusion's own HTTP client asks."""
_GEMINI: Final = "gemini/"


def _anything(request: Request) -> None:
    """Let every request pass."""


def batch_door(info: ModelInfo, settings: Settings, check: Check = _anything) -> BatchDoor | None:
    """Return the batch API of a model; None if it has none, for which `no_batches` gives the reason.

    `check` raises for a request that the policy forbids. Raises UsageError for a key that no header can hold.
    """
    if no_batches(info, settings) is not None:
        return None
    named = frozenset(one.key_env for one in settings.endpoints.values() if one.key_env is not None)
    endpoint = settings.endpoints.get(info.id)
    if endpoint is not None:
        return OpenAIBatches(of_endpoint(endpoint, info, named), check)
    if info.id.startswith(_GEMINI):
        from fusion.models.batches.gemini import GeminiBatches

        return GeminiBatches(info, check, named)
    model = direct(info.id, info=info, key_names=named)
    return _BATCHES[info.id.partition("/")[0]](model, check)


def no_batches(info: ModelInfo, settings: Settings) -> str | None:
    """Return the reason why a model has no batch API; None if it has one."""
    endpoint = settings.endpoints.get(info.id)
    if endpoint is not None:
        return None if endpoint.batch else f"the endpoint {info.id!r} does not set `batch = true`"
    if info.local:
        return "an embedded model has no batch API"
    provider = info.id.partition("/")[0]
    is_gemini = info.id.startswith(_GEMINI)
    if (provider in _BATCHES and door_of(info) is None) or (is_gemini and info.mode not in (None, "chat")):
        return f"{info.id!r} is no chat model, and batches hold chat requests only"
    if provider not in _BATCHES and not is_gemini:
        return f"{info.provider!r} has no batch API that is spoken here; {', '.join(_providers())} have one"
    return None


def _providers() -> list[str]:
    return sorted([*_BATCHES, _GEMINI.rstrip("/")])
