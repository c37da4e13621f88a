"""Which parameters a model takes: from what the price file says of it, and what its provider takes at all."""

from collections.abc import Mapping
from typing import Any, Final

from fusion.models.base import ModelInfo

SAMPLING: Final = frozenset({"temperature", "top_p"})
OWN_SERVER: Final = frozenset({"thinking_budget"})
"""What servers of a user's own, which speak as OpenAI does, have no name for."""

_WHILE_REASONING: Final = "sampling/reasoning"
_SEEDLESS: Final = ("anthropic", "bedrock")
_OPENAI: Final = ("openai", "azure")
_COUNTING: Final = ("anthropic", "bedrock", "vertex_ai", "gemini", "openrouter")
"""Providers whose models may be told how many tokens to think with."""
_SIGNED: Final = ("bedrock", "sagemaker")
"""Providers that sign the body, so that nothing can be added to it."""


def refusals(provider: str, name: str, entry: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that a model of the price file does not take; of one that is not in it, nothing is known."""
    found: set[str] = set()
    reasons = bool(entry.get("supports_reasoning"))
    if entry.get("supports_sampling_params") is False:
        found |= SAMPLING
    elif provider in _OPENAI and reasons:
        found |= {_WHILE_REASONING} if entry.get("supports_none_reasoning_effort") else SAMPLING
    if provider in _SEEDLESS:
        found.add("seed")
    if provider in _SIGNED:
        found.add("extra")
    if (provider in _OPENAI and name.startswith(("gpt-5", "gpt-6"))) or (provider == "xai" and reasons):
        found.add("stop")
    if not reasons and entry and provider != "ollama":
        found.add("reasoning_effort")
    if not _counts_thinking(provider, name, entry, reasons):
        found.add("thinking_budget")
    return frozenset(found)


def _counts_thinking(provider: str, name: str, entry: Mapping[str, Any], reasons: bool) -> bool:
    if not entry:
        return True
    adaptive = entry.get("supports_adaptive_thinking") and not entry.get("supports_legacy_thinking")
    return reasons and provider in _COUNTING and not adaptive and not name.startswith("gemini-3")


def refused(model: ModelInfo, params: Mapping[str, Any]) -> frozenset[str]:
    """Those of these parameters that the model does not take, all of them together."""
    refuses = model.refuses
    if _WHILE_REASONING in refuses and params.get("reasoning_effort", model.effort) != "none":
        refuses |= SAMPLING
    return refuses & params.keys()
