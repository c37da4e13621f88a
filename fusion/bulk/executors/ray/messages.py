"""Messages: lines of JSON between the process of a map and the process that is connected to its Ray cluster."""

import json
from typing import Any, Final

from fusion.bulk.executors.base import Terms
from fusion.core.errors import FusionError, StoreError, UnfitError, UsageError, WorkerLostError
from fusion.core.types import Failure, Value

LONGEST: Final = 2**24
"""Bytes of the longest message."""
_KINDS: Final = {kind.__name__: kind for kind in (UsageError, UnfitError, StoreError, WorkerLostError)}


class Order(Value):
    """First message: the cluster, the store without its password, and the map to run.

    `concurrency` is the number of rows at once on all nodes.
    """

    address: str | None
    place: str
    concurrency: int
    terms: Terms


def line(**message: Any) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def error_of(data: dict[str, Any]) -> FusionError:
    """Return the error that ended the map on the cluster."""
    failure = Failure.model_validate(data)
    return _KINDS.get(failure.reason, FusionError)(failure.message)


def lost(reason: str) -> FusionError:
    """Return the error of a connection that ended before the rows did."""
    return WorkerLostError(
        f"the connection to the Ray cluster is lost ({reason}); finished rows are kept: start the cluster again if "
        "its head is gone, then the map with the same command"
    )
