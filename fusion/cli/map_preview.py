"""Preview of a map."""

from typing import Any


def print_preview(fusion: Any, options: Any) -> None:
    raise NotImplementedError
