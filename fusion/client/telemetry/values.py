"""Values of attributes: texts and numbers that every exporter can encode, whatever a model or a user wrote."""

import functools
from datetime import datetime
from typing import Final, NamedTuple

from fusion.client.telemetry.names import PROVIDERS

SHORT: Final = 2_000
"""Characters of a text that is no content."""


class ModelName(NamedTuple):
    """A model's id in the words of the conventions: its provider, and its name there."""

    provider: str
    name: str


@functools.lru_cache(maxsize=512)
def model_name(model_id: str) -> ModelName:
    """Return the provider and the name of a model.

    >>> model_name("gemini/gemini-3.5-flash")
    ModelName(provider='gcp.gemini', name='gemini-3.5-flash')
    """
    prefix, slash, name = model_id.partition("/")
    if not slash:
        prefix, name = model_id.partition(":")[0], model_id
    return ModelName(encodable(PROVIDERS.get(prefix, prefix)), encodable(name))


def encodable(text: str, limit: int = SHORT) -> str:
    """Return a text cut to `limit` characters, with a question mark in place of each lone surrogate."""
    if len(text) > limit:
        text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def nanoseconds(moment: datetime) -> int:
    """Return nanoseconds since 1970."""
    return int(moment.timestamp() * 1_000_000) * 1_000
