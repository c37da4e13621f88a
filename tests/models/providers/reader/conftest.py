"""Fixtures of the reader's tests."""

from collections.abc import AsyncIterator

import pytest

from fusion.models.providers.litellm import close_all


@pytest.fixture
async def closing() -> AsyncIterator[None]:
    """Close the connections of the test's loop behind it."""
    yield
    await close_all()
