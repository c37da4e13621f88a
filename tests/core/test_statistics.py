"""Statistics shared by several packages."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.core.statistics import quantile


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-6)


def test_a_quantile_of_money_is_money() -> None:
    assert quantile([Decimal("0.4"), Decimal("0.1"), Decimal("0.2")], 0.75) == Decimal("0.3")
