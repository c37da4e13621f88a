"""What the tests of executors share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bulk.executors.site import Site, hasten
from tests.provider import Provider


@pytest.fixture
def site(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with a database; a test that uses it is marked `needs("initdb")`."""
    from fusion.bulk.executors import service, workers
    from fusion.store import slices
    from fusion.store.postgres import slices as queue

    for module in (service, workers, slices):
        monkeypatch.setattr(module, "BEAT", slices.BEAT)
    for module in (slices, queue):
        monkeypatch.setattr(module, "LATE", slices.LATE)
    hasten()
    with Provider() as provider:
        made = Site(tmp_path, provider, database, monkeypatch)
        yield made
        made.close()
