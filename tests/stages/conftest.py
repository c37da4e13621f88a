"""What the tests of stages share."""

from collections.abc import Iterator

import pytest

from fusion.models.retrying import Retrying


@pytest.fixture
def without_pauses() -> Iterator[None]:
    """Attempts follow each other at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrying, "_jitter", lambda self, number: 0.0)
        yield
