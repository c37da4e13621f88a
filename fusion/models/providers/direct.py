"""Models of providers and servers that Fusion asks by its own HTTP client."""

from collections.abc import Callable, Collection
from typing import Any

from fusion.core.config import Endpoint, secret, variable
from fusion.core.errors import AuthenticationError, UsageError
from fusion.models.base import Model, ModelInfo
from fusion.models.catalog import lookup
from fusion.models.providers.anthropic import AnthropicModel
from fusion.models.providers.doors import DOORS, Door
from fusion.models.providers.openai import OpenAIModel


def direct(
    model_id: str,
    *,
    info: ModelInfo | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    key_names: Collection[str] = (),
    thinks: bool | None = False,
    served_as: str | None = None,
) -> OpenAIModel | AnthropicModel:
    """Return a model of a provider in the table of doors, by its id there: `openai/gpt-5.6`, `anthropic/…`.

    `api_base` and `api_key` replace the provider's address and the key in the environment.

    Raises UsageError for a provider without a door.
    """
    provider, _, name = model_id.partition("/")
    door = DOORS.get(provider)
    if door is None or not name:
        raise UsageError(f"{model_id!r} is no model of {', '.join(sorted(DOORS))}; write it as provider/model")
    reading: dict[str, Any] = {"api_key": api_key, "key_names": key_names, "thinks": thinks, "served_as": served_as}
    found = lookup(model_id) if info is None else info
    key = _key_of(model_id, door) if api_key is None else (lambda: api_key)
    base = api_base or door.address
    if door.api == "anthropic":
        return AnthropicModel(name, found, base=base, key=key, **reading)
    headers = {header: value for header, named in door.headers if (value := variable(named)) is not None}
    own: dict[str, Any] = {"headers": headers, "caches": door.caches, "dialect": provider}
    return OpenAIModel(name, found, base=base, key=key, **own, **reading)


def of_endpoint(endpoint: Endpoint, info: ModelInfo, key_names: Collection[str]) -> OpenAIModel:
    """Return the model of a server of the user. Raises UsageError for a key that no header can hold."""
    named = endpoint.key_env
    if named is not None:
        secret(named)
    return OpenAIModel(
        endpoint.model,
        info,
        base=endpoint.api_base,
        key=(lambda: None) if named is None else (lambda: secret(named)),
        key_names=key_names,
        thinks=endpoint.thinks,
    )


def of_local(alias: str, api_base: str, info: ModelInfo) -> Model:
    """Return the model of a server of llama.cpp."""
    return OpenAIModel(alias, info, base=api_base, key=lambda: None)


def _key_of(model_id: str, door: Door) -> Callable[[], str]:
    """Return the reader of a provider's key. Raises UsageError for one that no header can hold, then and now."""
    secret(door.key)

    def key() -> str:
        found = secret(door.key)
        if found is None:
            raise AuthenticationError(f"{model_id!r} needs a key, and {door.key} is not set; set it", model=model_id)
        return found

    return key
