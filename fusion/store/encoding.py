"""Encoding: the JSON texts that rows of a store carry."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

Json = str
"""JSON data as text."""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is not JSON data")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
_ESCAPING: Final = json.JSONEncoder(separators=(",", ":"), default=_plain)


def as_json(data: Any) -> Json:
    """Return JSON; with escapes only if it holds a lone surrogate, which UTF-8 cannot encode."""
    text = _ENCODER.encode(data)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ESCAPING.encode(data)
    return text


def value_as_json(value: BaseModel, **options: Any) -> Json:
    """Return a value as JSON, with the options of `model_dump`."""
    try:
        return value.model_dump_json(**options)
    except PydanticSerializationError:  # it holds a lone surrogate
        return as_json(value.model_dump(mode="json", **options))
