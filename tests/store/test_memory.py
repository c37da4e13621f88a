"""The store in memory."""

from collections.abc import Iterator

import pytest

from fusion.store.base import Store
from fusion.store.memory import MemoryStore
from tests.store.conformance import SMALL, StoreConformance


class TestMemory(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = MemoryStore()
        yield store
        store.close()

    @pytest.fixture
    def small(self) -> Iterator[Store]:
        store = MemoryStore(cache_bytes=SMALL)
        yield store
        store.close()
