"""Parquet as INPUTS: types as JSON values, row groups, and what is no Parquet."""

import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion.bulk.sources import open_source
from fusion.core.errors import FusionError, InputError, UsageError


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["ü", None, ""]), ["ü", None, ""]),
        (pa.array([1, None, -3]), [1, None, -3]),
        (pa.array([1.5, None, float("nan")]), [1.5, None, None]),
        (pa.array([True, None, False]), [True, None, False]),
        (pa.array([Decimal("12.50"), None, Decimal("-0.10")]), [12.5, None, -0.1]),
        (pa.array([Decimal("12345678901234567890.12"), None]), ["12345678901234567890.12", None]),
        (pa.array([date(2026, 3, 1), None]), ["2026-03-01", None]),
        (pa.array([datetime(2026, 3, 1, 12, 30, tzinfo=UTC)]), ["2026-03-01T12:30:00+00:00"]),
        (pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")), ["2023-11-14T22:13:20.123456"]),
        (pa.array([time(12, 30)]), ["12:30:00"]),
        (pa.array([timedelta(minutes=2)]), [120.0]),
        (pa.array([["a", None], [], None]), [["a", None], [], None]),
        (pa.array([[{"d": date(2026, 3, 1)}]]), [[{"d": "2026-03-01"}]]),
        (pa.array([[1_700_000_000_123_456_789]], pa.list_(pa.timestamp("ns"))), [["2023-11-14T22:13:20.123456"]]),
        (pa.array([{"a": 1, "b": Decimal("2.5")}, None]), [{"a": 1, "b": 2.5}, None]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [{"k": 1}]),
        (pa.array([b"text", b"\xff\x00"]), ["text", "/wA="]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    ],
)
def test_values_become_json(tmp_path: Path, values: Any, expected: list[Any]) -> None:
    source = open_source(written(tmp_path / "t.parquet", {"value": values}))
    assert [row.values["value"] for row in source.rows()] == expected


def test_rows_come_in_order_from_all_groups(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", {"id": list(range(1000)), "text": ["x"] * 1000}, row_group_size=300)
    source = open_source(str(path))
    rows = source.rows()
    assert next(rows).where == f"{path} row 1"
    assert source.progress() == (1.0, 1000.0)
    assert [row.values["id"] for row in rows] == list(range(1, 1000))
    assert source.columns == ("id", "text")
    assert (source.identity, source.rewindable) == (str(path.resolve()), True)
    assert len(list(source.rows())) == 1000


def test_files_of_a_folder_are_read_one_after_the_other(tmp_path: Path) -> None:
    for number in range(3):
        written(tmp_path / f"part-{number}.parquet", {"id": [number]})
    for given in (tmp_path, tmp_path / "*.parquet", sorted(tmp_path.iterdir())):
        assert [row.values["id"] for row in open_source(given).rows()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is no Parquet file"),
        (b"a,b\n1,2\n", "is no Parquet file"),
        (b"PAR1" + b"\0" * 100 + b"PAR1", ""),
        (b"PAR1 and then text", "is no Parquet file"),
    ],
)
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, raw: bytes, says: str) -> None:
    (tmp_path / "t.parquet").write_bytes(raw)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / "t.parquet")
    assert says in str(caught.value)
    assert "t.parquet" in str(caught.value)


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    whole = written(tmp_path / "t.parquet", {"id": list(range(1000))}).read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match="is no Parquet file"):
        open_source(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(whole[:200] + b"\0" * 100 + whole[300:])
    with pytest.raises(FusionError):
        list(open_source(tmp_path / "t.parquet").rows())


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t.parquet", {"id": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"needs pyarrow, .*: run `pip install 'compound-fusion\[parquet\]'`"):
        open_source(path)
