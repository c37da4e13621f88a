"""The store in a SQLite file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusion.store.base import Store
from fusion.store.opening import open_store
from tests.store.conformance import StoreConformance


class TestSqlite(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = open_store(tmp_path / "runs.db")
        yield store
        store.close()
