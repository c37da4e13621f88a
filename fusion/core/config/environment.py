"""Variables of the environment that name addresses and settings, and hold no secrets."""

import os
from typing import Literal, cast, get_args

from fusion.core.errors import UsageError

Wire = Literal["direct", "litellm"]
"""The way of calls to a provider that both can reach: Fusion's own HTTP client, or litellm."""


def variable(*names: str) -> str | None:
    """Return the value of the first of these variables that is set and not blank."""
    values = (os.environ.get(name, "").strip() for name in names)
    return next((value for value in values if value), None)


def wire_named(given: str | None) -> Wire | None:
    """Return the value of FUSION_WIRE; None if it is unset. Raises UsageError for another one."""
    if not given:
        return None
    if given not in get_args(Wire):
        raise UsageError(f"FUSION_WIRE is {given!r}: give `direct` or `litellm`, or unset it")
    return cast(Wire, given)
