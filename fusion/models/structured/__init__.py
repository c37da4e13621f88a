"""Structured output: schemas for providers, and replies read, mended and checked by them."""

from fusion.models.structured.replies import (
    complete,
    form,
    read,
    reading,
    shaped,
    value_in,
    values_in,
)

__all__ = ["complete", "form", "read", "reading", "shaped", "value_in", "values_in"]
