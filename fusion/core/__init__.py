"""Core: the values, errors, events and settings that every other package imports."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def load(package: str, homes: Mapping[str, Sequence[str]], name: str) -> Any:
    """Return a public name of a package from its module, imported now. Raises AttributeError for any other name."""
    for home, names in homes.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
