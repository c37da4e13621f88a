"""The store in a PostgreSQL database."""

from collections.abc import Iterator

import pytest

from fusion.store.base import Store
from fusion.store.open import open_store
from tests.store.account_conformance import AccountConformance
from tests.store.conformance import SMALL, StoreConformance
from tests.store.map_conformance import MapConformance

pytestmark = pytest.mark.needs("initdb")


class TestPostgres(StoreConformance, MapConformance, AccountConformance):
    @pytest.fixture
    def store(self, database: str) -> Iterator[Store]:
        store = open_store(database)
        yield store
        store.close()

    @pytest.fixture
    def small(self, database: str) -> Iterator[Store]:
        store = open_store(database, cache_bytes=SMALL)
        yield store
        store.close()
