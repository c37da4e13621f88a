"""What the tests of executors share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bulk.executors.site import Site, hastened
from tests.provider import Provider


@pytest.fixture
def site(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with a database; a test that uses it is marked `needs("initdb")`."""
    for module, name, seconds in hastened():
        monkeypatch.setattr(module, name, seconds)
    with Provider() as provider:
        made = Site(tmp_path, provider, database, monkeypatch)
        yield made
        made.close()
