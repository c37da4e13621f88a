"""Ends of rows as they pass through a queue: JSON."""

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal

from fusion.bulk.executors.base import RowEnd
from fusion.core.types import Failure


def packed(ends: Iterable[RowEnd]) -> str:
    """Return ends as JSON."""
    return json.dumps([_data(end) for end in ends])


def unpacked(text: str) -> Iterator[RowEnd]:
    """Yield the ends that `packed` has written."""
    for number, run_id, status, usd, failure, seconds in json.loads(text):
        cause = None if failure is None else Failure.model_validate(failure)
        yield RowEnd(number, run_id, status, Decimal(usd), cause, seconds)


def _data(end: RowEnd) -> list[object]:
    failure = None if end.failure is None else end.failure.model_dump(mode="json", exclude_defaults=True)
    return [end.number, end.run_id, end.status, str(end.usd), failure, round(end.seconds, 4)]
