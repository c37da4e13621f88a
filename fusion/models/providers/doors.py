"""Doors: how each provider is reached, at which address, with which key, and what it does not take.

Providers in the table speak OpenAI's or Anthropic's API, and are asked by Fusion's own HTTP client; so are the
servers of `[endpoints]` and the embedded models. All others are asked by litellm.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from fusion.core.config import Settings, Wire, variable
from fusion.core.types import FileKind
from fusion.models.base import ModelInfo

Api = Literal["openai", "anthropic"]


class Door(NamedTuple):
    """The way to one provider.

    `base` is its address, unless one of the variables `bases` gives another; `key` is the variable of its key.
    `headers` are further headers by the variables that hold them. `lacks` names what it never takes: parameters by
    name, and kinds of files. `caches` is True for a provider with `prompt_cache_key`.
    """

    api: Api
    base: str
    bases: tuple[str, ...]
    key: str
    headers: tuple[tuple[str, str], ...] = ()
    lacks: frozenset[str | FileKind] = frozenset()
    caches: bool = False

    @property
    def address(self) -> str:
        """The address in use."""
        return variable(*self.bases) or self.base


DOORS: Final[dict[str, Door]] = {
    "openai": Door(
        "openai",
        "https://api.openai.com/v1",
        ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        "OPENAI_API_KEY",
        headers=(("OpenAI-Organization", "OPENAI_ORGANIZATION"), ("OpenAI-Project", "OPENAI_PROJECT")),
        lacks=frozenset({"thinking_budget"}),
        caches=True,
    ),
    "anthropic": Door(
        "anthropic",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
        "ANTHROPIC_API_KEY",
        lacks=frozenset({"seed"}),
    ),
    "openrouter": Door(
        "openai",
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_BASE",),
        "OPENROUTER_API_KEY",
        headers=(("HTTP-Referer", "OR_SITE_URL"), ("X-Title", "OR_APP_NAME")),
    ),
    "groq": Door(
        "openai",
        "https://api.groq.com/openai/v1",
        ("GROQ_API_BASE",),
        "GROQ_API_KEY",
        lacks=frozenset({"thinking_budget", "pdf"}),
    ),
    "deepseek": Door(
        "openai",
        "https://api.deepseek.com/beta",
        ("DEEPSEEK_API_BASE",),
        "DEEPSEEK_API_KEY",
        lacks=frozenset({"pdf"}),
    ),
}

_CHAT: Final = (None, "chat")
"""Modes of models in the price file that have a chat API; litellm translates for the others."""


def door_of(info: ModelInfo) -> Door | None:
    """Return the door of a provider's model; None for one that only litellm reaches."""
    provider = info.id.partition("/")[0]
    return DOORS.get(provider) if info.mode in _CHAT else None


def wire_of(info: ModelInfo, settings: Settings) -> Wire:
    """Return the way by which a model is called."""
    endpoint = settings.endpoints.get(info.id)
    if endpoint is not None:
        return endpoint.wire or settings.wire
    return settings.wire if info.local or door_of(info) is not None else "litellm"


class Way(NamedTuple):
    """The way to one provider or server, in words for a list."""

    provider: str
    wire: str
    address: str
    key: str
    lacks: str


def ways(models: Iterable[ModelInfo], settings: Settings) -> list[Way]:
    """Return the ways to these models, one for each provider and wire."""
    return list(dict.fromkeys(_way(info, settings) for info in models))


def _way(info: ModelInfo, settings: Settings) -> Way:
    wire, endpoint = wire_of(info, settings), settings.endpoints.get(info.id)
    if endpoint is not None:
        lacks = ", ".join(sorted(info.refuses))
        return Way(info.id, wire, endpoint.api_base, endpoint.key_env or "none", lacks)
    if info.local:
        return Way("local", wire, "this machine", "none", ", ".join(sorted(info.refuses)))
    keys, door = ", ".join(info.keys) or "by litellm", door_of(info)
    if wire == "litellm" or door is None:
        return Way(info.provider, "litellm", "by litellm", keys, "")
    return Way(info.provider, wire, _address(door), door.key, ", ".join(sorted(door.lacks)))


def _address(door: Door) -> str:
    named = next((name for name in door.bases if variable(name)), None)
    return door.base if named is None else f"{door.address} ({named})"
