"""Foreign: what a user's own code raised, told without the keys that it may have let out."""

from fusion.errors import UsageError
from fusion.models.faults import told
from fusion.models.masks import Masks

__all__ = ["of_foreign"]


def of_foreign(what: str, error: Exception, advice: str = "") -> UsageError:
    """The error to raise for it, outside of the block that caught it: behind it stands a copy without keys."""
    mask = Masks().now()
    found = UsageError(f"{what}: {mask.text(f'{type(error).__name__}: {error}')}{advice}")
    found.__cause__ = told(error, mask)
    return found
