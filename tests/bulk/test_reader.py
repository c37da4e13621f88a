"""Rows are read ahead within a bound on their number and on their size."""

from collections.abc import Iterator
from typing import Any

import pytest

from fusion.bulk.reader import RowReader
from fusion.bulk.sources import SourceRow
from fusion.core.types import File

MEGABYTE = "x" * 1_000_000
PDF = File(media_type="application/pdf", data=MEGABYTE.encode())


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("value", "most"),
    [
        (MEGABYTE, 8),
        (PDF, 8),
        ([MEGABYTE, {"part": MEGABYTE}], 4),
        (MEGABYTE * 20, 1),
        ("x", 16),
        (5, 16),
    ],
)
async def test_large_rows_are_read_a_few_at_a_time(value: Any, most: int) -> None:
    def rows() -> Iterator[SourceRow]:
        for number in range(40):
            yield SourceRow({"text": value}, f"row {number}")

    reader = RowReader(rows(), ahead=16)
    found: list[str] = []
    while some := await reader.some(64):
        assert len(some) <= most
        found += [row.where for row in some]
    assert found == [f"row {number}" for number in range(40)]
