"""Messages: lines of JSON between the process of a map and the process that is connected to its Ray cluster."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from fusion.bulk.executors.base import RowEnd, Terms
from fusion.core.errors import FusionError, StoreError, UnfitError, UsageError
from fusion.core.types import Failure, Value

LONGEST: Final = 2**24
"""Bytes of the longest message."""
_KINDS: Final = {kind.__name__: kind for kind in (UsageError, UnfitError, StoreError)}


class Order(Value):
    """First message: the cluster, the store without its password, and the map to run.

    `concurrency` is the number of rows at once on a node.
    """

    address: str | None
    place: str
    concurrency: int
    terms: Terms


def line(**message: Any) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def as_data(end: RowEnd) -> list[Any]:
    """Return an end as JSON data."""
    failure = None if end.failure is None else end.failure.model_dump(mode="json")
    return [end.number, end.run_id, end.status, str(end.usd), failure]


def row_end(data: Sequence[Any]) -> RowEnd:
    """Return the end of a row from its data."""
    number, run_id, status, usd, failure = data
    return RowEnd(number, run_id, status, Decimal(usd), None if failure is None else Failure.model_validate(failure))


def error_of(data: dict[str, Any]) -> FusionError:
    """Return the error that ended the map on the cluster."""
    failure = Failure.model_validate(data)
    return _KINDS.get(failure.reason, FusionError)(failure.message)
