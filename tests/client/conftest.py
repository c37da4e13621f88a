"""Models for tests of budgets."""

from decimal import Decimal

import pytest

from fusion import Price, Say, ScriptedModel, Usage


@pytest.fixture
def model() -> ScriptedModel:
    """A call costs ten cents, and at most that."""
    price = Price(input=Decimal(0), output=Decimal("0.01"))
    return ScriptedModel(
        lambda request: Say("fine", usage=Usage(input=1, output=10)), name="m/paid", price=price, respect_limit=False
    )
